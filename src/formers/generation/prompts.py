"""Prompts: read from whatever was given, checked before anything runs, and padded on the left where lengths differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import ConfigError, DataError
from formers.parts.positions import EMPTY, Positions

PromptIds = Tensor | Sequence[int] | Sequence[Sequence[int]]
"""Int [batch, seq] or [seq], or a list of ids, or a list of lists of ids of any lengths."""


@dataclass(frozen=True)
class Prompts:
    """One list of ids a row, none of them empty."""

    rows: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, input_ids: PromptIds) -> Prompts:
        """Raises DataError where there is no prompt, or an empty one, or something that is no id."""
        rows = _rows(input_ids)
        if not rows:
            raise DataError("no prompts were given", "at least one row of ids")
        empty = [str(i) for i, row in enumerate(rows) if not row]
        if empty:
            raise DataError(
                f"prompt {', '.join(empty)} is empty",
                "at least one id a row, for a model to go on from",
                "begin with the tokenizer's end_of_text id, as documents do",
            )
        return cls(rows)

    @property
    def batch_size(self) -> int:
        return len(self.rows)

    @property
    def longest(self) -> int:
        return max(map(len, self.rows))

    @property
    def ragged(self) -> bool:
        return min(map(len, self.rows)) < self.longest

    def check(self, model: nn.Module, max_new_tokens: int) -> None:
        """Raise one error where the model cannot take these prompts and so many tokens after them."""
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}", "at least 1")
        self.check_vocabulary(model)
        allowed = max_length_of(model)
        if allowed is not None and self.longest + max_new_tokens > allowed:
            raise ConfigError(
                f"a prompt of {self.longest} tokens and {max_new_tokens} new ones make {self.longest + max_new_tokens}",
                f"at most {allowed} together, the positions this model has",
                f"ask for at most {allowed - self.longest} new tokens"
                if self.longest < allowed
                else f"cut the prompt below {allowed} tokens",
            )

    def check_vocabulary(self, model: nn.Module) -> None:
        """Raise DataError where ids lie outside the model's vocabulary, and name them."""
        vocab_size = vocab_size_of(model)
        outside = sorted({i for row in self.rows for i in row if i < 0 or (vocab_size is not None and i >= vocab_size)})
        if outside:
            shown = ", ".join(map(str, outside[:8])) + (f" and {len(outside) - 8} more" if len(outside) > 8 else "")
            raise DataError(
                f"ids outside the vocabulary: {shown}",
                f"0 to {vocab_size - 1}" if vocab_size is not None else "0 or more",
                "encode the prompt with the tokenizer this model was trained with",
            )

    def padded(self, pad: int, device: torch.device | str) -> Tensor:
        """Int [batch, longest], padding on the left."""
        longest = self.longest
        return torch.tensor([[pad] * (longest - len(row)) + list(row) for row in self.rows], device=device)

    def present(self, device: torch.device | str) -> Tensor | None:
        """Bool [batch, longest], False at padding; None where no row has any."""
        return None if not self.ragged else self.positions(device).present

    def positions(self, device: torch.device | str, start: int = 0) -> Positions:
        """Tokens count from `start` in every row; padding is -1."""
        if not self.ragged:
            return Positions.offset(start, self.longest, device=device)
        lengths = torch.tensor([len(row) for row in self.rows], device=device)[:, None]
        index = torch.arange(self.longest, device=device)[None] - (self.longest - lengths)
        return Positions(torch.where(index < 0, EMPTY, index + start))

    def without(self, beginning: int) -> Prompts:
        """The prompts behind their first `beginning` ids."""
        return Prompts(tuple(row[beginning:] for row in self.rows))


def _rows(input_ids: PromptIds) -> tuple[tuple[int, ...], ...]:
    if isinstance(input_ids, Tensor):
        if input_ids.is_floating_point() or input_ids.dtype == torch.bool or input_ids.dim() not in (1, 2):
            raise DataError(
                f"prompts of type {input_ids.dtype} and shape {tuple(input_ids.shape)}",
                "integers [batch, seq] or [seq]",
            )
        input_ids = (input_ids[None] if input_ids.dim() == 1 else input_ids).tolist()
    if isinstance(input_ids, str):
        raise DataError(
            "a prompt of text was given", "token ids", "generate_text(model, tokenizer, prompts) takes text"
        )
    given = list(input_ids)
    if given and all(_is_id(item) for item in given):
        given = [given]
    try:
        rows = tuple(tuple(row.tolist() if isinstance(row, Tensor) else row) for row in given)  # type: ignore[arg-type]
    except TypeError:
        raise DataError(f"prompts {given!r:.60}", "a list of ids, or a list of lists of ids") from None
    wrong = [item for row in rows for item in row if not _is_id(item)]
    if wrong:
        raise DataError(f"a prompt holds {wrong[0]!r}", "integers, the ids of tokens")
    return tuple(tuple(int(i) for i in row) for row in rows)


def _is_id(item: Any) -> bool:
    return isinstance(item, Integral) and not isinstance(item, bool)


def vocab_size_of(model: nn.Module) -> int | None:
    """What the model's config says; None where it says nothing."""
    return _setting(model, "vocab_size")


def max_length_of(model: nn.Module) -> int | None:
    """The positions that the model has; None where there is no limit or the config says nothing."""
    if not hasattr(model, "inputs"):  # `max_length` means something else in the configs of others
        return _setting(model, "max_position_embeddings") or _setting(model, "n_positions")
    return _setting(model, "max_length")


def _setting(model: nn.Module, name: str) -> int | None:
    value = getattr(getattr(model, "config", None), name, None)
    return value if isinstance(value, int) else None
