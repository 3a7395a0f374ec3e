"""Which parameters learn (`TrainSettings.only`), the others held still, and which at a multiple of the rate (`lr_factors`)."""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from formers.errors import ConfigError, suggest
from formers.parts.recollection import memory_attentions
from formers.training.settings import split_factor

Names = dict[str, nn.Parameter]


@contextlib.contextmanager
def only_these_learn(model: nn.Module, only: Sequence[str]) -> Iterator[None]:
    """Within, no parameter wants a gradient but those that `only` names. Raises ConfigError as `learners` does."""
    learning = {id(parameter) for parameter in learners(model, only).values()}
    still = [p for p in model.parameters() if p.requires_grad and id(p) not in learning]
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)


def learners(model: nn.Module, only: Sequence[str]) -> Names:
    """The parameters that words (see `WORDS`) and patterns of names (``*``, ``?``, ``[..]``) mean, by name.

    Raises ConfigError, with the names there are, where one means nothing.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    meant = {word: WORDS[word](model, named) if word in WORDS else _matching(word, named) for word in only}
    nothing = [word for word, found in meant.items() if not found]
    if nothing:
        raise ConfigError(*_means_nothing(nothing, model, named))
    return {name: parameter for found in meant.values() for name, parameter in found.items()}


def lr_factors(model: nn.Module, factors: Sequence[str]) -> dict[str, float]:
    """By parameter name, the multiples of the learning rate that ``gates=30`` and the like ask for; the last one holds.

    Gates of a model that has none are passed over, since recipes name them. Raises ConfigError for patterns as `learners` does.
    """
    found: dict[str, float] = {}
    named = dict(model.named_parameters(remove_duplicate=False))
    for word, factor in map(split_factor, factors):
        meant = WORDS[word](model, named) if word in WORDS else learners(model, (word,))
        found |= dict.fromkeys(meant, factor)
    return found


def _matching(pattern: str, named: Names) -> Names:
    return {name: parameter for name, parameter in named.items() if fnmatch.fnmatchcase(name, pattern)}


def _below(named: Names, *modules: str) -> Names:
    return {name: parameter for name, parameter in named.items() if name.startswith(tuple(f"{m}." for m in modules))}


WORDS: dict[str, Callable[[nn.Module, Names], Names]] = {
    "all": lambda model, named: dict(named),
    "memory": lambda model, named: _below(named, *memory_attentions(model)),
    "gates": lambda model, named: _below(named, *(f"{layer}.merge" for layer in memory_attentions(model))),
}
"""all; the attention layers that have a memory; the gates of these, a number a head."""


def _means_nothing(words: list[str], model: nn.Module, named: Names) -> tuple[str, str, str]:
    kinds = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in named})
    reason = ""
    if {"gates", "memory"} & set(words):
        reason = "; its memories have no gates" if memory_attentions(model) else "; the model has no memory"
    return (
        f"{', '.join(map(repr, words))} is asked for, which {type(model).__name__} has no parameter for{reason}",
        f"{', '.join(WORDS)}, or patterns of: {', '.join(kinds)}",
        suggest(words[0], [*WORDS, *kinds]),
    )
