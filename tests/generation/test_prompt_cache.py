"""With a cache the text is the same, and only what was not read before is read."""

from __future__ import annotations

import pytest
import torch

from formers.errors import ConfigError
from formers.generation import PromptCache, generate
from formers.generation.prompt_cache import common

SETTINGS = {"max_new_tokens": 12, "seed": 3, "top_k": 30}


def test_a_second_prompt_reads_only_what_is_new(model):
    cache = PromptCache(model, 60)
    prompts = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9, 9], [1, 2, 3], [7, 7]]
    read = []
    for prompt in prompts:
        before = cache.read
        assert torch.equal(generate(model, prompt, cache=cache, **SETTINGS), generate(model, prompt, **SETTINGS))
        read.append(cache.read - before)
    # all but the last id, which every call reads anew for its logits, and less what the one before began with
    assert read == [4, 3, 1, 0, 1]


@pytest.mark.parametrize("prompts", [[[1, 2, 3, 4]] * 3, [[1, 2, 3], [1, 2, 5, 6, 7, 8], [1, 2, 3, 4]], [[1], [2, 3]]])
def test_rows_of_a_batch_share_their_beginning(model, prompts):
    cache = PromptCache(model, 60)
    for _ in range(2):
        assert torch.equal(generate(model, prompts, cache=cache, **SETTINGS), generate(model, prompts, **SETTINGS))
    assert cache.read == min(min(map(len, prompts)) - 1, len(common([tuple(p) for p in prompts])))


def test_other_weights_are_noticed(gpt2):
    cache = PromptCache(gpt2, 60)
    generate(gpt2, [1, 2, 3, 4], cache=cache, **SETTINGS)
    with torch.no_grad():
        gpt2.trunk.blocks[0]["attention"].project.linear.weight.mul_(0.5)
    assert torch.equal(generate(gpt2, [1, 2, 3, 4], cache=cache, **SETTINGS), generate(gpt2, [1, 2, 3, 4], **SETTINGS))


def test_a_state_that_cannot_be_cut_is_read_anew(gpt2):
    from formers.parts.attention import KeyValueWindow
    from formers.parts.masks import Causal, Window

    for block in gpt2.trunk.blocks:
        attention = block["attention"]
        attention.score.mask, attention.remember = Causal() & Window(4), KeyValueWindow(4, 8, 4)
    cache = PromptCache(gpt2, 60)
    for prompt in ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 9]):
        assert torch.equal(generate(gpt2, prompt, cache=cache, **SETTINGS), generate(gpt2, prompt, **SETTINGS))
    assert cache.read == 7 + 4


def test_a_cache_that_does_not_fit_is_refused(gpt2, plain, model):
    with pytest.raises(ConfigError, match="keeps no state"):
        PromptCache(plain, 10)
    with pytest.raises(ConfigError, match="cache of another model"):
        generate(gpt2, [1], cache=PromptCache(model, 60))
    with pytest.raises(ConfigError, match="a cache for 10 tokens, with prompt and continuation of 13"):
        generate(gpt2, [1], cache=PromptCache(gpt2, 10), max_new_tokens=12)


def test_what_rows_have_in_common_is_their_longest_beginning():
    assert common([(1, 2, 3), (1, 2), (1, 2, 4)]) == (1, 2)
    assert common([(1, 2), (2, 1)]) == ()
    assert common([(5, 6)]) == (5, 6)
