"""The leaky average: in chunks as by its matrix, at every rate, in linear memory, anew with every document."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from formers.errors import StateError
from formers.parts import leaky
from formers.parts.leaky import Last, Times, leaky_average, matrix
from formers.parts.positions import Positions

EXACT = 1e-9
"""The same sums in another order, float64; measured 1e-14."""

RATES = (0.0, 1e-9, 0.5, 5.0, 700.0, 1e30)
"""From a plain sum to the token itself; e^-700 is the last that float64 can tell from 0."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaky, "CHUNK", 4)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def before(batch: int = 2, heads: int = 3, index: int = 6, start: int | None = None) -> Last:
    average = numbers(batch, heads, 1, 5, seed=9)
    where = torch.full((batch, 1), index)
    return Last(average, average[..., :0], where, torch.zeros_like(where), start)


def packed(rows: list[list[int]]) -> Positions:
    """Positions of documents of these lengths, one behind the other; 0: a place of padding."""
    index, document = [], []
    for lengths in rows:
        index.append([i for n in lengths for i in (range(n) if n else [-1])])
        document.append([d for d, n in enumerate(lengths) for _ in range(max(n, 1))])
    return Positions(torch.tensor(index), torch.tensor(document))


def padded(*rows: list[int]) -> Positions:
    return Positions(torch.tensor(rows))


def run(average: Any, x: Tensor, rate: Tensor, times: Times, last: Last | None) -> list[Tensor]:
    """The averages, and the gradients of x and of the rates."""
    x, rate = x.clone().requires_grad_(), rate.clone().requires_grad_()
    out = average(x, rate, times, last)
    wanted = torch.autograd.grad((out * numbers(*out.shape, seed=5)).sum(), [x, rate])
    return [out.detach(), *wanted]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 71])
@pytest.mark.parametrize("going_on", [False, True])
def test_chunks_give_what_the_matrix_gives_at_every_rate(length: int, going_on: bool) -> None:
    last = before(start=7) if going_on else None
    times = Times.of(Positions.offset(7 if going_on else 0, length), 2, last)
    x, rate = numbers(2, 6, length, 5), torch.tensor(RATES, dtype=torch.float64)
    last = last and before(heads=6, start=7)
    for fast, slow in zip(run(leaky_average, x, rate, times, last), run(matrix, x, rate, times, last), strict=True):
        assert fast.isfinite().all()
        assert (fast - slow).abs().max() <= EXACT


WHERE = {
    "documents": packed([[5, 9, 1, 1, 6], [22]]),
    "documents and padding": packed([[5, 0, 0, 9, 0, 6], [0, 21, 0]]),
    "padded on the left": padded([-1, -1, -1, -1, -1, 0, 1], [0, 1, 2, 3, 4, 5, 6]),
    "padded between": padded([7, -1, -1, -1, -1, -1, 8, -1, 9], [-1, 7, 8, 9, -1, 10, -1, -1, -1]),
    "nothing but padding": padded([-1] * 6, list(range(7, 13))),
}


@pytest.mark.parametrize("name", WHERE)
@pytest.mark.parametrize("going_on", [False, True])
def test_so_they_do_with_padding_and_documents(name: str, going_on: bool) -> None:
    positions, last = WHERE[name], before() if going_on else None
    times = Times.of(positions, 2, last)
    x, rate = numbers(2, 3, positions.length, 5), torch.tensor([0.0, 0.7, 40.0], dtype=torch.float64)
    for fast, slow in zip(run(leaky_average, x, rate, times, last), run(matrix, x, rate, times, last), strict=True):
        assert (fast - slow).abs().max() <= EXACT


@pytest.mark.parametrize("name", WHERE)
def test_the_matrix_is_the_sum_by_hand(name: str) -> None:
    positions, last = WHERE[name], before()
    x, rate = numbers(2, 3, positions.length, 5), torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)
    found = matrix(x, rate, Times.of(positions, 2, last), last)
    fading = torch.exp(-rate)[:, None]
    for row in range(2):
        running, came, document = last.average[row, :, 0], 6, 0
        for t in range(positions.length):
            index = int(positions.index[row, t])
            if index >= 0:
                mine = 0 if positions.document is None else int(positions.document[row, t])
                goes_on = mine == document and index > came
                running = (fading ** (index - came) * running if goes_on else 0.0) + x[row, :, t]
                came, document = index, mine
            assert (found[row, :, t] - running).abs().max() <= EXACT


def test_a_row_of_one_document_at_places_of_its_own_goes_on_as_rows_in_step_do() -> None:
    x, rate = numbers(2, 3, 23, 5), torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)
    whole = leaky_average(x, rate, Times.of(Positions.whole(23), 2, None))
    ragged = leaky_average(x, rate, Times.of(Positions(torch.arange(23)[None]), 2, None))
    assert (whole - ragged).abs().max() <= EXACT


@pytest.mark.parametrize("ragged", [False, True])
def test_what_the_backward_pass_keeps_grows_with_the_length_and_not_its_square(ragged: bool) -> None:
    def kept(length: int) -> int:
        sizes: dict[int, int] = {}

        def keep(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        positions = Positions(torch.arange(length)[None].repeat(2, 1)) if ragged else Positions.whole(length)
        x = numbers(2, 3, length, 5).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = leaky_average(x, torch.ones(3, dtype=torch.float64).requires_grad_(), Times.of(positions, 2, None))
            total = sum(sizes.values())
        assert out.requires_grad
        return total

    assert kept(4096) <= 4.2 * kept(1024)


def test_single_precision_is_good_to_six_digits_however_slow_or_fast_the_rate() -> None:
    x, rates = numbers(1, 6, 3000, 2), torch.tensor((*RATES[:5], 1e20))
    times = Times.of(Positions.whole(3000), 1, None)
    wide = leaky_average(x, rates.double(), times)
    narrow = leaky_average(x.float(), rates, times)
    assert narrow.dtype == torch.float32
    size = leaky_average(x.abs(), rates.double(), times)
    assert ((narrow - wide).abs() / size).max() <= 1e-6
    assert leaky_average(x.bfloat16(), rates.bfloat16(), times).dtype == torch.float32


def test_what_stands_at_padding_reaches_nobody() -> None:
    positions = WHERE["documents and padding"]
    x, rate = numbers(2, 3, positions.length, 5), torch.ones(3, dtype=torch.float64)
    there = positions.present[:, None, :, None]
    times = Times.of(positions, 2, None)
    noisy = torch.where(there, x, torch.full_like(x, torch.inf))
    assert leaky_average(x, rate, times).equal(leaky_average(noisy, rate, times))


def test_an_average_knows_nothing_between_nothing_and_now() -> None:
    last = before(start=7)
    assert last.keep(7) is last
    emptied = last.keep(0)
    assert (emptied.start, emptied.index.unique().tolist(), float(emptied.average.abs().max())) == (0, [-1], 0.0)
    with pytest.raises(StateError, match="does not know what it was after 3"):
        last.keep(3)
