"""Models brought to one size: widths and depths of a recipe changed in allowed steps until it has as many parameters, or
takes as many operations a token, as all others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from formers.errors import ConfigError, FormersError
from formers.experiments import contest
from formers.recipes import Recipe

if TYPE_CHECKING:
    from formers.experiments.compare import CompareSettings

STEP = 8
"""d_ff and what stands for it change in steps of so many."""

FINE = ("d_ff", "memory_size")
"""Settings of which the first that changes what is counted is turned last, because its steps are the smallest."""

LAYERS = (0, 1, -1, 2, -2)
"""Layers more or fewer that are tried where widths alone do not do."""

HOPELESS = 2.0
"""So far off, by all widths, that a layer more or fewer will not do."""

Count = Callable[[Recipe[Any]], float]


@dataclass(frozen=True)
class Match:
    """What was done to a recipe. `changes`: setting -> (before, after). `before`, `after`, `target` in what was counted."""

    label: str
    what: str
    before: float
    after: float
    target: float
    changes: Mapping[str, tuple[Any, Any]]

    @property
    def off(self) -> float:
        """By which share it misses the target."""
        return self.after / self.target - 1

    def words(self) -> str:
        """How, and how well."""
        did = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in self.changes.items())
        return f"{self.label}: {self.after:,.0f} {self.what} ({self.off:+.2%}), {did or 'as it is'}"


def parameters(recipe: Recipe[Any]) -> int:
    """Numbers that the recipe's model holds, shared ones once. Nothing is allocated, but for a model of the user's own."""
    with torch.device("cpu" if recipe.code else "meta"):
        return sum(p.numel() for p in recipe.build().parameters())


def operations(recipe: Recipe[Any]) -> int:
    """Of a training token."""
    return contest.operations(recipe.build(), recipe.train.seq_len, carried=recipe.train.carry_state)


def to_one_size(
    found: Mapping[str, Recipe[Any]],
    settings: CompareSettings,
    *,
    lead: Recipe[Any] | None = None,
    own: Mapping[str, int] | None = None,
) -> tuple[dict[str, Recipe[Any]], list[Match]]:
    """The recipes at one size, and what was done to each: that of `lead`, or else of the first, unless the budget names one.

    own  parameters of recipes that have a size of their own, whatever the others have
    """
    own, recipes, matches = own or {}, dict(found), []
    for label, size in own.items():
        alone, done = match_all(
            {label: found[label]}, size, parameters, what="parameters", tolerance=settings.tolerance
        )
        recipes |= alone
        matches += done
    others = {label: recipe for label, recipe in recipes.items() if label not in own}
    if not others or settings.match == "nothing":
        return recipes, matches
    count, what = (parameters, "parameters") if settings.match == "parameters" else (operations, "operations a token")
    asked = settings.budget.parameters if settings.budget and settings.match == "parameters" else None
    target = asked or count(lead or next(iter(recipes.values())))
    alike, done = match_all(others, target, count, what=what, tolerance=settings.tolerance)
    return recipes | alike, matches + done


def match_all(
    recipes: Mapping[str, Recipe[Any]], target: float, count: Count, *, what: str, tolerance: float
) -> tuple[dict[str, Recipe[Any]], list[Match]]:
    """Every recipe brought to `target` of what `count` counts. Raises ConfigError that lists all that cannot be."""
    found = {
        label: match(label, recipe, target, count, what=what, tolerance=tolerance) for label, recipe in recipes.items()
    }
    missed = [done for _, done in found.values() if abs(done.off) > tolerance]
    if missed:
        raise ConfigError(
            "; ".join(
                f"{m.label} cannot be brought to {m.target:,.0f} {m.what}: the nearest has {m.after:,.0f} ({m.off:+.1%})"
                for m in missed
            ),
            f"within {100 * tolerance:.3g}%",
            f"leave {'it' if len(missed) == 1 else 'them'} out, choose another size, give a larger --tolerance, or "
            "--match nothing",
        )
    return {label: recipe for label, (recipe, _) in found.items()}, [done for _, done in found.values()]


def match(
    label: str, recipe: Recipe[Any], target: float, count: Count, *, what: str, tolerance: float
) -> tuple[Recipe[Any], Match]:
    """The recipe changed as little as will do; the nearest where nothing does."""
    before = count(recipe)
    if abs(before / target - 1) <= tolerance:
        return recipe, Match(label, what, before, before, target, {})
    best, best_score, counted = recipe, math.inf, before
    for layers in LAYERS:
        for changed, distortion in _candidates(recipe, layers, target, count):
            now = count(changed)
            off = abs(now / target - 1)
            score = distortion if off <= tolerance else 1e3 * (1 + off)
            if score < best_score:
                best, best_score, counted = changed, score, now
        if best_score < 1e3 or abs(counted / target - 1) > HOPELESS:
            break
    changes = {
        field.name: (getattr(recipe.model, field.name), getattr(best.model, field.name))
        for field in dataclasses.fields(recipe.model)
        if getattr(recipe.model, field.name) != getattr(best.model, field.name)
    }
    return best, Match(label, what, before, counted, target, changes)


def _candidates(recipe: Recipe[Any], layers: int, target: float, count: Count) -> Iterator[tuple[Recipe[Any], float]]:
    """Recipes near the target, one a width, and how far each is from the proportions of the recipe."""
    config = recipe.model
    depth = getattr(config, "num_layers", None)
    if layers and (depth is None or depth + layers < 1):
        return
    deeper = {"num_layers": depth + layers} if layers and depth is not None else {}
    for width in _widths(config):
        ratio = width / config.d_model if width else 1.0
        wide = ({"d_model": width} if width else {}) | deeper
        if (tuned := _tuned(recipe, wide, ratio, target, count)) is not None:
            yield tuned[0], tuned[1] + 1e-3 * abs(math.log(ratio))
        elif (changed := _with(recipe, wide)) is not None:
            yield changed, abs(math.log(ratio))


def _widths(config: Any) -> Iterable[int | None]:
    """d_model in steps that keep heads whole and even (rotary positions turn pairs); None where there is no such setting."""
    d_model = getattr(config, "d_model", None)
    if d_model is None:
        return (None,)
    step = STEP if getattr(config, "d_head", None) else 2 * getattr(config, "num_heads", STEP // 2)
    return range(max(step, d_model // 4 // step * step), 4 * d_model + 1, step)


def _tuned(
    recipe: Recipe[Any], wide: dict[str, Any], ratio: float, target: float, count: Count
) -> tuple[Recipe[Any], float] | None:
    """The recipe at other widths with its finest setting where it comes nearest the target, within a factor of two of its
    usual size, and how far from that it is. None where no such setting changes what is counted."""
    config = recipe.model
    for knob in (name for name in FINE if hasattr(config, name)):
        usual = (getattr(config, knob) or 4 * getattr(config, "d_model", 0)) * ratio
        low = max(STEP, round(usual / STEP) * STEP)
        first, second = _with(recipe, wide | {knob: low}), _with(recipe, wide | {knob: low + 8 * STEP})
        if first is None or second is None or (slope := (count(second) - (at := count(first))) / (8 * STEP)) <= 0:
            continue  # what is counted is linear in it, or does not depend on it
        wanted = round((low + (target - at) / slope) / STEP) * STEP
        value = min(max(wanted, STEP, math.ceil(usual / 2 / STEP) * STEP), max(STEP, int(usual * 2 / STEP) * STEP))
        changed = _with(recipe, wide | {knob: value})
        return None if changed is None else (changed, abs(math.log(value / usual)))
    return None


def _with(recipe: Recipe[Any], changes: dict[str, Any]) -> Recipe[Any] | None:
    """The recipe with other sizes; None where its config refuses them."""
    try:
        return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **changes))
    except FormersError:
        return None
