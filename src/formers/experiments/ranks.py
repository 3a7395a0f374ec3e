"""How likely each token of a text was held to be, and how many were held to be likelier: teacher forcing, no dropout, no
padding counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from formers.data.batch import NO_TARGET
from formers.training.evaluate import EDGES, evaluating, stretches
from formers.training.objective import Objective, accepts

BEST = 5
"""top5 counts the tokens that were among so many likeliest."""

CHUNK = 512
"""Tokens whose logits are held at a time."""


class Ranked(Objective):
    """Scores with the rank of each target in place of whether it was the likeliest: how many tokens come before it, by their
    logits and, where these are equal, by their number."""

    def answer(self, hidden: Tensor, head: Any, targets: Tensor, *, scores: bool) -> tuple[Tensor, Tensor]:
        """Loss in nats and rank of each target [batch, seq]; 0 and 0 where there is none."""
        assert scores, "nothing is trained here"
        flat, wanted = hidden.flatten(0, -2), targets.flatten()
        losses = torch.zeros(len(flat), dtype=torch.promote_types(flat.dtype, torch.float32), device=flat.device)
        ranks = torch.zeros_like(wanted)
        for rows in (wanted != NO_TARGET).nonzero()[:, 0].split(CHUNK):
            logits = head(flat[None, rows])[0].to(losses.dtype)
            of_target = logits.gather(1, wanted[rows, None])
            losses[rows] = logits.logsumexp(1) - of_target[:, 0]
            before = torch.arange(logits.shape[1], device=flat.device) < wanted[rows, None]
            ranks[rows] = ((logits > of_target) | ((logits == of_target) & before)).sum(1)
        return losses.view(targets.shape), ranks.view(targets.shape)


class Sums:
    """Sums over the tokens of several texts."""

    def __init__(self, texts: int) -> None:
        self.by_place, self.hits = np.zeros((texts, len(EDGES), 2)), np.zeros((texts, 2), dtype=int)

    def add(self, texts: Sequence[int], losses: Tensor, ranks: Tensor, wanted: np.ndarray, index: np.ndarray) -> None:
        """The rows of a call: which text each is of, loss and rank [rows, tokens], targets, and places in the text."""
        loss, rank = losses.double().cpu().numpy(), ranks.cpu().numpy()
        for row, text in enumerate(texts):
            there = wanted[row] != NO_TARGET
            stretch = stretches(index[row, there])
            np.add.at(self.by_place[text, :, 0], stretch, loss[row, there])
            np.add.at(self.by_place[text, :, 1], stretch, 1)
            self.hits[text] += [int((rank[row, there] < best).sum()) for best in (1, BEST)]

    def rows(self, texts: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Of each text: tokens that were scored, their loss, hits, and loss and number by place."""
        return [
            {
                "tokens": len(text) - 1,
                "loss": float(part[:, 0].sum()),
                "right": int(hits[0]),
                "top5": int(hits[1]),
                "by_position": [[EDGES[i], float(loss), int(n)] for i, (loss, n) in enumerate(part) if n],
            }
            for text, part, hits in zip(texts, self.by_place, self.hits, strict=True)
        ]


# --- windows ------------------------------------------------------------------------------------------------------------


def read_windows(
    model: nn.Module, texts: Sequence[np.ndarray], length: int, *, rows: int = 16, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Score texts with a model that reads windows of `length` tokens, each on its own. Windows begin every half of their
    length and score what the one before did not, so that each token but the first ones has half a window before it.

    texts  tokens, int64 [length of the text] each
    """
    windows = [(text, start) for text, ids in enumerate(texts) for start in _starts(len(ids) - 1, length)]
    sums, objective, placed = Sums(len(texts)), Ranked(model), accepts(model, "positions")
    with evaluating(objective):
        for first in range(0, len(windows), rows):
            group = windows[first : first + rows]
            ids, wanted, index = _windows(texts, group, length)
            place = np.where(index < 0, -1, np.arange(length)) if placed else None
            given = [None if each is None else torch.from_numpy(each).to(device) for each in (ids, wanted, place)]
            losses, ranks, _ = objective(*given, None, None, scores=True)
            sums.add([text for text, _ in group], losses, ranks, wanted, index)
    return sums.rows(texts)


def _stride(length: int) -> int:
    return max(1, length // 2)


def _starts(inputs: int, length: int) -> list[int]:
    """Where windows begin: at 0, and each half a window on, until all inputs are read."""
    stride = _stride(length)
    return [0, *range(stride, inputs - length + stride, stride)] if inputs > length else [0]


def _windows(
    texts: Sequence[np.ndarray], group: Sequence[tuple[int, int]], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, targets (-100 where an earlier window scores them) and place in the text, each [windows, length]."""
    ids = np.zeros((len(group), length), dtype=np.int64)
    wanted, index = np.full_like(ids, NO_TARGET), np.full_like(ids, -1)
    for row, (text, start) in enumerate(group):
        part = texts[text][start : start + length + 1]
        n, before = len(part) - 1, 0 if start == 0 else length - _stride(length)
        ids[row, :n], index[row, :n] = part[:-1], np.arange(start, start + n)
        wanted[row, before:n] = part[1 + before :]
    return ids, wanted, index


def predicted(model: nn.Module, ids: np.ndarray, *, device: str = "cpu") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each token of a text but the first: the likeliest one in its place, its own probability, and its rank [length - 1].

    ids  int64 [length], no longer than what the model takes at once
    """
    given = torch.from_numpy(ids[None]).to(device)
    with evaluating(model):
        logits = model(given[:, :-1]).logits[0].double()
    truth = given[0, 1:, None]
    chance = logits.log_softmax(-1).gather(1, truth)[:, 0].exp()
    rank = (logits > logits.gather(1, truth)).sum(1)
    return logits.argmax(-1).cpu().numpy(), chance.cpu().numpy(), rank.cpu().numpy()
