"""A stored body under another head: what the folder holds of the new head is read, the rest is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from formers.parts.attention import initialise_normal
from formers.weights import Ignore, Rule, Table

SEED = 0
"""Draws the weights of a head that a folder does not hold, so that one folder always loads as one model."""
LABELLING = ("classifier.", "qa_outputs.", "classification_head.")
"""Maps to the labels of one task. They mean nothing to another head, though its map has the same name."""


def is_another_head(stored: Any, config: Any) -> bool:
    """Whether the changes ask for a head that the folder was not saved with."""
    return (getattr(stored, "head", None), getattr(stored, "num_labels", None)) != (
        getattr(config, "head", None),
        getattr(config, "num_labels", None),
    )


def under_another_head(
    module: ModuleType, stored: Any, config: Any, theirs: Mapping[str, Tensor]
) -> tuple[Table, dict[str, Tensor]]:
    """The table of `config` without the rules that the folder cannot meet, and new tensors for what these would read.

    What belongs to the head of `stored` alone is passed over.
    """
    table, drawn = module.weights(config), _drawn(module, config)
    old, new = of_head(module.weights(stored).rules), of_head(table.rules)
    absent = [rule for rule in new if not _is_met(rule, table, theirs, drawn, stored.head == config.head)]
    kept = tuple(rule for rule in table.rules if rule not in absent)
    wanted = {name for rule in kept for name in rule.theirs} | {tie.their for tie in table.ties}
    names = {table.today(name) for rule in old for name in rule.theirs}
    names |= {table.today(tie.their) for tie in module.weights(stored).ties}
    passed = tuple(Ignore(name, "of the head that was replaced") for name in sorted(names - wanted))
    missing = {name: drawn[name] for rule in absent for name in rule.ours}
    return replace(table, rules=kept, ignored=table.ignored + passed), missing


def of_head(rules: Iterable[Rule]) -> list[Rule]:
    """Those of the rules that make tensors of the head."""
    return [rule for rule in rules if all(name.startswith("head.") for name in rule.ours)]


def _is_met(
    rule: Rule, table: Table, theirs: Mapping[str, Tensor], drawn: Mapping[str, Tensor], same_head: bool
) -> bool:
    if not same_head and any(name.startswith(LABELLING) for name in rule.theirs):
        return False
    read, _ = replace(table, rules=(rule,), ties=()).partial(theirs)
    return all(name in read and read[name].shape == drawn[name].shape for name in rule.ours)


@torch.no_grad()
def _drawn(module: ModuleType, config: Any) -> dict[str, Tensor]:
    """A fresh head's tensors by the model's names."""
    head = module.HEADS[config.head](config)
    initialise_normal(head, config.init_std, torch.Generator().manual_seed(SEED))
    return {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
