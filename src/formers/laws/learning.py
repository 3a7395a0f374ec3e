"""What training relies on: modes, gradients, narrow numbers, the first loss, recomputation."""

from __future__ import annotations

import contextlib
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.laws.adapters import keeping, recomputing
from formers.laws.blame import everything, first_to_differ, first_where, owner, traced
from formers.laws.law import Finding, Worst, law
from formers.laws.subject import NoDropout, Subject, copied, dtype_of, mode, precision
from formers.laws.trial import Trial, gap

FIRST_LOSS = 0.1
"""A fresh model may be this share of ln V away from ln V: wide enough for logits of standard deviation 1, far below the
faults this is for (a public model starts at 77.7 where ln V is 9.0)."""

REBUILT = 1e-9
"""How far gradients may be, relative and in float64, where activations are rebuilt by subtraction."""


@law(
    "training differs only by dropout",
    "Evaluation draws no random numbers, and with every dropout at 0 training mode gives the same logits.",
)
@torch.no_grad()
def modes(subject: Subject, trial: Trial) -> Finding:
    ids, tried = trial.ids(2), "two evaluations, and both modes without dropout"
    once, again = subject(ids, seed=1).logits, subject(ids, seed=2).logits
    drawn, differ = Worst(), Worst()
    drawn.see(gap(again, once), "two evaluations of one text differ: chance, such as dropout, acts in evaluation mode",
              partial(_blame_modes, subject, ids, training=False))  # fmt: skip
    found = drawn.finding(0.0, tried)
    if not found.holds:
        return found
    with NoDropout(), mode(subject.model, True):
        trained = subject(ids, seed=1).logits
    where = "training mode without dropout differs from evaluation (torch's own dropout functions count as dropout)"
    differ.see(gap(trained, once), where, partial(_blame_modes, subject, ids, training=True))
    return differ.finding(subject.tolerance, tried)


@torch.no_grad()
def _blame_modes(subject: Subject, ids: Tensor, training: bool) -> str | None:
    """The first module to differ between two evaluations, or between evaluation and `training` without dropout."""
    with traced(subject.model) as left:
        subject(ids, seed=1)
    quiet = NoDropout() if training else contextlib.nullcontext()
    with mode(subject.model, training), quiet, traced(subject.model) as right:
        subject(ids, seed=2)
    return first_to_differ(left, right, everything, everything, subject.tolerance / 100 if training else 0.0)


@law(
    "every parameter gets a gradient",
    "A loss gives every parameter that wants one a gradient that is finite and not 0.",
)
def gradients(subject: Subject, trial: Trial) -> Finding:
    named = [(name, p) for name, p in subject.model.named_parameters() if p.requires_grad]
    if not named:
        return Finding.not_applicable("no parameter wants a gradient")
    silent = _silent(subject, trial, named, with_state=False)
    if silent and not subject.lacks("staged state"):
        silent = [name for name in silent if name in _silent(subject, trial, named, with_state=True)]
    loose = [name for name in _loose_tensors(subject.model) if name not in dict(named)]
    frozen = sum(not p.requires_grad for p in subject.model.parameters())
    detail = f"{len(named)} parameters" + (f", {frozen} frozen ones aside" if frozen else "")
    wrong = silent + loose
    if wrong:
        detail = f"{_some(silent)} of {len(named)} parameters got none" if silent else ""
        detail += f"{_some(loose)}: tensors that want a gradient but are no parameters" if loose else ""
    return Finding(float(len(wrong)), 0.0, owner(subject.model, wrong[0]) if wrong else None, detail)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _silent(subject: Subject, trial: Trial, named: list[tuple[str, nn.Parameter]], with_state: bool) -> list[str]:
    """Parameters whose gradient is all zeros or not finite; `with_state`: of a text that goes on from another."""
    ids, state = trial.ids(2), None
    if with_state:
        state = subject.commit(subject(ids, None, subject.init_state(2, 2 * trial.length)).state)
        ids = trial.ids(2, max(2, trial.length // 4))
    logits = subject(ids, None, state).logits
    found = subject.gradients((logits * trial.weights(logits.shape, logits)).sum(), [p for _, p in named])
    return [name for (name, _), g in zip(named, found, strict=True) if not (g.isfinite().all() and g.any())]


def _loose_tensors(model: nn.Module) -> list[str]:
    """Tensors that hang on modules and want a gradient, but that no optimizer and no checkpoint will ever see."""
    return [
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    ]


@law("finite in bf16", "In bfloat16, logits and gradients of the model's own weights are finite numbers.")
def finite(subject: Subject, trial: Trial) -> Finding:
    narrow = subject.on(copied(subject.original, torch.bfloat16))
    ids = trial.ids(2)
    with precision(torch.bfloat16):
        with traced(narrow.model) as calls:
            logits = narrow(ids).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), _targets(logits, trial).flatten())
        found = narrow.gradients(loss) if logits.requires_grad else []
    wrong = int((~logits.isfinite()).sum()) + sum(int((~g.isfinite()).sum()) for g in found)
    if not wrong:
        return Finding(0.0, 0.0, None, f"loss {float(loss.detach()):.3f}, and the gradients of {len(found)} parameters")
    blame = first_where(calls, lambda t: not t.isfinite().all())
    names = [name for name, p in narrow.model.named_parameters() if p.requires_grad]
    broken = [name for name, g in zip(names, found, strict=False) if not g.isfinite().all()]
    detail = "logits are not finite" if not logits.isfinite().all() else f"gradients of {_some(broken)} are not finite"
    return Finding(float(wrong), 0.0, blame or owner(narrow.model, broken[0]), detail)


def _targets(logits: Tensor, trial: Trial) -> Tensor:
    """Random targets: tokens, or of heads that label as many labels as they have."""
    return trial.ids(*logits.shape[:2]) % logits.shape[-1]


@law(
    "first loss near ln V", "A fresh model knows nothing: its loss is that of guessing, ln V.", needs=["fresh weights"]
)
@torch.no_grad()
def first_loss(subject: Subject, trial: Trial) -> Finding:
    built = copied(subject.original) if subject.is_fresh else subject.anew(trial.seed)
    if built is None:
        return Finding.not_applicable("trained weights, and the model was changed since it was built from its config")
    fresh, ids = subject.on(built.eval()), trial.ids(4)
    with precision(dtype_of(built)), traced(fresh.model) as calls:
        logits = fresh(ids).logits.float()
    width = logits.shape[-1]
    wanted, loss = math.log(width), float(F.cross_entropy(logits.flatten(0, 1), _targets(logits, trial).flatten()))
    finding = Finding(abs(loss - wanted), FIRST_LOSS * wanted, None, f"loss {loss:.3f}, ln {width} = {wanted:.3f}")
    if finding.holds:
        return finding
    loud = first_where(calls, lambda t: bool(t.float().std() > 5.0)) or calls[-1].name
    detail = f"{finding.detail}; the logits' standard deviation is {float(logits.std()):.3g}"
    return Finding(finding.violation, finding.tolerance, loud, detail)


@law(
    "recomputation gives the same gradients",
    "Recomputing activations in the backward pass, dropout included, changes no gradient: bit for bit. A reversible trunk's "
    "are rebuilt from its outputs, which leaves roundings.",
    needs=["recomputation"],
)
def recomputation(subject: Subject, trial: Trial) -> Finding:
    ids, worst = trial.ids(2), Worst()
    staged = not subject.lacks("staged state")
    tries = (False,) if not staged else (False, True) if trial.size != "large" else (True,)
    for with_state in tries:
        with mode(subject.model, True):
            with keeping(subject):
                kept = _loss_gradients(subject, ids, with_state)
            with recomputing(subject):
                recomputed = _loss_gradients(subject, ids, with_state)
        names = [name for name, p in subject.model.named_parameters() if p.requires_grad]
        for name, found, wanted in zip(names, recomputed, kept, strict=True):
            where = f"the gradient of {name}" + (" with a state" if with_state else "")
            worst.see(gap(found, wanted), where, partial(owner, subject.model, name))
    tried = " and ".join("going on from a state" if with_state else "of a whole text" for with_state in tries)
    return worst.finding(REBUILT if subject.rebuilds else 0.0, f"in training mode, {tried}")


def _loss_gradients(subject: Subject, ids: Tensor, with_state: bool) -> list[Tensor]:
    """Gradients of a text, or of its second half going on from the first."""
    if not with_state:
        logits = subject(ids, seed=3).logits
    else:
        half = ids.shape[1] // 2
        state = subject.init_state(ids.shape[0], ids.shape[1])
        with torch.no_grad():
            state = subject.commit(subject(ids[:, :half], None, state, seed=3).state)
        logits = subject(ids[:, half:], None, state, seed=3).logits
    return subject.gradients(logits.square().sum())
