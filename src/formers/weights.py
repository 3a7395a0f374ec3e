"""Two-way weight names: one table a paper, run both ways.

A table is a list of rules between our tensors and a reference's; each rule can be read (theirs -> ours) and written (ours
-> theirs), so import and export cannot drift apart. Everything that is missing, left over or of the wrong shape is an
error that lists all of it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from formers.errors import WeightsError


@dataclass(frozen=True)
class Rename:
    """The same tensor under two names."""

    our: str
    their: str

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.our,)

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.their,)

    def read(self, theirs: list[Tensor]) -> list[Tensor]:
        return theirs

    def write(self, ours: list[Tensor]) -> list[Tensor]:
        return ours


@dataclass(frozen=True)
class Transpose(Rename):
    """Theirs is stored [in, out] (GPT-2's Conv1D), ours [out, in]."""

    def read(self, theirs: list[Tensor]) -> list[Tensor]:
        return [theirs[0].T.contiguous()]

    def write(self, ours: list[Tensor]) -> list[Tensor]:
        return [ours[0].T.contiguous()]


@dataclass(frozen=True)
class Fuse:
    """Ours holds several of theirs one below the other (query, key and value in one map). `sizes`: rows of each."""

    our: str
    theirs: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.our,)

    def read(self, theirs: list[Tensor]) -> list[Tensor]:
        return [torch.cat(theirs, 0)]

    def write(self, ours: list[Tensor]) -> list[Tensor]:
        return [part.contiguous() for part in ours[0].split(self.sizes, 0)]


@dataclass(frozen=True)
class Tie:
    """Our second name for one tensor, which `their` file may or may not hold too. If it does, it must be equal."""

    our: str
    same_as: str
    their: str


@dataclass(frozen=True)
class Ignore:
    """Tensors of theirs (a name or pattern) that carry nothing to learn, and why."""

    pattern: str
    why: str


Rule = Rename | Fuse


@dataclass(frozen=True)
class Table:
    """All rules of a model. `optional_prefix`: what some of their files leave off every name (``transformer.``)."""

    rules: tuple[Rule, ...]
    ties: tuple[Tie, ...] = ()
    ignored: tuple[Ignore, ...] = ()
    optional_prefix: str = ""
    unprefixed: tuple[str, ...] = field(default=())
    """Names of theirs that never carry the prefix (``lm_head.weight``)."""

    def read(self, theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Our tensors from theirs. `shapes`: of every tensor of our model. Raises WeightsError listing every problem."""
        theirs = {self._full(name): tensor for name, tensor in theirs.items() if not self._is_ignored(name)}
        ours: dict[str, Tensor] = {}
        problems: list[str] = []
        used: set[str] = set()
        for rule in self.rules:
            missing = [name for name in rule.theirs if name not in theirs]
            used.update(rule.theirs)
            if missing:
                problems += [f"missing {name}" for name in missing]
                continue
            ours.update(zip(rule.ours, rule.read([theirs[name] for name in rule.theirs]), strict=True))
        problems += self._read_ties(theirs, ours, used)
        problems += [f"unknown {name} {tuple(theirs[name].shape)}" for name in sorted(theirs.keys() - used)]
        problems += _misfits(ours, shapes, bool(problems))
        if problems:
            raise WeightsError(
                _listed("the tensors do not fit the model", problems),
                do="check that the configuration belongs to the weights",
            )
        return ours

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors from ours, ties left out."""
        expected = {name for rule in self.rules for name in rule.ours} | {tie.our for tie in self.ties}
        wrong = [f"missing {name}" for name in sorted(expected - ours.keys() - {t.our for t in self.ties})]
        wrong += [f"unknown {name}" for name in sorted(ours.keys() - expected)]
        if wrong:
            raise WeightsError(_listed("the model's tensors do not fit its weight table", wrong))
        theirs: dict[str, Tensor] = {}
        for rule in self.rules:
            theirs.update(zip(rule.theirs, rule.write([ours[name] for name in rule.ours]), strict=True))
        return theirs

    def _read_ties(self, theirs: Mapping[str, Tensor], ours: dict[str, Tensor], used: set[str]) -> list[str]:
        problems = []
        for tie in self.ties:
            used.add(tie.their)
            if tie.same_as not in ours:
                continue
            ours[tie.our] = ours[tie.same_as]
            if tie.their in theirs and not torch.equal(theirs[tie.their], ours[tie.same_as]):
                problems.append(f"{tie.their} differs from the tensor it is tied to ({tie.same_as})")
        return problems

    def _is_ignored(self, name: str) -> bool:
        patterns = [rule.pattern for rule in self.ignored]
        return any(fnmatch.fnmatchcase(full, pattern) for pattern in patterns for full in (name, self._full(name)))

    def _full(self, name: str) -> str:
        prefix = self.optional_prefix
        bare = not prefix or name.startswith(prefix) or name in self.unprefixed
        return name if bare else prefix + name


def _misfits(ours: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], incomplete: bool) -> list[str]:
    problems = [
        f"{name} is {tuple(tensor.shape)}, the model's is {tuple(shapes[name])}"
        for name, tensor in ours.items()
        if name in shapes and tensor.shape != shapes[name]
    ]
    problems += [f"the model has no {name}" for name in sorted(ours.keys() - shapes.keys())]
    if not incomplete:
        problems += [f"nothing was read for {name}" for name in sorted(shapes.keys() - ours.keys())]
    return problems


def _listed(what: str, problems: Iterable[str]) -> str:
    problems = list(problems)
    return f"{what} ({len(problems)} problem{'s' * (len(problems) > 1)}):\n    " + "\n    ".join(problems)
