"""The autoregressive Longformer: what each head sees, what a state holds, and that windows are no part of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError
from formers.hub.differences import randomise
from formers.laws import certify
from formers.models.longformer_lm import PRESETS, LongformerLM, LongformerLMConfig, doubled
from formers.parts.positions import Positions

SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 24, "num_layers": 3, "num_heads": 3, "d_ff": 17,
    "windows": (2, 3, 4), "dilations": (1, 2, 3), "dilated_heads": 1,
}  # fmt: skip
EXACT = 1e-9
"""The same sums in another order, float64; measured 1e-14."""
VARIANTS = [{"places": "relative"}, {"places": "rotary"}, {"places": "none", "windows": 5, "dilations": 2}]


def model(seed: int = 1, **changes: Any) -> Any:
    made = formers.build("longformer_lm", **SIZES | changes).double().eval()
    randomise(made, seed)
    return made


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v["places"])
def test_it_keeps_every_law(variant: dict[str, Any]) -> None:
    report = certify(formers.build("longformer_lm", **SIZES | variant), length=23, fresh=True)
    assert report.ok, report.failed


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v["places"])
def test_in_blocks_it_is_the_mask_run_dense(variant: dict[str, Any]) -> None:
    """Forward and backward, also where rows are padded and hold several documents."""
    made, ids = model(**variant), text(2, 29)
    packed = Positions(
        torch.tensor([[-1] * 4 + [*range(25)], [*range(9), *range(17), -1, -1, -1]]),
        torch.tensor([[4] * 29, [1] * 9 + [2] * 20]),
    )
    for positions in (None, packed):
        found = []
        for runner in ("blocks", "dense"):
            for block in made.trunk.blocks:
                block["attention"].runner = runner
            made.zero_grad()
            logits = made(ids, positions=positions).logits
            (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
            found.append([logits.detach(), *(p.grad.clone() for p in made.parameters())])
        for ours, twin in zip(*found, strict=True):
            assert (ours - twin).abs().max() <= EXACT * twin.abs().max().clamp(min=1)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_head_sees_its_window_in_its_steps_and_nothing_else(layer: int) -> None:
    config = LongformerLMConfig(**SIZES)
    window, step = config.window_of_layers[layer], config.dilation_of_layers[layer]
    whole = Positions.whole(19)
    allowed = config.mask(layer).allows(whole.as_queries(), whole.as_keys()).expand(1, 3, 19, 19)[0]
    for head, every in ((0, 1), (1, 1), (2, step)):
        for i in range(19):
            keys = [i - m * every for m in reversed(range(window)) if i >= m * every]
            assert allowed[head, i].nonzero().flatten().tolist() == keys


def test_the_state_holds_a_window_however_long_the_text_is() -> None:
    made, ids = model(), text(2, 61)
    with torch.no_grad():
        whole = made(ids).logits
        state = made.init_state(2, 1000)
        assert [node[0].capacity for node in state.nodes] == [2, 5, 10]  # (window - 1) x dilation + 1
        for start in range(61):
            out = made(ids[:, start : start + 1], state=state)
            assert (out.logits[:, 0] - whole[:, start]).abs().max() <= EXACT
            state = out.state.commit()


def test_wider_windows_keep_the_weights(tmp_path: Path) -> None:
    made = formers.build("longformer_lm", **SIZES)
    formers.save(made, tmp_path)
    wider = formers.load(tmp_path, windows=doubled(made.config).windows)
    assert wider.config.window_of_layers == (4, 6, 8)
    assert doubled(LongformerLMConfig(**SIZES | {"windows": 3}), 2).windows == 12
    ids = text(1, 11)
    stored, read = made.state_dict(), wider.state_dict()
    assert all(torch.equal(stored[name], read[name]) for name in stored | read)
    assert (made.eval()(ids).logits - wider(ids).logits)[:, :2].abs().max() <= 1e-6  # the first tokens see all anyway
    assert (made(ids).logits - wider(ids).logits)[:, -1].abs().max() > 1e-6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"windows": (2, 3)}, "windows names 2 layers"),
        ({"windows": (2, 3, 0)}, "at least 1"),
        ({"dilations": (1, 1)}, "dilations names 2 layers"),
        ({"dilated_heads": 4}, "dilated_heads is 4 of 3"),
        ({"d_model": 27}, "sines"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LongformerLMConfig(**SIZES | changes)


@pytest.mark.parametrize(("preset", "millions"), [("small", 41), ("large", 102)])
def test_the_published_sizes_are_met(preset: str, millions: int) -> None:
    with torch.device("meta"):
        made = LongformerLM(LongformerLMConfig(**PRESETS[preset]))
    assert abs(sum(p.numel() for p in made.parameters()) / 1e6 - millions) < 1
