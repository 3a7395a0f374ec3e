"""States: cut anywhere, run twice, superseded, begun anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from formers.errors import StateError
from formers.laws.blame import Call, compare, everything, first_to_differ, in_row, joined, traced
from formers.laws.isolation import pack, pad
from formers.laws.law import Finding, Worst, law
from formers.laws.subject import ModelRaised, Subject
from formers.laws.trial import Trial, gap, gradient_gap
from formers.parts.positions import Positions


@dataclass(frozen=True)
class Cut:
    """A text, where its tokens stand, and the lengths of the calls it is cut into."""

    ids: Tensor
    positions: Positions | None
    lengths: list[int]
    kind: str = ""

    @property
    def real(self) -> Tensor:
        """Which tokens are no padding, Bool [batch, seq]."""
        everything = torch.ones_like(self.ids, dtype=torch.bool)
        return everything if self.positions is None else everything & self.positions.present

    def pieces(self) -> list[tuple[Tensor, Positions | None]]:
        starts = [sum(self.lengths[:i]) for i in range(len(self.lengths))]
        return [
            (self.ids[:, a : a + n], None if self.positions is None else self.positions.slice(a, a + n))
            for a, n in zip(starts, self.lengths, strict=True)
        ]

    def describe(self) -> str:
        shown = ", ".join(map(str, self.lengths[:12])) + (", ..." if len(self.lengths) > 12 else "")
        return f"{self.kind}a text of {self.ids.shape[1]} tokens in calls of {shown}"


@law(
    "step by step equals whole",
    "A text read in calls of any lengths, each going on from the state of the last, gives the logits of one call.",
    needs=["state"],
)
def steps(subject: Subject, trial: Trial) -> Finding:
    worst = Worst()
    cuts = [*_cuts(trial), *_ragged_cuts(subject, trial)]
    for cut in cuts:
        both = trial.size == "small" and len(cut.lengths) < cut.ids.shape[1]  # one-token calls are many, and alike
        for gradients in (False, True) if both else (False,):
            with torch.set_grad_enabled(gradients):
                stepped, whole = stepwise(subject, cut).detach(), subject(cut.ids, cut.positions).logits.detach()
            worst.see(gap(stepped[cut.real], whole[cut.real]), cut.describe(), partial(_blame_steps, subject, cut))
    with torch.no_grad():
        _see_rows_going_on(subject, trial, worst, partial(_blame_steps, subject, cuts[0]))
    return worst.finding(
        subject.tolerance, f"{len(cuts)} texts of about {trial.length} tokens, cut in one-token and longer calls"
    )


def _cuts(trial: Trial) -> list[Cut]:
    n = trial.length
    few = [[n - 3, 1, 1, 1], trial.cuts(n)]
    return [Cut(trial.ids(2), None, lengths) for lengths in (few if trial.size == "large" else [[1] * n, *few])]


def _ragged_cuts(subject: Subject, trial: Trial) -> list[Cut]:
    """Rows of different lengths padded on either side, and documents that follow each other, cut at random."""
    n, cuts = trial.length, []
    if not subject.lacks("positions"):
        for side in ("the left", "both sides") if trial.size != "large" else ("both sides",):
            ids, positions = pad([trial.ids(1, m) for m in (n - 2, n // 2, 3)], side, trial)
            cuts.append(Cut(ids, positions, trial.cuts(ids.shape[1]), f"rows padded on {side}, "))
    if not subject.lacks("documents"):
        cuts.append(Cut(trial.ids(2), pack([n // 2, n - n // 2], trial.device), trial.cuts(n), "two documents, "))
    return cuts


def _see_rows_going_on(subject: Subject, trial: Trial, worst: Worst, blame: Callable[[], str | None]) -> None:
    """Rows that began at different places go on without being told where they are."""
    if subject.lacks("positions"):
        return
    n, more = trial.length, max(1, trial.length // 4)
    texts = [trial.ids(1, m) for m in (n - more, (n - more) // 2 + 1)]
    ids, positions = pad(texts, "the left", trial)
    state = subject.init_state(2, ids.shape[1] + more)
    state = subject.commit(subject(ids, positions, state).state)
    follow = trial.ids(2, more)
    logits = subject(follow, None, state).logits
    for row, text in enumerate(texts):
        alone = subject(torch.cat([text, follow[row : row + 1]], 1)).logits[0, text.shape[1] :]
        worst.see(
            gap(logits[row], alone),
            f"a row of {text.shape[1]} tokens that goes on by {more} beside a longer one",
            blame,
        )


def stepwise(subject: Subject, cut: Cut, traces: list[Sequence[Call]] | None = None) -> Tensor:
    """Logits of all calls joined; what each call's modules did goes to `traces`."""
    state, found = subject.init_state(cut.ids.shape[0], cut.ids.shape[1]), []
    for ids, positions in cut.pieces():
        if traces is None:
            answer = subject(ids, positions, state)
        else:
            with traced(subject.model) as calls:
                answer = subject(ids, positions, state)
            traces.append(calls)
        found.append(answer.logits)
        state = subject.commit(answer.state)
    return torch.cat(found, 1)


@torch.no_grad()
def _blame_steps(subject: Subject, cut: Cut) -> str | None:
    with traced(subject.model) as whole:
        subject(cut.ids, cut.positions)
    traces: list[Sequence[Call]] = []
    stepwise(subject, cut, traces)
    stepped = joined(whole, traces, cut.ids.shape[1], cut.lengths)
    return first_to_differ(whole, stepped, everything, everything, subject.tolerance / 100)


@law(
    "a state stays as it is until commit",
    "A forward run twice from one state, others in between, gives the same logits and gradients: bit for bit.",
    needs=["staged state"],
)
def twice(subject: Subject, trial: Trial) -> Finding:
    n = trial.length
    first, second, third = (trial.ids(2, m) for m in (n // 2, n // 4, n - n // 2 - n // 4))
    worst = Worst()
    for gradients in (False, True) if trial.size != "large" else (True,):
        with torch.set_grad_enabled(gradients):
            state = _read(subject, first, n)
            wanted = _run(subject, trial, second, state)
            _run(subject, trial, trial.other(second), state)
            found = _run(subject, trial, second, state)
        kind, blame = "with" if gradients else "without", partial(_blame_twice, subject, trial, n, gradients)
        worst.see(gradient_gap(found, wanted), f"the second of two equal calls, {kind} gradients", blame)
        with torch.set_grad_enabled(gradients):
            worst.see(
                _late_commit(subject, trial, (first, second, third)), f"a commit after another call, {kind} gradients"
            )
    return worst.finding(0.0, "logits and gradients, with another call in between, and a commit after another call")


def _read(subject: Subject, ids: Tensor, room: int) -> Any:
    return subject.commit(subject(ids, None, subject.init_state(ids.shape[0], room)).state)


def _run(subject: Subject, trial: Trial, ids: Tensor, state: Any) -> list[Tensor]:
    """Logits, and gradients of every parameter where they are wanted."""
    logits = subject(ids, None, state).logits
    if not torch.is_grad_enabled():
        return [logits]
    return [logits.detach(), *subject.gradients(logits.square().sum())]


def _late_commit(subject: Subject, trial: Trial, texts: Sequence[Tensor]) -> float:
    """A call is committed after another call from the same state was run and dropped: how far that moves what follows."""
    first, second, third = texts
    room = sum(text.shape[1] for text in texts)

    def follow(disturb: bool) -> Tensor:
        state = _read(subject, first, room)
        answer = subject(second, None, state)
        if disturb:
            subject((second + 1) % trial.vocab_size, None, state)
        return subject(third, None, subject.commit(answer.state)).logits.detach()

    return gap(follow(True), follow(False))


def _blame_twice(subject: Subject, trial: Trial, n: int, gradients: bool) -> str | None:
    """The first module to differ between two equal calls with another one between."""
    ids = trial.ids(2, n // 4)
    with torch.set_grad_enabled(gradients):
        state = _read(subject, trial.ids(2, n // 2), n)
        with traced(subject.model) as left:
            subject(ids, None, state)
        subject(trial.other(ids), None, state)
        with traced(subject.model) as right:
            subject(ids, None, state)
    return first_to_differ(left, right, everything, everything)


@law(
    "a superseded state raises",
    "Using a state again after a commit has superseded it raises, rather than reading buffers that have moved on.",
    needs=["staged state"],
)
@torch.no_grad()
def superseded(subject: Subject, trial: Trial) -> Finding:
    ids = trial.ids(2, 3)
    state = subject.init_state(2, trial.length)
    answer = subject(ids, None, state)
    subject.commit(answer.state)
    used = [_raises(lambda: subject(ids, None, state)), _raises(lambda: subject.commit(answer.state))]
    silent = [what for what, raised in zip(("a forward", "a second commit"), used, strict=True) if not raised]
    detail = (
        f"{' and '.join(silent)} from a superseded state did not raise" if silent else "a forward, and a second commit"
    )
    return Finding(float(len(silent)), 0.0, None, detail)


def _raises(action: Any) -> bool:
    try:
        action()
    except StateError:
        return True
    except ModelRaised as error:
        return isinstance(error.__cause__, StateError)
    return False


@law(
    "a row that is reset begins anew",
    "A row of a state that is reset goes on as if it had read nothing, and the rows beside it as if nothing had happened.",
    needs=["staged state"],
)
@torch.no_grad()
def reset(subject: Subject, trial: Trial) -> Finding:
    enough = subject.max_length is None or subject.max_length >= 2 * trial.length
    n = trial.length if enough else subject.max_length // 2  # type: ignore[operator]
    before, after, worst = trial.ids(3, n), trial.ids(3, n), Worst()
    for row in (1, 2):
        rows = torch.arange(3, device=subject.device) == row
        anew = (after[row : row + 1], None, subject.init_state(1, 2 * n))
        again = (after, None, _read(subject, before, 2 * n).reset(rows))
        alone, logits = subject(*anew).logits, subject(*again).logits
        blame = partial(compare, subject, anew, again, everything, in_row(row, 3), subject.tolerance / 100)
        worst.see(gap(logits[row], alone[0]), f"row {row} of 3, reset after {n} tokens, reads {n} more", blame)
        others = subject(after, None, _read(subject, before, 2 * n)).logits
        worst.see(gap(logits[~rows], others[~rows]), f"a row goes on while row {row} is reset after {n} tokens")
    return worst.finding(subject.tolerance, f"one of 3 rows, after {n} tokens")
