"""Trying the laws on a model, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import ConfigError, suggest
from formers.laws import causality, isolation, learning, memory, segments, storage  # noqa: F401  (they register the laws)
from formers.laws.adapters import adapt
from formers.laws.law import LAWS, Finding, Law, find
from formers.laws.report import Report, Verdict
from formers.laws.subject import ModelRaised, Narrowest, Subject, copied, precision, shake, threads
from formers.laws.trial import Trial, plan

TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-6, torch.bfloat16: 5e-2, torch.float16: 5e-3}
"""For comparisons across shapes, by the narrowest type the model computes in. 5e-6 is some forty roundings of float32."""


def certify(
    model: nn.Module,
    *,
    seed: int = 0,
    laws: Iterable[str] | None = None,
    vocab_size: int | None = None,
    length: int | None = None,
    tokenizer: Any = None,
    fresh: bool = False,
    target: str | None = None,
    progress: Callable[[Verdict], None] | None = None,
) -> Report:
    """Try the laws on a model: ours, one of transformers', or any module with ``forward(input_ids) -> logits``.

    laws        names of the laws to try; default all
    vocab_size  tokens the model knows; default its config's, else the width of its logits
    length      tokens in a text; default a prime beyond the model's windows
    tokenizer   tried against the model's vocabulary, where given
    fresh       the weights are as they were initialised, so that the first loss means something
    target      what the report calls the model
    progress    called with each verdict as it falls
    The model is not changed: laws work on copies, in float64. Raises TargetError for what is no language model.
    """
    case = Case.of(model, laws, vocab_size=vocab_size, length=length, tokenizer=tokenizer, fresh=fresh, seed=seed)
    verdicts = {}
    for verdict in case.verdicts():
        verdicts[verdict.name] = verdict
        if progress is not None:
            progress(verdict)
    return Report(target or type(model).__name__, verdicts, seed, case.notes)


@dataclass(frozen=True)
class Case:
    """A model prepared for its laws. `verdicts` tries them one by one, so that a caller can show each as it falls."""

    subject: Subject
    trial: Trial
    laws: list[Law]
    dtype: torch.dtype
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        laws: Iterable[str] | None = None,
        *,
        vocab_size: int | None = None,
        length: int | None = None,
        tokenizer: Any = None,
        fresh: bool = False,
        seed: int = 0,
    ) -> Case:
        chosen = find(laws)
        given = adapt(model, vocab_size=vocab_size, fresh=fresh, tokenizer=tokenizer, length=length)
        _check_exceptions(given.original)
        trial = plan(given.model, given.vocab_size, given.max_length, length=length, seed=seed, device=given.device)
        subject, dtype, notes = _working(given, trial)
        trial = replace(trial, device=subject.device)
        size = f"texts of {trial.length} tokens in {_name(dtype)}, seed {seed}"
        return cls(subject, trial, chosen, dtype, (size, *notes))

    def verdicts(self) -> Iterator[Verdict]:
        for law in self.laws:
            start = time.perf_counter()
            finding = self._try(law)
            status = "not applicable" if not finding.applies else "pass" if finding.holds else "fail"
            seconds = time.perf_counter() - start
            yield Verdict(
                law.name, status, finding.violation, finding.tolerance, finding.blame, finding.detail, seconds
            )

    def _try(self, law: Law) -> Finding:
        excepted = getattr(self.subject.original, "law_exceptions", {}).get(law.name)
        if excepted:
            return Finding.not_applicable(f"the model excepts itself: {excepted}")
        for need in law.needs:
            reason = self.subject.lacks(need)
            if reason:
                return Finding.not_applicable(reason)
        try:
            with precision(self.dtype), threads(1 if self.trial.size == "small" else None):
                return law.check(self.subject, self.trial.of(law.name))
        except ModelRaised as error:
            return Finding(float("inf"), 0.0, None, error.found)


def _check_exceptions(model: nn.Module) -> None:
    """A model may except itself from laws, by name and with a reason."""
    exceptions = getattr(model, "law_exceptions", {})
    unknown = [f"{name!r} ({suggest(name, LAWS) or 'no such law'})" for name in exceptions if name not in LAWS]
    unknown += [f"{name!r} has no reason" for name, reason in exceptions.items() if not str(reason).strip()]
    if unknown:
        raise ConfigError(f"law_exceptions of {type(model).__name__}: " + ", ".join(unknown), "law name -> reason")


def _working(given: Subject, trial: Trial) -> tuple[Subject, torch.dtype, list[str]]:
    """The subject on a shaken copy in float64 (in float32 where the model cannot run in float64), and what to note."""
    notes, ids, dtype = [], trial.of("working copy").ids(2), torch.float64
    try:
        subject, narrowest, finite = _first_run(given, ids, dtype)
    except ModelRaised as error:
        notes.append(f"the model does not run in float64 ({error.found}), so the laws were tried in float32")
        dtype = torch.float32
        subject, narrowest, finite = _first_run(given, ids, dtype)
    with torch.no_grad(), precision(dtype):
        shake(subject.model, trial.seed)
        if finite and not subject(ids).logits.isfinite().all():
            subject = given.on(copied(given.original, dtype))
            notes.append(
                "shaken parameters gave numbers that are not finite: the laws were tried on the weights as given"
            )
    if narrowest is not dtype:
        notes.append(f"the model computes in {_name(narrowest)} inside, so texts of other shapes agree only so far")
    return replace(subject, tolerance=TOLERANCE.get(narrowest, 5e-2)), dtype, notes


@torch.no_grad()
def _first_run(given: Subject, ids: Tensor, dtype: torch.dtype) -> tuple[Subject, torch.dtype, bool]:
    """A copy of this type, the narrowest type it computes in, and whether its logits are finite."""
    subject = given.on(copied(given.original, dtype))
    with precision(dtype), Narrowest(dtype) as seen:
        logits = subject(ids).logits
    return subject, seen.dtype, bool(logits.isfinite().all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
