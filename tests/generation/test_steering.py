"""Steered text: distributions against enumeration, one pass for all candidates, and choosing among whole continuations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from formers.errors import ConfigError, DataError, RunError
from formers.generation import choose, complete, generate_allowed, generate_between, generate_toward, score
from formers.generation.loop import Generation
from formers.models.registry import build
from tests.generation.conftest import Plain

EXACT = 1e-9
"""Float64, the same sums in another order."""
VOCAB = 50
FIRST, SECOND = [[1, 2, 3, 4], [5, 6]], [[7, 8], [9, 10, 11]]
"""Contexts of different lengths."""


@pytest.fixture
def toy() -> nn.Module:
    sizes = {"num_layers": 2, "d_model": 32, "num_heads": 4, "vocab_size": VOCAB, "max_length": 97}
    return build("gpt2", **sizes, init_std=0.4, seed=2).double().eval()


def probabilities(model: nn.Module, ids: list[int]) -> Tensor:
    """Of the next token, by a whole forward."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].softmax(-1)


class Seen:
    """The distributions that a generation drew from, step by step, as the sampler was handed them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from formers.generation.samplers import Sampler

        self.steps: list[Tensor] = []
        process = Sampler.__call__

        def note(sampler: Sampler, logits: Tensor, *rest: Any) -> Tensor:
            self.steps.append(logits.softmax(-1))
            return process(sampler, logits, *rest)

        patch.setattr(Sampler, "__call__", note)


@pytest.fixture
def drawn_from(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def by_hand(how: str, weight: float, floor: float, p: Tensor, q: Tensor) -> Tensor:
    if how == "product":
        made = p ** (1 - weight) * q**weight
    elif how == "mixture":
        made = (1 - weight) * p + weight * q
    else:
        made = p * (p / q) ** weight * (p >= floor * p.max())
    return made / made.sum()


@pytest.mark.parametrize(
    ("how", "weight"), [("product", 0.5), ("product", 0.2), ("mixture", 0.5), ("mixture", 0.9), ("difference", 0.7)]
)
def test_two_contexts_make_the_distribution_of_brute_force(
    toy: nn.Module, drawn_from: Seen, how: str, weight: float
) -> None:
    made = generate_between(toy, FIRST, SECOND, how=how, weight=weight, max_new_tokens=5, seed=3)
    assert made.prompts == tuple(map(tuple, FIRST))
    for row, new in enumerate(made.new):
        for step in range(5):
            before = list(new[:step])
            p, q = (probabilities(toy, contexts[row] + before) for contexts in (FIRST, SECOND))
            found = drawn_from.steps[step][row]
            assert (found - by_hand(how, weight, 0.1, p, q)).abs().max() <= EXACT
            assert found[new[step]] > 0


def test_without_weight_or_with_one_context_twice_it_is_that_context(toy: nn.Module) -> None:
    plain = complete(toy, FIRST, max_new_tokens=9, seed=5).new
    for how in ("product", "mixture", "difference"):
        assert generate_between(toy, FIRST, SECOND, how=how, weight=0, floor=0, max_new_tokens=9, seed=5).new == plain
        assert generate_between(toy, FIRST, FIRST, how=how, floor=0, max_new_tokens=9, seed=5).new == plain
    assert generate_between(toy, FIRST, [7, 8], max_new_tokens=9, seed=5).new != plain  # one second context for all


def test_a_plain_module_is_asked_twice_too(toy: nn.Module) -> None:
    ours, theirs = (generate_between(m, FIRST, SECOND, max_new_tokens=6, seed=1).new for m in (toy, Plain(toy)))
    assert ours == theirs


SUFFIX, OTHER = [11, 12, 13], [21, 22]


def enumerated(model: nn.Module, text: list[int], strength: float, against: list[int]) -> Tensor:
    """p(v) (P(suffix | v) / P(against | v))^strength over the whole vocabulary, each by a forward of its own."""
    every = [[*text, v] for v in range(VOCAB)]
    log_p = probabilities(model, text).log()
    log_p = log_p + strength * score(model, every, [SUFFIX] * VOCAB)
    if against:
        log_p = log_p - strength * score(model, every, [against] * VOCAB)
    return log_p.softmax(-1)


@pytest.mark.parametrize(("strength", "against"), [(1.0, []), (-0.7, []), (2.0, OTHER)])
def test_tokens_are_weighed_by_what_is_to_follow_as_enumeration_weighs_them(
    toy: nn.Module, drawn_from: Seen, strength: float, against: list[int]
) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 3, "seed": 2, "candidates": VOCAB}
    made = generate_toward(toy, FIRST, SUFFIX, strength=strength, against=against, **settings)
    for row, new in enumerate(made.new):
        for step in range(3):
            wanted = enumerated(toy, FIRST[row] + list(new[:step]), strength, against)
            assert (drawn_from.steps[step][row] - wanted).abs().max() <= EXACT


def test_only_candidates_are_drawn_and_without_strength_they_are_the_likeliest(toy: nn.Module) -> None:
    wanted = complete(toy, FIRST, max_new_tokens=8, top_k=6, seed=4).new
    assert generate_toward(toy, FIRST, SUFFIX, strength=0, candidates=6, max_new_tokens=8, seed=4).new == wanted
    likely = generate_toward(toy, FIRST, SUFFIX, strength=1, max_new_tokens=8, temperature=0)
    unlikely = generate_toward(toy, FIRST, SUFFIX, strength=-1, max_new_tokens=8, temperature=0)
    texts = [[p + list(n) for p, n in zip(FIRST, made.new, strict=True)] for made in (likely, unlikely)]
    follows = [score(toy, text, [SUFFIX] * 2) for text in texts]
    assert (follows[0] > follows[1]).all()


def test_all_candidates_are_read_in_one_pass_of_as_many_tokens_as_the_suffix(toy: nn.Module) -> None:
    """Each by a forward of its own would read the text anew: 60 + 3 tokens for each of 16 candidates."""
    read: list[int] = []
    hook = toy.tokens.register_forward_hook(lambda module, args, out: read.append(args[0].numel()))
    generate_toward(toy, [1] * 60, SUFFIX, candidates=16, max_new_tokens=4)
    hook.remove()
    assert read == [60, 16 * 3, *[1, 16 * 3] * 3]
    naive = sum(16 * (60 + step + 3) for step in range(4))
    assert naive > 5 * sum(read)


def allow_even(new: Tensor) -> Tensor:
    """Even tokens after an odd number of tokens, all of them else."""
    even = torch.arange(VOCAB) % 2 == 0
    return (even | torch.tensor(new.shape[1] % 2 == 0)).expand(len(new), VOCAB)


def test_only_allowed_tokens_are_said_with_their_own_shares(toy: nn.Module, drawn_from: Seen) -> None:
    made = generate_allowed(toy, FIRST, allow_even, max_new_tokens=10, seed=1)
    assert all(token % 2 == 0 for new in made.new for token in new[1::2])
    assert any(token % 2 for new in made.new for token in new[::2])
    p = probabilities(toy, FIRST[0] + list(made.new[0][:1])) * (torch.arange(VOCAB) % 2 == 0)
    assert (drawn_from.steps[1][0] - p / p.sum()).abs().max() <= EXACT
    with pytest.raises(RunError, match="row 0, 1 has no token to choose"):
        generate_allowed(toy, FIRST, lambda new: torch.zeros(len(new), VOCAB, dtype=torch.bool), max_new_tokens=2)


def small(ids: tuple[int, ...]) -> float:
    """How many of the ids are below 20."""
    return sum(i < 20 for i in ids)


def test_the_first_that_passes_is_taken_which_is_rejection_sampling(toy: nn.Module) -> None:
    tries = 12
    for row, found in enumerate(choose(toy, FIRST, small, threshold=2, tries=tries, max_new_tokens=5, seed=7)):
        seeds = tuple(range(7 + row * tries, 7 + (row + 1) * tries))
        drawn = complete(toy, [FIRST[row]] * tries, max_new_tokens=5, seeds=seeds).new
        passing = [ids for ids in drawn if small(ids) >= 2]
        assert found.ids == passing[0]
        assert found.threshold == 2
        assert found.acceptance == found.passed / found.tried > 0
        assert found.passed == sum(small(ids) >= 2 for ids in drawn[: found.tried])


def test_the_best_of_several_is_taken_where_there_is_no_threshold_or_none_passes(toy: nn.Module) -> None:
    settings: dict[str, Any] = {"tries": 9, "batch_size": 4, "max_new_tokens": 5, "seed": 1}
    (best,) = choose(toy, FIRST[0], small, **settings)
    drawn = complete(toy, FIRST[:1] * 9, max_new_tokens=5, seeds=tuple(range(1, 10))).new
    assert best.score == max(map(small, drawn))
    assert (best.passed, best.tried, best.acceptance) == (9, 9, 1.0)
    (none,) = choose(toy, FIRST[0], small, threshold=6, **settings)
    assert (none.ids, none.passed, none.tried) == (best.ids, 0, 9)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: generate_between(m, FIRST, SECOND, how="product_"), ConfigError, "did you mean 'product'"),
        (lambda m: generate_between(m, FIRST, SECOND, how="mixture", weight=2), ConfigError, "weight=2 and floor=0.1"),
        (lambda m: generate_between(m, FIRST, SECOND, floor=-1), ConfigError, "floor=-1"),
        (lambda m: generate_between(m, FIRST, [[1]] * 3), DataError, "2 first contexts and 3 second"),
        (lambda m: generate_between(m, FIRST, [[99]]), DataError, "outside the vocabulary: 99"),
        (lambda m: generate_toward(m, FIRST, []), ConfigError, "a suffix of 0 ids"),
        (lambda m: generate_toward(m, FIRST, [99]), DataError, "outside the vocabulary: 99"),
        (lambda m: generate_toward(Plain(m), FIRST, [1]), ConfigError, "Plain keeps no state"),
        (lambda m: generate_toward(m, FIRST, [1] * 90, max_new_tokens=5), ConfigError, "at most 97 together"),
        (lambda m: generate_allowed(m, FIRST, lambda new: new == 1), ConfigError, r"\(2, 50\): \[batch, vocab\]"),
        (lambda m: choose(m, FIRST, len, tries=0), ConfigError, "tries=0"),
        (lambda m: choose(m, FIRST, len, seeds=(1, 2)), ConfigError, "seeds, one a row"),
    ],
)
def test_what_cannot_be_is_named(
    toy: nn.Module, call: Callable[[nn.Module], Generation], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        call(toy)
