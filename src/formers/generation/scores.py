"""How probable given text is: the sum of the log-probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formers.errors import ConfigError, DataError
from formers.generation.prompts import PromptIds, Prompts, max_length_of
from formers.generation.readers import begin, device_of, evaluating, given_source, logits_of
from formers.parts.model import Model


def score(model: nn.Module, prompts: PromptIds, completions: PromptIds) -> Float[Tensor, " batch"]:
    """log p(completion | prompt) of each row, in nats, float64: the sum of its tokens' log-probabilities.

    One prompt may stand before many completions; to an encoder-decoder it is the source. Raises DataError and ConfigError
    as `generate` does.
    """
    before, after = Prompts.read(prompts).rows, Prompts.read(completions).rows
    if len(before) not in (1, len(after)):
        raise DataError(f"{len(before)} prompts for {len(after)} completions", "as many, or one prompt for all")
    begun, source = begin(model, Prompts(before * len(after) if len(before) == 1 else before))
    each = _log_probs(model, Prompts(tuple(p + c for p, c in zip(begun.rows, after, strict=True))), source)
    return torch.stack([row[-len(c) :].sum() for row, c in zip(each, after, strict=True)])


def token_log_probs(model: nn.Module, input_ids: PromptIds) -> list[Float[Tensor, " rest"]]:
    """log p(token | all before it) for every token of each row but its first, float64, on the CPU."""
    return _log_probs(model, Prompts.read(input_ids), None)


def _log_probs(model: nn.Module, texts: Prompts, source: Prompts | None) -> list[Float[Tensor, " rest"]]:
    _check(model, texts)
    with torch.inference_mode(), evaluating(model.modules()):
        ids, last = _padded_right(texts.rows, device_of(model))
        each = _logits(model, ids, given_source(source, ids.device))
        found = [_of_row(logits[: n - 1], row[1:n]) for logits, row, n in zip(each, ids, last, strict=True)]
    return [row.clone() for row in found]


def _of_row(logits: Tensor, targets: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return wide.gather(-1, targets[:, None])[:, 0].double().cpu()


def _logits(model: nn.Module, ids: Tensor, given: dict[str, Any]) -> Iterator[Tensor]:
    """Logits [seq, vocab] of each row. Padding stands on the right, where no token of a causal model looks."""
    if not isinstance(model, Model):
        yield from logits_of(model(ids, **given), model)
        return
    hidden, _ = model.body(ids, **given)
    for row in hidden:  # one row at a time: logits of all would be the largest tensor by far
        yield model.head(row[None])[0]


def _padded_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, list[int]]:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device), [len(r) for r in rows]


def _check(model: nn.Module, texts: Prompts) -> None:
    texts.check_vocabulary(model)
    allowed = max_length_of(model)
    if allowed is not None and texts.longest > allowed:
        raise ConfigError(f"a text of {texts.longest} tokens", f"at most {allowed}, the positions this model has")
