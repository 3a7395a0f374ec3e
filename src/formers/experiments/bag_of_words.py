"""A text as the words in it, and nothing of their order: logistic regression, what a text classifier has to beat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s]+")
LEAST = 2
"""Texts that a word must stand in."""
PENALTY = 1.0
"""Half of it times the squared weights is added to the sum of the losses: the inverse of scikit-learn's C."""


def words(text: str) -> list[str]:
    """The distinct words and runs of marks (smileys) of a text, in lower case."""
    return sorted(set(_WORD.findall(text.lower())))


def logistic_regression(
    texts: Sequence[str], labels: Sequence[int], test: Sequence[str], num_labels: int, *, steps: int = 100
) -> list[int]:
    """The likeliest label of each text of `test`, learnt from `texts`; the same at every call: nothing is drawn."""
    seen = Counter(word for text in texts for word in words(text))
    known = {word: number for number, word in enumerate(sorted(w for w, n in seen.items() if n >= LEAST))}
    given, truth = _matrix(texts, known), torch.tensor(labels)
    weight = torch.zeros(len(known), num_labels, requires_grad=True)
    bias = torch.zeros(num_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        logits = torch.sparse.mm(given, weight) + bias
        total = F.cross_entropy(logits, truth, reduction="sum") + PENALTY / 2 * weight.square().sum()
        total.backward()
        return total.item()

    optimizer.step(loss)
    with torch.no_grad():
        return (torch.sparse.mm(_matrix(test, known), weight) + bias).argmax(-1).tolist()


def _matrix(texts: Sequence[str], known: dict[str, int]) -> Tensor:
    """[texts, words], 1 where a text has a word; sparse."""
    places = [(row, known[word]) for row, text in enumerate(texts) for word in words(text) if word in known]
    where = torch.tensor(places, dtype=torch.long).reshape(-1, 2).t()
    return torch.sparse_coo_tensor(where, torch.ones(len(places)), (len(texts), len(known)), check_invariants=True)
