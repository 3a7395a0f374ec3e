"""Two-way weight names: one table a paper, run both ways.

A table is a list of rules between our tensors and a reference's; each rule can be read (theirs -> ours) and written (ours
-> theirs), so import and export cannot drift apart. Everything that is missing, left over or of the wrong shape is an
error that lists all of it.
"""

from __future__ import annotations

import fnmatch
import re
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
        return [
            theirs[0].T.contiguous() if theirs[0].ndim == 2 else theirs[0]
        ]  # of wrong shape: reported by the caller

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
        """Raises WeightsError for parts that do not lie one below the other as `sizes` says."""
        found = [tuple(part.shape) for part in theirs]
        wanted = [(rows, *found[0][1:]) for rows in self.sizes]
        if found != wanted:
            pairs = zip(self.theirs, found, wanted, strict=True)
            raise WeightsError("; ".join(f"{name} is {f}, the model's is {w}" for name, f, w in pairs if f != w))
        return [torch.cat(theirs, 0)]

    def write(self, ours: list[Tensor]) -> list[Tensor]:
        return [part.contiguous() for part in ours[0].split(self.sizes, 0)]


@dataclass(frozen=True)
class ByHead(Rename):
    """Theirs has query, key and value of a head side by side, head after head; ours all queries, then keys, then values."""

    num_heads: int = 1

    def read(self, theirs: list[Tensor]) -> list[Tensor]:
        return [self._turned(theirs[0], (self.num_heads, 3))]

    def write(self, ours: list[Tensor]) -> list[Tensor]:
        return [self._turned(ours[0], (3, self.num_heads))]

    def _turned(self, tensor: Tensor, outer: tuple[int, int]) -> Tensor:
        if tensor.shape[0] % (3 * self.num_heads):
            raise WeightsError(f"{self.their} has {tensor.shape[0]} rows, which {self.num_heads} heads do not divide")
        return tensor.unflatten(0, (*outer, -1)).transpose(0, 1).flatten(0, 2).contiguous()


@dataclass(frozen=True)
class Reshape(Rename):
    """The same numbers in the same order, in other shapes."""

    our_shape: tuple[int, ...] = ()
    their_shape: tuple[int, ...] = ()

    def read(self, theirs: list[Tensor]) -> list[Tensor]:
        return [self._reshaped(theirs[0], self.their_shape, self.our_shape, self.their)]

    def write(self, ours: list[Tensor]) -> list[Tensor]:
        return [self._reshaped(ours[0], self.our_shape, self.their_shape, self.our)]

    def _reshaped(self, tensor: Tensor, before: tuple[int, ...], after: tuple[int, ...], name: str) -> Tensor:
        if tuple(tensor.shape) != before:
            raise WeightsError(f"{name} is {tuple(tensor.shape)}, wanted {before}")
        return tensor.reshape(after)


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


def both(our: str, their: str) -> list[Rule]:
    """The weight and the bias of a map or norm."""
    return [Rename(f"{our}.{kind}", f"{their}.{kind}") for kind in ("weight", "bias")]


@dataclass(frozen=True)
class Table:
    """All rules of a model. `optional_prefix`: what some of their files leave off every name (``transformer.``)."""

    rules: tuple[Rule, ...]
    ties: tuple[Tie, ...] = ()
    ignored: tuple[Ignore, ...] = ()
    optional_prefix: str = ""
    unprefixed: tuple[str, ...] = field(default=())
    """Names of theirs that never carry the prefix (``lm_head.weight``)."""
    extra_prefix: str = ""
    """What some of their files put before every name, though their class has no such module (``bert.``)."""
    old_endings: tuple[tuple[str, str], ...] = ()
    """How names end in old files, and today: (``LayerNorm.gamma``, ``LayerNorm.weight``)."""

    def read(self, theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Our tensors from theirs. `shapes`: of every tensor of our model. Raises WeightsError listing every problem.

        `theirs` may be lazy: names are checked first, then each tensor is asked for once, rule by rule, so that no more
        than one rule's tensors are held twice.
        """
        ours, problems = self.partial(theirs)
        problems += _misfits(ours, shapes, bool(problems))
        if problems:
            raise WeightsError(
                listed("the tensors do not fit the model", problems),
                do="check that the configuration belongs to the weights",
            )
        return ours

    def partial(self, theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """What of `theirs` can be read as ours, and what is missing, unknown, doubled or wrongly tied."""
        names, problems = self._names(theirs)
        ours: dict[str, Tensor] = {}
        problems += [f"missing {name}" for rule in self.rules for name in rule.theirs if name not in names]
        problems += [f"unknown {name}" for name in self.unknown(theirs)]
        for rule in self.rules:
            if not all(name in names for name in rule.theirs):
                continue
            try:
                values = rule.read([theirs[names[name]] for name in rule.theirs])
                ours.update(zip(rule.ours, values, strict=True))
            except WeightsError as error:
                problems += error.found.split("; ")
        tied = {tie.their: theirs[names[tie.their]] for tie in self.ties if tie.their in names}
        return ours, problems + self._read_ties(tied, ours)

    def missing(self, names: Iterable[str]) -> list[str]:
        """The names that this table reads and that are not among `names`."""
        present, _ = self._names(dict.fromkeys(names))
        return [name for rule in self.rules for name in rule.theirs if name not in present]

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of `names`, as the file has them, that this table does not read."""
        present, _ = self._names(dict.fromkeys(names))
        used = {name for rule in self.rules for name in rule.theirs} | {tie.their for tie in self.ties}
        return [present[name] for name in sorted(present.keys() - used)]

    def likeness(self, names: Iterable[str]) -> float:
        """The share of the names this table reads that are among `names`: how much a file looks like this model's."""
        return 1 - len(self.missing(names)) / max(sum(len(rule.theirs) for rule in self.rules), 1)

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors from ours, ties left out."""
        expected = {name for rule in self.rules for name in rule.ours} | {tie.our for tie in self.ties}
        wrong = [f"missing {name}" for name in sorted(expected - ours.keys() - {t.our for t in self.ties})]
        wrong += [f"unknown {name}" for name in sorted(ours.keys() - expected)]
        if wrong:
            raise WeightsError(listed("the model's tensors do not fit its weight table", wrong))
        return self.partial_write(ours)

    def partial_write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of their tensors that `ours` suffice for."""
        theirs: dict[str, Tensor] = {}
        for rule in self.rules:
            if all(name in ours for name in rule.ours):
                theirs.update(zip(rule.theirs, rule.write([ours[name] for name in rule.ours]), strict=True))
        return theirs

    def _read_ties(self, theirs: Mapping[str, Tensor], ours: dict[str, Tensor]) -> list[str]:
        problems = []
        for tie in self.ties:
            if tie.same_as not in ours:
                continue
            ours[tie.our] = ours[tie.same_as]
            if tie.their in theirs and not torch.equal(theirs[tie.their], ours[tie.same_as]):
                problems.append(f"{tie.their} differs from the tensor it is tied to ({tie.same_as})")
        return problems

    def _names(self, theirs: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """The name with its prefix -> the name in the file, and what stands there under both."""
        names: dict[str, str] = {}
        twice = []
        for name in theirs:
            if self._is_ignored(name):
                continue
            full = self.today(name)
            if full in names:
                twice.append(f"{names[full]} and {name} are the same tensor")
            names[full] = name
        return names, twice

    def _is_ignored(self, name: str) -> bool:
        patterns = [rule.pattern for rule in self.ignored]
        return any(fnmatch.fnmatchcase(full, pattern) for pattern in patterns for full in (name, self.today(name)))

    def today(self, name: str) -> str:
        """The name as their class has it today."""
        for old, new in self.old_endings:
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name, prefix = name.removeprefix(self.extra_prefix), self.optional_prefix
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


def listed(what: str, problems: Iterable[str]) -> str:
    """`what`, then every problem on a line of its own; those that differ only in a layer's number share one line."""
    problems = list(problems)
    return f"{what} ({len(problems)} problem{'s' * (len(problems) > 1)}):\n    " + "\n    ".join(_by_layer(problems))


_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def _by_layer(problems: list[str]) -> list[str]:
    """``missing h.0.ln.weight``, ``missing h.1.ln.weight`` -> ``missing h.0-1.ln.weight``."""
    layers: dict[str, list[int]] = {}
    for problem in problems:
        number = _LAYER.search(problem)
        layers.setdefault(_LAYER.sub("{}", problem, count=1), []).extend([int(number[0])] if number else [])
    return [problem.replace("{}", _runs(numbers), 1) for problem, numbers in layers.items()]


def _runs(numbers: list[int]) -> str:
    """0, 1, 2, 5 -> ``0-2,5``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
