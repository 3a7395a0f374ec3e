"""Differences over seeds and documents: how often chance is taken for a difference, and what is said."""

from __future__ import annotations

import numpy as np
import pytest

from formers.comparison.intervals import Crossed, crossed, paired, t_below, t_quantile
from formers.comparison.ranking import Entry, holm, rank
from formers.errors import DataError

SEEDS, DOCUMENTS = 3, 30


def scores(
    rng: np.random.Generator, mean: float, *, of_seed: float = 0.01, of_document: float = 0.3, rest: float = 0.02
) -> np.ndarray:
    """[seeds, documents] around `mean`; what documents have in common must come from one and the same generator."""
    documents = np.random.default_rng(1).normal(0, of_document, DOCUMENTS)
    seeds = rng.normal(0, of_seed, (SEEDS, 1))
    return mean + documents + seeds + rng.normal(0, rest, (SEEDS, DOCUMENTS))


WEIGHTS = np.random.default_rng(2).integers(500, 5000, DOCUMENTS).astype(float)


@pytest.mark.parametrize(("of_seed", "rest", "seeds"), [(0.03, 0.01, 2), (0.01, 0.02, 3)])
def test_chance_is_taken_for_a_difference_no_more_often_than_promised(of_seed: float, rest: float, seeds: int) -> None:
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(150):
        one, other = (scores(rng, 2.0, of_seed=of_seed, rest=rest)[:seeds] for _ in range(2))
        found = crossed(one, other, WEIGHTS)
        wrong += found.below or found.above
    assert wrong / 150 < 0.086  # 0.05 and two standard errors of 150 trials


def test_an_interval_of_documents_alone_would_be_wrong_far_more_often() -> None:
    """The broken variant: seeds averaged away, documents taken for all there is."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        one, other = (scores(rng, 2.0, of_seed=0.03, rest=0.01) for _ in range(2))
        found = paired(one.mean(0).tolist(), other.mean(0).tolist())
        wrong += found.below or found.above
    assert wrong / 200 > 0.5


def test_a_difference_larger_than_seeds_and_documents_is_told() -> None:
    rng = np.random.default_rng(3)
    found = crossed(scores(rng, 2.2), scores(rng, 2.0), WEIGHTS)
    assert found.above
    assert found.low < 0.2 < found.high
    assert found.p < 0.01
    assert (found.seeds, found.count) == (SEEDS, DOCUMENTS)


def test_p_is_below_one_in_twenty_exactly_where_the_interval_leaves_zero_out() -> None:
    rng = np.random.default_rng(4)
    for shift in np.linspace(0, 0.1, 25):
        found = crossed(scores(rng, 2.0 + shift), scores(rng, 2.0), WEIGHTS)
        assert (found.p < 0.05) == (found.above or found.below)


def test_the_same_scores_do_not_differ() -> None:
    one = scores(np.random.default_rng(5), 2.0)
    assert crossed(one, one, WEIGHTS) == Crossed(0.0, 0.0, 0.0, DOCUMENTS, SEEDS, 1.0)


def test_one_score_has_no_interval_and_seeds_alone_have_students() -> None:
    with pytest.raises(DataError, match="two or more"):
        crossed(np.ones((1, 1)), np.ones((1, 1)), np.ones(1))
    after, before = [1.0, 1.2, 1.7], [0.9, 0.8, 1.0]
    found, known = crossed(np.array(after)[:, None], np.array(before)[:, None], np.ones(1)), paired(after, before)
    assert (found.mean, found.low, found.high) == pytest.approx((known.mean, known.low, known.high))


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_t_agrees_with_its_tables() -> None:
    assert t_quantile(0.975, 2) == pytest.approx(4.303, abs=1e-3)
    assert t_below(2.228, 10) == pytest.approx(0.975, abs=1e-4)


def test_the_verdict_names_the_winner_and_what_it_wins_by() -> None:
    rng = np.random.default_rng(6)
    found = rank(
        [Entry("slow", scores(rng, 2.5)), Entry("good", scores(rng, 2.0)), Entry("mid", scores(rng, 2.2))], WEIGHTS
    )
    assert found.names == ("good", "mid", "slow")
    assert found.verdict.startswith("good wins: it needs ")
    assert "Behind good by more than chance: slow by 0.5" in found.verdict
    assert all(pair.told for pair in found.pairs)
    assert found.pair("slow", "good").better == "good"


def test_the_verdict_says_where_it_cannot_tell() -> None:
    rng = np.random.default_rng(7)
    entries = [Entry(name, scores(rng, 2.0)) for name in ("one", "same")] + [Entry("bad", scores(rng, 2.5))]
    found = rank(entries, WEIGHTS)
    assert found.verdict.startswith("Cannot tell which is best: ")
    assert "Behind" in found.verdict
    assert "bad by 0.5" in found.verdict


def test_one_seed_each_cannot_tell_however_large_the_difference() -> None:
    rng = np.random.default_rng(8)
    found = rank([Entry("a", scores(rng, 2.0)[:1]), Entry("b", scores(rng, 3.0)[:1])], WEIGHTS)
    assert not found.pairs[0].told
    assert "One seed each" in found.verdict
