"""What must not touch each other: rows of a batch, padding and tokens, documents packed into one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from formers.laws.blame import at, compare, everything, in_row
from formers.laws.law import Finding, Worst, law
from formers.laws.subject import NoDropout, Subject, mode
from formers.laws.trial import Trial, gap, gradient_gap
from formers.parts.positions import EMPTY, Positions


@law("rows independent", "What stands in one row of a batch changes nothing in another: bit for bit, in both modes.")
@torch.no_grad()
def rows(subject: Subject, trial: Trial) -> Finding:
    worst, batch, ids = Worst(), 3, trial.ids(3)
    other = trial.other(ids)
    for training in (False, True):
        for row in (0, 2):
            changed = torch.where(torch.arange(batch, device=ids.device)[:, None] == row, ids, other)
            with mode(subject.model, training):
                base, logits = _quiet(subject, ids), _quiet(subject, changed)
            if torch.equal(logits[1], base[1]):
                return Finding.mute("a row's own tokens do not change its logits")
            where = f"row {row} changes with the others in {'training' if training else 'evaluation'} mode"
            worst.see(
                float((logits[row] - base[row]).abs().amax()),
                where,
                partial(_mixer, subject, ids, changed, row, training),
            )
    return worst.finding(0.0, f"rows 0 and 2 of {batch}, in evaluation and training mode")


def _quiet(subject: Subject, ids: Tensor) -> Tensor:
    with NoDropout():
        return subject(ids).logits


@torch.no_grad()
def _mixer(subject: Subject, ids: Tensor, changed: Tensor, row: int, training: bool) -> str | None:
    view = in_row(row, ids.shape[0])
    with mode(subject.model, training), NoDropout():
        return compare(subject, (ids, None), (changed, None), view, view)


@law(
    "padding changes nothing",
    "Tokens padded on the left or the right, at positions of index -1, give the logits and gradients they give alone.",
    needs=["positions"],
)
def padding(subject: Subject, trial: Trial) -> Finding:
    n, worst, sides = trial.length, Worst(), ("the left", "the right", "both sides")
    texts = [trial.ids(1, length) for length in (n, n - n // 3, max(2, n // 4))]
    alone = _alone(subject, trial, texts)
    for side in sides if trial.size != "large" else sides[:2]:
        ids, positions = pad(texts, side, trial)
        found, blame = _weigh(subject, alone, ids, positions), None
        for row, text in enumerate(texts):
            where = f"a text of {text.shape[1]} tokens padded on {side} to {ids.shape[1]}"
            blame = partial(_blame_padding, subject, text, ids, positions, row)
            worst.see(gap(found.logits[row], alone.logits[row]), where, blame)
            worst.see(gradient_gap(found.gradients, alone.gradients), f"gradients of texts padded on {side}", blame)
        with torch.no_grad():  # both: with a gradient another kernel may run
            other = torch.where(positions.present, ids, trial.other(ids))
            first, again = (subject(tokens, positions).logits[positions.present] for tokens in (ids, other))
        if not torch.equal(first, again):
            worst.see(float("inf"), f"which token the padding on {side} is changes the logits", blame)
    return worst.finding(subject.tolerance, "texts of three lengths, padded on either side")


def pad(texts: Sequence[Tensor], side: str, trial: Trial) -> tuple[Tensor, Positions]:
    """Input ids [batch, seq] of texts [1, length] with random tokens for padding, and positions that say which they are."""
    width = max(text.shape[1] for text in texts) + 3
    ids = trial.ids(len(texts), width)
    index = torch.full_like(ids, EMPTY)
    for row, text in enumerate(texts):
        room = width - text.shape[1]
        start = {"the left": room, "the right": 0, "both sides": room // 2}[side]
        ids[row, start : start + text.shape[1]] = text[0]
        index[row, start : start + text.shape[1]] = torch.arange(text.shape[1], device=ids.device)
    return ids, Positions(index)


@dataclass(frozen=True)
class _Texts:
    """Logits [seq, vocab] of some texts, the numbers that weigh them, and the gradients of their weighted sum.

    Gradients are left out (none) of large models.
    """

    logits: list[Tensor]
    weights: list[Tensor]
    gradients: list[Tensor]


def _alone(subject: Subject, trial: Trial, texts: Sequence[Tensor]) -> _Texts:
    with torch.set_grad_enabled(trial.size != "large"):
        logits = [subject(text).logits[0] for text in texts]
    return _with_gradients(subject, logits, [trial.weights(one.shape, one.detach()) for one in logits])


def _weigh(subject: Subject, alone: _Texts, ids: Tensor, positions: Positions) -> _Texts:
    """The same of the texts in a padded batch."""
    with torch.set_grad_enabled(bool(alone.gradients)):
        logits = subject(ids, positions).logits
        real = [logits[row][positions.present[row]] for row in range(ids.shape[0])]
    return _with_gradients(subject, real, alone.weights)


def _with_gradients(subject: Subject, logits: list[Tensor], weights: list[Tensor]) -> _Texts:
    total = torch.stack([(one * weight).sum() for one, weight in zip(logits, weights, strict=True)]).sum()
    gradients = subject.gradients(total) if total.requires_grad else []
    return _Texts([one.detach() for one in logits], weights, gradients)


@torch.no_grad()
def _blame_padding(subject: Subject, text: Tensor, ids: Tensor, positions: Positions, row: int) -> str | None:
    start = int(positions.present[row].long().argmax())
    view = in_row(row, ids.shape[0], at(ids.shape[1], start, start + text.shape[1]))
    return compare(subject, (text, None), (ids, positions), everything, view, subject.tolerance / 100)


@law(
    "documents stay apart",
    "Documents packed into one row give the logits they give alone, and what one says changes nothing in another.",
    needs=["documents"],
)
@torch.no_grad()
def documents(subject: Subject, trial: Trial) -> Finding:
    n, worst, exact, start = trial.length, Worst(), Worst(), 0
    lengths = [n // 3, n // 4, n - n // 3 - n // 4]
    packed, positions = trial.ids(2), pack(lengths, trial.device)
    logits = subject(packed, positions).logits
    for number, length in enumerate(lengths):
        inside = slice(start, start + length)
        text, view = packed[:, inside], at(n, start, start + length)
        where = f"document {number} of {len(lengths)}, tokens {start} to {start + length - 1}"
        threshold = subject.tolerance / 100
        apart = partial(compare, subject, (text, None), (packed, positions), everything, view, threshold)
        worst.see(gap(logits[:, inside], subject(text).logits), where, apart)
        changed = trial.other(packed)
        changed[:, inside] = text
        moved = (subject(changed, positions).logits - logits)[:, inside].abs().amax()
        touched = partial(compare, subject, (packed, positions), (changed, positions), view, view)
        exact.see(float(moved), f"{where}, changes with what the others say", touched)
        start += length
    tried = f"{len(lengths)} documents in a row of {n} tokens"
    found = exact.finding(0.0, tried)
    return worst.finding(subject.tolerance, tried) if found.holds else found


def pack(lengths: Sequence[int], device: torch.device) -> Positions:
    """Positions of documents of these lengths, one after another in one row."""
    index = torch.cat([torch.arange(n, device=device) for n in lengths])
    document = torch.repeat_interleave(torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device))
    return Positions(index[None], document[None])
