"""A model of short texts made into one of long texts (Longformer, 2004.05150, section 5; LongT5, 2112.07916)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from formers.config import replace
from formers.errors import ConfigError
from formers.models.longformer import HEADS, Longformer, LongformerConfig

WANTED = "a bert, a longformer, a longformer_lm or a t5"
WINDOWS_OF_T5 = 254
"""A radius of 127, as LongT5 has it."""
GLOBAL = "attention.project_global."


def lengthen(model: Any, *, max_length: int | None = None, windows: int | tuple[int, ...] | None = None) -> nn.Module:
    """A new model with the weights of `model` for texts of up to `max_length` tokens, in windows of `windows`.

    bert           becomes a longformer (4,096 tokens, windows of 512): positions are copied in blocks of as many as there were,
                   and the maps of global tokens are copies of the others
    longformer     positions are copied in blocks, windows changed
    longformer_lm  windows changed; it knows no places, and so no longest text
    t5             its encoder sees windows (of 254 tokens) from now on, a LongT5; it knows no places either

    A text that fits the window, windows / 2 + 1 tokens, gives what it gave (of longformer_lm: as many as the old windows saw).
    Longer ones need a little training: positions beyond the old last are only plausible (see docs/models/longformer.md), and a
    t5 is used to seeing all at once.

    Raises ConfigError for other models, heads that a longformer does not have, and lengths below the old.
    """
    config = getattr(model, "config", None)
    architecture = getattr(config, "architecture", type(model).__name__)
    if architecture in ("longformer_lm", "t5"):
        return _with_windows(model, max_length, windows)
    if architecture not in ("bert", "longformer"):
        raise ConfigError(f"lengthen was given a {architecture}", WANTED)
    assert config is not None
    old, first = (config, config.first_position) if architecture == "longformer" else (longformer_of(config), 0)
    new = replace(
        old, max_length=max_length or max(old.max_length, 4096), **({} if windows is None else {"windows": windows})
    )
    if new.max_length < config.max_length:
        raise ConfigError(f"max_length={new.max_length} for a model of {config.max_length} tokens", "more, not fewer")
    tensors = dict(model.state_dict())
    tensors["embedding.places.table.weight"] = tiled(tensors["embedding.places.table.weight"], first, new)
    if architecture == "bert":
        tensors |= {
            name.replace("attention.project.", GLOBAL): tensor
            for name, tensor in tensors.items()
            if "attention.project." in name
        }
    return _filled(Longformer(new), tensors, model)


def longformer_of(config: Any) -> LongformerConfig:
    """A BERT's settings as those of a longformer, whose table of positions begins with a row for padding (id 0)."""
    names = {field.name for field in dataclasses.fields(LongformerConfig)}
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name in names}
    problems = [] if config.head in HEADS else [f"head {config.head!r} is none of {', '.join(HEADS)}"]
    if config.head == "masked_token" and config.activation != "gelu":
        problems.append(f"the activation of its head is {config.activation!r}, a longformer's is 'gelu'")
    if getattr(config, "classifier_dropout", None) not in (None, config.dropout):
        problems.append(f"classifier_dropout is {config.classifier_dropout}, a longformer has one dropout for all")
    if problems:
        raise ConfigError("a bert that is no longformer: " + "; ".join(problems), do="load it with another head")
    return LongformerConfig(**shared, first_position=1, separator=None)


def tiled(table: Tensor, first: int, config: LongformerConfig) -> Tensor:
    """Rows of positions, those from `first` on, repeated in blocks; what no text reads stands before them once."""
    unread, read = table[:first], table[first:]
    unread = torch.cat([unread, table.new_zeros(config.first_position - first, table.shape[1])])
    times = -(-config.max_length // len(read))
    return torch.cat([unread, read.repeat(times, 1)[: config.max_length]])


def _with_windows(model: Any, max_length: int | None, windows: int | tuple[int, ...] | None) -> nn.Module:
    name = model.config.architecture
    if max_length is not None:
        raise ConfigError(f"max_length={max_length} for a {name}", "windows alone: it knows no longest text")
    if name == "t5":
        changes: dict[str, Any] = {"local_radius": _half(WINDOWS_OF_T5 if windows is None else windows)}
    elif windows is None:
        raise ConfigError("a longformer_lm and no windows", "windows, for instance twice as wide")
    else:
        changes = {"windows": windows}
    return _filled(type(model)(replace(model.config, **changes)), model.state_dict(), model)


def _half(windows: int | tuple[int, ...]) -> int:
    if not isinstance(windows, int) or windows < 2 or windows % 2:
        raise ConfigError(
            f"windows={windows} for a t5", "an even number from 2 on: half of it before a token, half behind"
        )
    return windows // 2


def _filled(made: nn.Module, tensors: dict[str, Tensor], like: nn.Module) -> nn.Module:
    weight = next(like.parameters())
    made = made.to(device=weight.device, dtype=weight.dtype).train(like.training)
    made.load_state_dict(tensors)
    return made
