"""The log-probability of a completion is the sum of its tokens' log-probabilities."""

from __future__ import annotations

import itertools

import pytest
import torch

from formers.errors import ConfigError, DataError
from formers.generation import score, token_log_probs
from formers.models.registry import build

TIGHT = {"rtol": 1e-9, "atol": 1e-9}  # float64, other order of sums


def test_a_completion_scores_the_sum_of_its_tokens(model):
    model.eval()
    prompts, completions = [[1, 2, 3], [4]], [[5, 6], [7, 8, 9, 10]]
    found = score(model, prompts, completions)
    for prompt, completion, one in zip(prompts, completions, found, strict=True):
        log_p = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        parts = [log_p[len(prompt) + i - 1, token] for i, token in enumerate(completion)]
        torch.testing.assert_close(one, torch.stack(parts).sum().detach(), **TIGHT)


def test_all_completions_of_one_prompt_have_probability_one():
    model = build("gpt2", vocab_size=3, d_model=8, num_heads=2, num_layers=1, max_length=8, init_std=0.5).double()
    every = list(itertools.product(range(3), repeat=3))
    assert float(score(model, [[0, 2]], every).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_a_plain_module_scores_the_same(gpt2, plain):
    rows = [[1, 2, 3, 4], [5, 6]]
    for ours, theirs in zip(token_log_probs(gpt2, rows), token_log_probs(plain, rows), strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def test_bad_scores_are_refused(gpt2):
    with pytest.raises(DataError, match="2 prompts for 3 completions"):
        score(gpt2, [[1], [2]], [[1], [2], [3]])
    with pytest.raises(DataError, match="outside the vocabulary: 99"):
        score(gpt2, [[1]], [[99]])
    with pytest.raises(ConfigError, match="98 tokens"):
        score(gpt2, [[1] * 90], [[1] * 8])
