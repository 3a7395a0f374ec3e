from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from formers.errors import WeightsError
from formers.weights import ByHead, Fuse, Ignore, Rename, Table, Tie, Transpose

TABLE = Table(
    rules=(
        Rename("tokens", "model.wte"),
        Transpose("map", "model.h.0.conv"),
        Fuse("qkv", ("model.q", "model.k", "model.v"), (4, 2, 2)),
    ),
    ties=(Tie("head", "tokens", "lm_head"),),
    ignored=(Ignore("*.mask", "a buffer"),),
    optional_prefix="model.",
    unprefixed=("lm_head",),
)
SHAPES = {
    name: torch.Size(shape) for name, shape in {"tokens": (7, 3), "map": (5, 3), "qkv": (8, 3), "head": (7, 3)}.items()
}


def theirs() -> dict[str, Tensor]:
    shapes = {"model.wte": (7, 3), "model.h.0.conv": (3, 5), "model.q": (4, 3), "model.k": (2, 3), "model.v": (2, 3)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_reading_renames_transposes_fuses_and_ties() -> None:
    stored = theirs()
    ours = TABLE.read(stored, SHAPES)
    assert ours["tokens"] is ours["head"]
    assert torch.equal(ours["tokens"], stored["model.wte"])
    assert torch.equal(ours["map"], stored["model.h.0.conv"].T)
    assert torch.equal(ours["qkv"], torch.cat([stored["model.q"], stored["model.k"], stored["model.v"]]))


def test_writing_what_was_read_gives_it_back() -> None:
    stored = theirs()
    back = TABLE.write(TABLE.read(stored, SHAPES))
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], tensor) and tensor.is_contiguous() for name, tensor in stored.items())


def test_query_key_and_value_of_each_head_come_apart_and_together_again() -> None:
    """Theirs: q, k and v of the first head, then of the second; two rows each."""
    rule = ByHead("ours", "theirs", num_heads=2)
    theirs = torch.tensor([100, 101, 110, 111, 120, 121, 200, 201, 210, 211, 220, 221])[:, None]
    (ours,) = rule.read([theirs])
    assert ours.flatten().tolist() == [100, 101, 200, 201, 110, 111, 210, 211, 120, 121, 220, 221]
    assert torch.equal(rule.write([ours])[0], theirs)
    with pytest.raises(WeightsError, match="theirs has 10 rows, which 2 heads do not divide"):
        rule.read([theirs[:10]])


def test_names_may_come_without_their_prefix_and_with_buffers() -> None:
    stored = theirs()
    short = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    ours = TABLE.read({**short, "h.0.mask": torch.ones(1), "lm_head": stored["model.wte"].clone()}, SHAPES)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in TABLE.read(stored, SHAPES).items())


def test_everything_that_is_wrong_is_listed_at_once() -> None:
    stored = theirs()
    del stored["model.wte"]
    stored |= {"extra": torch.zeros(2, 2), "model.h.0.conv": torch.zeros(3, 4), "model.k": torch.zeros(3, 3)}
    with pytest.raises(WeightsError, match="4 problems") as caught:
        TABLE.read(stored, SHAPES)
    for line in (
        "missing model.wte",
        "unknown extra",
        "map is (4, 3), the model's is (5, 3)",
        "model.k is (3, 3), the model's is (2, 3)",
    ):
        assert line in str(caught.value)


def test_a_tensor_of_other_rank_is_a_misfit_and_no_crash() -> None:
    with pytest.raises(WeightsError, match=r"map is \(3, 5, 1\), the model's is \(5, 3\)"):
        TABLE.read(theirs() | {"model.h.0.conv": torch.zeros(3, 5, 1)}, SHAPES)


def test_a_tie_that_does_not_hold_is_refused() -> None:
    with pytest.raises(WeightsError, match="lm_head differs from the tensor it is tied to"):
        TABLE.read(theirs() | {"lm_head": torch.zeros(7, 3)}, SHAPES)


def test_a_tensor_under_both_of_its_names_is_refused() -> None:
    stored = theirs()
    with pytest.raises(WeightsError, match=r"model\.wte and wte are the same tensor"):
        TABLE.read(stored | {"wte": stored["model.wte"]}, SHAPES)


def test_a_table_that_forgets_a_tensor_of_the_model_is_found_out() -> None:
    with pytest.raises(WeightsError, match="nothing was read for new"):
        TABLE.read(theirs(), SHAPES | {"new": torch.Size((1,))})
    with pytest.raises(WeightsError, match="the model has no qkv"):
        TABLE.read(theirs(), {name: shape for name, shape in SHAPES.items() if name != "qkv"})
    ours = TABLE.read(theirs(), SHAPES)
    with pytest.raises(WeightsError, match=r"unknown new") as caught:
        TABLE.write({name: tensor for name, tensor in ours.items() if name != "map"} | {"new": torch.zeros(1)})
    assert "missing map" in str(caught.value)


class Lazy(Mapping[str, Tensor]):
    """Counts which tensors were asked for, and how often."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.asked = tensors, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_each_tensor_is_asked_for_once_and_ignored_ones_never() -> None:
    stored = Lazy(theirs() | {"model.mask": torch.zeros(9)})
    TABLE.read(stored, SHAPES)
    assert sorted(stored.asked) == sorted(theirs())


def test_no_more_than_one_rules_tensors_are_held_twice() -> None:
    handed_out: list[weakref.ref[Tensor]] = []

    class Fresh(Lazy):
        def __getitem__(self, name: str) -> Tensor:
            tensor = super().__getitem__(name).clone()
            handed_out.append(weakref.ref(tensor))
            alive = sum(ref() is not None for ref in handed_out)
            assert alive <= 1 + 3  # the embedding, which is ours now, and the parts of one rule
            return tensor

    TABLE.read(Fresh(theirs()), SHAPES)
    assert len(handed_out) == 5


def test_problems_of_many_layers_share_a_line() -> None:
    layers = Table(tuple(Rename(f"b.{i}.w", f"h.{i}.w") for i in range(12)))
    stored = {f"h.{i}.w": torch.zeros(1) for i in (3, 5, 6)}
    with pytest.raises(WeightsError, match=r"9 problems\):\n    missing h\.0-2,4,7-11\.w\n  do"):
        layers.read(stored, {f"b.{i}.w": torch.Size((1,)) for i in range(12)})


def test_likeness_is_the_share_of_names_that_are_there() -> None:
    assert TABLE.likeness(theirs()) == 1.0
    assert TABLE.likeness(["wte", "lm_head", "q"]) == 0.4
    assert TABLE.likeness([]) == 0.0


def test_parts_of_a_model_are_read_and_written_as_far_as_they_go() -> None:
    stored = theirs()
    del stored["model.k"]
    ours, problems = TABLE.partial(stored)
    assert (sorted(ours), problems) == (["head", "map", "tokens"], ["missing model.k"])
    assert sorted(TABLE.partial_write(ours)) == ["model.h.0.conv", "model.wte"]
