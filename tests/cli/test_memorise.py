"""`formers memorise`, and `formers generate` with what it wrote: a folder that is damaged or of another model is one error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import formers as library
from formers.text import train_tokenizer
from tests.cli.commands import Formers
from tests.parity.harness import randomise

TEXT = "The otter sleeps by the river. " * 4


def folder_of(out: Path, seed: int = 0, **changes: object) -> Path:
    sizes = {"vocab_size": 257, "d_model": 16, "d_ff": 16, "segment_length": 16, "memory_size": 100, **changes}
    model = library.build("memorizing", preset="nano", **sizes)
    randomise(model, seed)
    return library.save(model, out, tokenizer=train_tokenizer("byte", [], 257))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "otter.txt").write_text(TEXT)
    (tmp_path / "more.txt").write_text("No otter here.")
    return folder_of(tmp_path / "model")


def test_a_text_is_memorised_and_a_prompt_goes_on_from_it(formers: Formers, model: Path) -> None:
    said = formers("memorise", model, "otter.txt", "more.txt", "--out", "memory")
    assert said.code == 0, said.err
    assert "read  139 tokens" in said.out
    assert "the oldest 23 gave way in block 1: --set memory_size=139 keeps all" in said.out
    asked = ("generate", model, "The ", "--temperature", 0, "--max-new-tokens", 30, "--num-samples", 2, "--json")
    alone, after = formers(*asked).json, formers(*asked, "--memory", "memory").json
    assert [row["ids"] for row in after] != [row["ids"] for row in alone]
    streamed = formers(*asked[:-3], "--memory", "memory")
    assert streamed.out == "The " + after[0]["text"] + "\n"
    again = ("memorise", model, "more.txt", "--out", "memory")
    assert "holds files already" in formers.refuses(*again)
    assert formers(*again, "--replace", "--json").json["tokens"] == 14


def test_what_cannot_be_memorised_or_remembered_is_refused(formers: Formers, model: Path, tmp_path: Path) -> None:
    assert "cannot be read" in formers.refuses("memorise", model, "nowhere.txt", "--out", "x")
    assert "has no memory" in formers.refuses("memorise", "gpt2.nano", "otter.txt", "--out", "x")
    assert formers("memorise", model, "otter.txt", "--out", "memory").code == 0
    asked = ("generate", model, "The ", "--max-new-tokens", 3, "--memory")
    assert "no memory folder" in formers.refuses(*asked, "nowhere")
    other = folder_of(tmp_path / "other", seed=1)
    assert "was memorised by a model with fingerprint" in formers.refuses("generate", other, "x", *asked[3:], "memory")
    assert "--beams" in formers.refuses(*asked, "memory", "--beams", 2)
    file = Path("memory/memory.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert f"has {len(whole) // 2:,} bytes" in formers.refuses(*asked, "memory")
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "its sha256 differs" in formers.refuses(*asked, "memory")
    file.write_bytes(whole)
    manifest = json.loads(Path("memory/memory.json").read_text())
    for name, value, said in (("d_key", 7, "d_key 7, not 8"), ("dtype", "bfloat16", "dtype bfloat16, not float32")):
        wrong = manifest | {"memories": {"block 1": manifest["memories"]["block 1"] | {name: value}}}
        Path("memory/memory.json").write_text(json.dumps(wrong))
        assert said in formers.refuses(*asked, "memory")
