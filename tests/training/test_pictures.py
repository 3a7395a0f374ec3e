"""Pictures of a training: what is written when, that it changes nothing, and that a resumed run continues the series."""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import formers
from formers.comparison import heat
from formers.errors import ConfigError
from formers.parts.taps import listen
from formers.training import train
from formers.training.pictures import histogram
from tests.training import small


def run(out: Path, model: Any = None, *, resume: bool = False, view: Any = None, **changes: Any) -> Any:
    view = small.windows() if view is None else view
    settings, model = small.settings(**changes), small.gpt2() if model is None else model
    return train(model, settings, view, small.validation(), out=out, progress=False, resume=resume)


def drawn(out: Path) -> dict[int, dict[str, Any]]:
    folders = {int(folder.name.removeprefix("step-")): folder for folder in (out / "pictures").iterdir()}
    return {step: json.loads((folders[step] / "parameters.json").read_text()) for step in sorted(folders)}


def events(out: Path) -> str:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return "\n".join(row["message"] for row in rows if row["kind"] == "event")


def unpacked(data: bytes) -> np.ndarray:
    """The pixels of a grey PNG, read the slow way; checksums are checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 0)
    return np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)[:, 1:]


def test_they_are_taken_at_the_start_every_so_many_steps_and_at_the_end_and_change_nothing(tmp_path: Path):
    plain, pictured = run(tmp_path / "plain"), run(tmp_path / "run", pictures_every=4)
    assert small.digest(plain.model) == small.digest(pictured.model)
    assert not (tmp_path / "plain" / "pictures").exists()
    found = drawn(tmp_path / "run")
    assert list(found) == [0, 4, 6]
    named = dict(pictured.model.named_parameters())
    assert found[6]["parameters"].keys() == named.keys()
    for name, tensor in named.items():
        shown = found[6]["parameters"][name]
        assert sum(shown["counts"]) == tensor.numel()
        assert shown["mean"] == pytest.approx(tensor.mean().item(), abs=1e-6)
        assert shown["high"] == pytest.approx(tensor.max().item())
        assert shown["gradient_norm"] > 0
        assert found[0]["parameters"][name]["gradient_norm"] is None
    assert found[0]["parameters"] != found[4]["parameters"] != found[6]["parameters"]
    assert [layer["heads"] for layer in found[0]["attention"]] == [2, 2]


def test_what_is_drawn_is_what_the_model_attends_to_in_the_first_text_of_validation(tmp_path: Path):
    model = run(tmp_path / "run", pictures_every=100, steps=2).model.eval()
    picture = (tmp_path / "run" / "pictures" / "step-2" / "attention.svg").read_text()
    pngs = [unpacked(base64.b64decode(data)) for data in re.findall(r"base64,([^\"]+)", picture)]
    ids = torch.from_numpy(small.validation().batch(0).input_ids[:1]).long()
    document = torch.from_numpy(small.validation().batch(0).document[:1])
    with torch.no_grad(), listen(model, "*pattern") as seen:
        model(ids)
    assert len(pngs) == 4
    of_first = int(
        (document[0] == document[0, 0]).sum()
    )  # behind it another document may stand, which sees only itself
    for place, (pattern,) in enumerate(seen.values()):
        for head in range(2):
            wanted = 255 * (1 - pattern[0, head, :of_first, :of_first].sqrt().numpy())
            assert np.abs(pngs[2 * place + head][:of_first, :of_first] - wanted).max() <= 1
    assert all(name in picture for name in seen)
    assert "Rows: tokens, 64 at most." in picture


def test_a_resumed_run_continues_the_series_and_drops_what_lay_ahead(tmp_path: Path):
    out = tmp_path / "run"
    run(out, pictures_every=2, steps=4, checkpoint_every=2)
    whole = drawn(out)
    shutil.rmtree(out / "checkpoints" / "step-4")
    (out / "pictures" / "step-4" / "parameters.json").write_text("{}")
    (out / "pictures" / "step-3").mkdir()
    run(out, pictures_every=2, steps=4, checkpoint_every=2, resume=True)
    again = drawn(out)
    assert list(again) == [0, 2, 4]
    assert again == whole


def test_a_model_without_attention_has_histograms_alone_and_says_so(tmp_path: Path):
    model = formers.build("wavenet", seed=0, vocab_size=257, d_model=24, num_layers=2)
    run(tmp_path / "run", model, pictures_every=5, steps=1)
    assert {path.name for path in (tmp_path / "run" / "pictures" / "step-1").iterdir()} == {"parameters.json"}
    assert drawn(tmp_path / "run")[1]["attention"] == []
    assert events(tmp_path / "run").count("shows no attention") == 1


def test_a_model_that_carries_its_state_is_drawn_too(tmp_path: Path):
    sizes: dict[str, Any] = {"vocab_size": 257, "d_model": 24, "num_layers": 2, "num_heads": 2, "d_ff": 48}
    model = formers.build("transformer_xl", seed=0, **sizes)
    view = small.streams()
    plain = run(
        tmp_path / "plain", formers.build("transformer_xl", seed=0, **sizes), view=view, carry_state=True, steps=3
    )
    pictured = run(tmp_path / "run", model, view=view, carry_state=True, steps=3, pictures_every=2)
    assert small.digest(plain.model) == small.digest(pictured.model)
    assert [layer["heads"] for layer in drawn(tmp_path / "run")[3]["attention"]] == [2, 2]


def test_numbers_that_are_not_finite_are_counted_apart():
    found = histogram(torch.tensor([0.0, 1.0, 1.0, float("nan"), float("inf")]), bins=2)
    assert (found["counts"], found["not_finite"], found["low"], found["high"]) == ([1, 2], 2, 0.0, 1.0)
    assert histogram(torch.full((3,), float("nan")))["counts"] == []
    one = histogram(torch.ones(5), bins=5)
    assert (one["counts"], one["low"], one["high"]) == ([0, 0, 5, 0, 0], 0.5, 1.5)


def test_shares_are_dark_and_none_is_white():
    assert unpacked(heat.png(np.array([[0.0, 0.25, 1.0]], np.float32))).tolist() == [[255, 128, 0]]
    assert "&lt;b&gt;" in heat.svg("<b>", [("layer", [np.eye(3, dtype=np.float32)])], ["a note"])


def test_fewer_than_none_is_refused():
    with pytest.raises(ConfigError, match="pictures_every is -1"):
        small.settings(pictures_every=-1)
