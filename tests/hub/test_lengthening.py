"""Short models made into long ones: short texts give what they gave, and every tensor comes from where it should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError
from formers.hub.differences import randomise
from formers.parts.positions import Positions

SIZES: dict[str, Any] = {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 9}
EXACT = 1e-9
"""The same sums in another order, float64; measured 1e-15."""


def model(name: str = "bert", **changes: Any) -> Any:
    made = formers.build(name, **SIZES | changes).double().eval()
    randomise(made, 1)
    return made


def text(batch: int, length: int) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", ["masked_token", "sequence", "choice", "token", "span", "pooler", "none"])
def test_a_text_that_fits_the_window_gives_what_it_gave(head: str) -> None:
    short, ids = model(head=head), text(2, 9)
    long = formers.lengthen(short, max_length=40, windows=16)
    positions = Positions(torch.tensor([[*range(9)], [*range(5), -1, -1, -1, -1]]))
    types = text(2, 9) % 2
    for given in ({}, {"positions": positions, "token_types": types}):
        gap = (long(ids, **given).logits - short(ids, **given).logits).abs()
        if given and head in ("masked_token", "token", "span", "none"):
            gap = gap[positions.present]
        assert gap.max() <= EXACT
    assert long(text(1, 40)).logits.isfinite().all()


def test_without_tiled_positions_it_would_not() -> None:
    """What the comparison above rests on can fail."""
    short, ids = model(), text(2, 9)
    long = formers.lengthen(short, max_length=40, windows=16)
    long.embedding.places.first = 3
    assert (long(ids).logits - short(ids).logits).abs().max() > 1e-3


def test_positions_are_copied_in_blocks_and_global_maps_from_the_others() -> None:
    short = model()
    long = formers.lengthen(short, max_length=23, windows=4)
    old, new = short.embedding.places.table.weight, long.embedding.places.table.weight
    assert torch.equal(new, torch.cat([torch.zeros_like(old[:1]), old, old, old[:5]]))
    for block in long.trunk.blocks:
        for ours, theirs in zip(
            block["attention"].project.parameters(), block["attention"].project_global.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
            assert ours is not theirs


def test_a_longformer_grows_longer_and_wider_behind_the_rows_that_no_text_reads() -> None:
    short, ids = model("longformer", windows=4), text(2, 9)
    long = formers.lengthen(short, max_length=20)
    assert (long(ids).logits - short(ids).logits).abs().max() <= EXACT
    old, new = short.embedding.places.table.weight, long.embedding.places.table.weight
    assert torch.equal(new, torch.cat([old, old[2:], old[2:4]]))
    assert formers.lengthen(short, windows=6).config.windows == 6


def test_a_decoder_is_given_wider_windows() -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "max_length"}
    narrow = formers.build("longformer_lm", **sizes, windows=3, dilations=1)
    wide = formers.lengthen(narrow, windows=6)
    assert wide.config.windows == 6
    assert all(torch.equal(a, b) for a, b in zip(narrow.parameters(), wide.parameters(), strict=True))


def test_a_t5_is_given_a_window_and_gives_what_it_gave_where_the_source_fits_it() -> None:
    sizes = {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_head": 7, "d_ff": 37}
    short = formers.build("t5", **sizes).double().eval()
    randomise(short, 1)
    long = formers.lengthen(short, windows=16)
    assert long.config.local_radius == 8
    assert formers.lengthen(short).config.local_radius == 127
    ids, source = text(2, 5), text(2, 10)
    kept = long(ids, source=source[:, :9]).logits - short(ids, source=source[:, :9]).logits
    assert kept.abs().max() <= EXACT
    beyond = long(ids, source=source).logits - short(ids, source=source).logits
    assert beyond.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("made", "asked", "says"),
    [
        (lambda: formers.build("gpt2", preset="nano"), {}, "a bert, a longformer"),
        (lambda: model(head="pair"), {}, "head 'pair'"),
        (lambda: model(activation="relu"), {}, "activation"),
        (lambda: model(head="token", classifier_dropout=0.5), {}, "classifier_dropout"),
        (lambda: model(), {"max_length": 5}, "more, not fewer"),
        (lambda: formers.build("longformer_lm", preset="nano"), {"max_length": 5}, "windows alone"),
        (lambda: formers.build("longformer_lm", preset="nano"), {}, "no windows"),
        (lambda: formers.build("t5", preset="nano"), {"max_length": 5}, "windows alone"),
        (lambda: formers.build("t5", preset="nano"), {"windows": 7}, "half of it before"),
    ],
)
def test_what_cannot_be_lengthened_says_so(made: Any, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        formers.lengthen(made(), **asked)
