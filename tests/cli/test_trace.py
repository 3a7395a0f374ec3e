"""`formers trace`: what it lists, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cli.commands import Formers

OWN = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(2, 3)
        self.twice = torch.nn.Linear(3, 3)

    def forward(self, input_ids):
        return self.twice(self.twice(self.table(input_ids)))

def net():
    return Net()
"""


def test_trace_lists_every_call_with_shapes_types_and_range(formers: Formers) -> None:
    found = formers("trace", "gpt2.nano", "--length", 7, "--json").json
    assert found[0]["name"] == "GPT2"
    assert found[0]["inputs"]["input_ids"]["shape"] == [1, 7]
    assert found[0]["inputs"]["input_ids"]["dtype"] == "int64"
    assert found[0]["outputs"]["logits"]["shape"][:2] == [1, 7]
    assert found[0]["outputs"]["logits"]["low"] < 0 < found[0]["outputs"]["logits"]["high"]
    names = [call["name"] for call in found]
    assert names.index("trunk.blocks.0.attention") < names.index("trunk.blocks.1.attention")
    attention = found[names.index("trunk.blocks.0.attention")]
    assert {"x", "positions.index"} <= set(attention["inputs"])
    said = formers("trace", "gpt2.nano", "--length", 7).out
    assert "trunk.blocks.0.attention  Attention" in said
    assert "[1, 7, 64]" in said


def test_a_pattern_chooses_and_tensors_are_written_whole(formers: Formers, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    asked = ["trace", "mine.py:net", "--length", 5, "--only", "twice"]
    found = formers(*asked, "--tensors", "seen.safetensors", "--json").json
    assert [call["name"] for call in found] == ["twice", "twice"]  # a module that is applied twice
    kept = load_file("seen.safetensors")
    assert set(kept) == {f"twice.{n}.{side}" for n in (0, 1) for side in ("in.input", "out.result")}
    assert torch.equal(kept["twice.0.out.result"], kept["twice.1.in.input"])
    assert found[1]["outputs"][""]["high"] == float(kept["twice.1.out.result"].max())
    assert len(formers(*asked).out.splitlines()) == 6


def test_trace_reads_a_text_with_the_tokenizer_of_a_run(formers: Formers, run: Path) -> None:
    found = formers("trace", run, "def f", "--only", "tokens", "--json").json
    assert found[0]["inputs"]["input"]["shape"] == [1, 5]
    assert 0 <= found[0]["inputs"]["input"]["low"] < found[0]["inputs"]["input"]["high"] <= 256


def test_trace_refuses_what_it_cannot_do(formers: Formers) -> None:
    assert "did you mean 'trunk.blocks.0.attention'" in formers.refuses(
        "trace", "gpt2.nano", "--only", "trunk.blocks.0.atention"
    )
    assert "has no tokenizer" in formers.refuses("trace", "gpt2.nano", "a text")
    assert "--length 0" in formers.refuses("trace", "gpt2.nano", "--length", 0)
    assert "there is no" in formers.refuses("trace", "gpt3.nano")
