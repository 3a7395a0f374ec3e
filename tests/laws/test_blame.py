"""The machinery that finds the first module to differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from formers.laws.blame import Call, at, everything, first_to_differ, first_where, in_row, joined, sequence_axis, traced


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor, *, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.inner(self.inner(x))
        return y, {"scaled": y * scale}


def test_every_call_is_recorded_innermost_first_with_named_arguments_and_nested_outputs() -> None:
    model = Twice()
    with traced(model) as calls:
        model(torch.ones(2, 3), scale=torch.ones(1))
    assert [call.name for call in calls] == ["inner", "inner", "Twice"]
    assert set(calls[2].inputs) == {".0.0", ".1.scale"}
    assert set(calls[2].outputs) == {".0", ".1.scaled"}
    assert not model._forward_hooks
    assert not model.inner._forward_pre_hooks


def test_inputs_are_recorded_before_the_module_can_write_into_them() -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1.0)

    model = nn.Sequential(Writing())
    with traced(model) as calls:
        model(torch.zeros(2))
    assert calls[0].inputs[".0.0"].tolist() == [0.0, 0.0]
    assert calls[0].outputs[""].tolist() == [1.0, 1.0]


def call(name: str, given: float, got: float) -> Call:
    return Call(name, {"0": torch.full((2, 5, 3), float(given))}, {"": torch.full((2, 5, 3), float(got))})


def test_who_makes_a_difference_from_equal_inputs_is_to_blame_and_not_who_passes_it_on() -> None:
    left = [call("a", 0, 1), call("b", 1, 2), call("c", 2, 3)]
    right = [call("a", 0, 1), call("b", 1, 2.5), call("c", 2.5, 3.5)]
    assert first_to_differ(left, right, everything, everything) == "b"
    assert first_to_differ(left, left, everything, everything) is None
    assert first_to_differ(left, right, everything, everything, threshold=1.0) is None


def test_the_second_call_of_a_module_is_compared_with_the_second() -> None:
    left, right = [call("a", 0, 1), call("a", 1, 2)], [call("a", 0, 1), call("a", 1, 9)]
    assert first_to_differ(left, right, everything, everything) == "a"


def test_not_a_number_is_a_difference() -> None:
    assert first_to_differ([call("a", 0, 1)], [call("a", 0, float("nan"))], everything, everything, 0.5) == "a"


def test_views_find_the_axis_along_the_text_and_the_row() -> None:
    heads = torch.arange(2 * 3 * 7).reshape(2, 3, 7)
    assert sequence_axis(heads, 7) == 2
    assert sequence_axis(torch.zeros(7, 3), 7) == 0
    assert at(5, 0, 2)(heads) is None
    picked = in_row(1, 2, at(7, 2, 4))(heads)
    assert picked is not None
    assert torch.equal(picked, heads[1:, :, 2:4])
    shared = torch.arange(7)[None]
    assert in_row(1, 2)(shared) is shared


def test_the_calls_of_steps_are_joined_as_the_whole_has_them() -> None:
    x = torch.arange(30.0).reshape(2, 5, 3)
    whole = [Call("a", {"0": x}, {"": x * 2, "gone": torch.zeros(4)})]
    steps = [[Call("a", {"0": x[:, i:j]}, {"": x[:, i:j] * 2})] for i, j in ((0, 1), (1, 5))]
    stitched = joined(whole, steps, 5, [1, 4])
    assert torch.equal(stitched[0].inputs["0"], x)
    assert torch.equal(stitched[0].outputs[""], x * 2)
    assert set(stitched[0].outputs) == {""}


def test_the_first_output_that_is_wrong_is_found() -> None:
    calls = [call("a", 0, 1), call("b", 1, float("inf")), call("c", 1, float("inf"))]
    assert first_where(calls, lambda t: not bool(t.isfinite().all())) == "b"
