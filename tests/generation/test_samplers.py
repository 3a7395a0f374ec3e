"""Every filter keeps what its definition says, equals transformers' own, and the draw follows the distribution."""

from __future__ import annotations

import pytest
import torch
from transformers.generation import logits_process as theirs

from formers.errors import ConfigError, RunError
from formers.generation import filters, samplers
from formers.generation.filters import (
    CountPenalty,
    MinP,
    NoRepeatNGram,
    RepetitionPenalty,
    Seen,
    Temperature,
    TopK,
    TopP,
    Typical,
    least_of_nucleus,
)
from formers.generation.samplers import RowRandom, Sampler, SampleSettings, draw, most_probable, shortlist

GOLDEN = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0, -2.0]])
NOTHING_SEEN = Seen(torch.zeros(1, 0, dtype=torch.long))
PAIRS = [
    (Temperature(0.7), theirs.TemperatureLogitsWarper(0.7)),
    (TopK(1), theirs.TopKLogitsWarper(1)),
    (TopK(5), theirs.TopKLogitsWarper(5)),
    (TopK(50), theirs.TopKLogitsWarper(50)),
    (TopP(0.3), theirs.TopPLogitsWarper(0.3)),
    (TopP(0.9), theirs.TopPLogitsWarper(0.9)),
    (MinP(0.05), theirs.MinPLogitsWarper(0.05)),
    (MinP(0.9), theirs.MinPLogitsWarper(0.9)),
    (Typical(0.2), theirs.TypicalLogitsWarper(0.2)),
    (Typical(0.95), theirs.TypicalLogitsWarper(0.95)),
]
PENALTIES = [
    (RepetitionPenalty(1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)),
    (NoRepeatNGram(1), theirs.NoRepeatNGramLogitsProcessor(1)),
    (NoRepeatNGram(2), theirs.NoRepeatNGramLogitsProcessor(2)),
    (NoRepeatNGram(3), theirs.NoRepeatNGramLogitsProcessor(3)),
]


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [set(row.isfinite().nonzero()[:, 0].tolist()) for row in logits]


def assert_equal_up_to_ties(ours: torch.Tensor, expected: torch.Tensor, logits: torch.Tensor) -> None:
    """Exactly equal; where logits tie, transformers' unstable sort leaves open which of the equals top-p keeps."""
    tied = logits.sort(-1).values.diff(dim=-1).eq(0).any()
    if tied:
        ours, expected = ours.sort(-1).values, expected.sort(-1).values
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def random_logits(number: int = 1000) -> list[torch.Tensor]:
    """[batch, vocab] of many shapes and temperatures; a third with ties, a third with banned tokens."""
    g = torch.Generator().manual_seed(0)
    cases = []
    for i in range(number):
        batch, vocab = int(torch.randint(1, 4, (), generator=g)), int(torch.randint(1, 30, (), generator=g))
        logits = torch.randn(batch, vocab, generator=g) * (0.3, 2.0, 8.0)[i % 3]
        if i % 3 == 1:
            logits = logits.round()
        if i % 3 == 2 and vocab > 1:
            banned = torch.rand(batch, vocab, generator=g) < 0.4
            banned[:, int(torch.randint(0, vocab, (), generator=g))] = False
            logits = logits.masked_fill(banned, -torch.inf)
        cases.append(logits)
    return cases


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        (TopP(0.5), {0}),
        (TopP(0.6), {0}),
        (TopP(0.9), {0, 1, 2}),
        (TopP(0.95), {0, 1, 2}),
        (MinP(0.05), {0, 1, 2}),
        (MinP(0.1), {0, 1, 2}),
        (MinP(0.2), {0, 1}),
        (Typical(0.2), {1}),  # the most probable token is too predictable to be typical
        (Typical(0.5), {0, 1}),
        (Typical(0.9), {0, 1, 2}),
        (Typical(0.95), {0, 1, 2}),
    ],
    ids=str,
)
def test_filters_keep_the_golden_sets(keep, wanted):
    assert kept(keep(GOLDEN)) == [wanted]


def test_top_p_and_typical_keep_the_smallest_sets_by_brute_force():
    g = torch.Generator().manual_seed(8)
    for _ in range(200):
        p = torch.rand(7, generator=g, dtype=torch.float64).log_softmax(-1).exp()
        share = float(torch.rand((), generator=g))
        surprise = -p.log()
        orders = {TopP: -p, Typical: (surprise - (p * surprise).sum()).abs()}
        for kind, order in orders.items():
            first = order.argsort().tolist()
            fewest = next(n for n in range(1, 8) if float(p[first[:n]].sum()) >= share)
            assert kept(kind(share)(p.log()[None])) == [set(first[:fewest])]


def test_repetition_is_penalised_once_however_often_a_token_was_seen():
    seen = Seen(torch.tensor([[0, 4, 4]]))
    assert RepetitionPenalty(1.2)(GOLDEN, seen).tolist()[0] == pytest.approx([2.5, 2, 1, 0, -1.2, -2])


def test_top_k_keeps_ties_and_top_p_does_not():
    ties = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert kept(TopK(2)(ties)) == [{0, 1, 2}]
    assert len(kept(TopP(0.3)(ties))[0]) == 2


@pytest.mark.parametrize(
    ("ours", "other"), PAIRS, ids=lambda p: str(p) if type(p).__module__.startswith("formers") else ""
)
def test_filters_equal_transformers_on_a_thousand_logits(ours, other):
    for logits in random_logits():
        expected = other(torch.zeros(len(logits), 1, dtype=torch.long), logits)
        assert_equal_up_to_ties(ours(logits), expected, logits)


@pytest.mark.parametrize(
    ("ours", "other"), PENALTIES, ids=lambda p: str(p) if type(p).__module__.startswith("formers") else ""
)
def test_penalties_equal_transformers_on_a_thousand_texts(ours, other):
    g = torch.Generator().manual_seed(1)
    for logits in random_logits():
        batch, vocab = logits.shape
        ids = torch.randint(0, vocab, (batch, int(torch.randint(1, 12, (), generator=g))), generator=g)
        torch.testing.assert_close(ours(logits, Seen(ids)), other(ids, logits), rtol=0, atol=0)


def test_the_whole_chain_equals_transformers():
    settings = SampleSettings(temperature=0.8, top_k=12, top_p=0.9, min_p=0.03, typical_p=0.9, repetition_penalty=1.2)
    chain = [
        theirs.RepetitionPenaltyLogitsProcessor(1.2),
        theirs.TemperatureLogitsWarper(0.8),
        theirs.TopKLogitsWarper(12),
        theirs.TopPLogitsWarper(0.9),
        theirs.MinPLogitsWarper(0.03),
        theirs.TypicalLogitsWarper(0.9),
    ]
    g = torch.Generator().manual_seed(2)
    for logits in random_logits():
        ids = torch.randint(0, logits.shape[1], (len(logits), 5), generator=g)
        expected = logits
        for step in chain:
            expected = step(ids, expected)
        penalised = chain[0](ids, logits)
        assert_equal_up_to_ties(Sampler(settings).process(logits, Seen(ids)), expected, penalised)


def test_padding_is_never_counted():
    text, padded = torch.tensor([[3, 1, 3]]), torch.tensor([[0, 0, 3, 1, 3]])
    seen = Seen(padded, torch.tensor([[False, False, True, True, True]]))
    for penalty in (RepetitionPenalty(2.0), CountPenalty(0.5, 0.25), NoRepeatNGram(1), NoRepeatNGram(2)):
        assert torch.equal(penalty(GOLDEN, seen), penalty(GOLDEN, Seen(text)))


def test_counts_subtract_for_each_time_and_presence_once():
    seen = Seen(torch.tensor([[0, 4, 4]]))
    assert CountPenalty(0.5, 0.25)(GOLDEN, seen).tolist()[0] == pytest.approx([2.25, 2, 1, 0, -2.25, -2])


@pytest.mark.parametrize(
    "settings",
    [
        SampleSettings(),
        SampleSettings(top_k=6),
        SampleSettings(top_k=1000),
        SampleSettings(top_p=1.0),
        SampleSettings(min_p=0.0),
        SampleSettings(typical_p=1.0),
        SampleSettings(temperature=1.0, repetition_penalty=1.0, frequency_penalty=0.0),
    ],
    ids=str,
)
def test_identity_settings_change_nothing(settings):
    assert torch.equal(Sampler(settings).process(GOLDEN, Seen(torch.tensor([[0, 1]]))), GOLDEN)


@pytest.mark.parametrize("keep", [TopK(3), TopP(0.8), MinP(0.1), Typical(0.8)], ids=str)
def test_a_constant_added_to_the_logits_changes_nothing(keep):
    for logits in random_logits(60):
        assert kept(keep(logits.double() + 7.0)) == kept(keep(logits.double()))


@pytest.mark.parametrize(
    "settings",
    [
        SampleSettings(),
        SampleSettings(temperature=1.7),
        SampleSettings(top_k=4),
        SampleSettings(top_p=0.8),
        SampleSettings(min_p=0.15),
        SampleSettings(typical_p=0.7),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(settings):
    """Chi-square of 200,000 draws, p > 0.001; nothing outside the kept set is ever drawn."""
    draws, sampler = 200_000, Sampler(settings)
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(3))
    probabilities = sampler.process(logits, NOTHING_SEEN).double().softmax(-1)[0]
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    seen = Seen(torch.zeros(draws, 0, dtype=torch.long))
    counts = sampler(logits.expand(draws, -1), seen, uniform).bincount(minlength=10).double()
    support = probabilities > 0
    assert counts[~support].sum() == 0
    expected = draws * probabilities[support]
    chi_square = ((counts[support] - expected).square() / expected).sum()
    freedom = torch.tensor((int(support.sum()) - 1) / 2, dtype=torch.float64)
    assert torch.special.gammaincc(freedom, chi_square / 2) > 0.001


def test_streams_of_rows_are_uniform_and_apart():
    random = RowRandom(range(50))
    numbers = torch.stack([random.next() for _ in range(200)])
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    assert abs(float(numbers.mean()) - 0.5) < 0.01  # standard error 0.003
    assert numbers.unique().numel() == numbers.numel()


def test_a_row_draws_the_same_whatever_its_mates():
    alone, together = RowRandom([7]), RowRandom([1, 7, 2])
    for _ in range(3 * RowRandom.BLOCK):
        assert alone.next()[0] == together.next()[1]


def test_the_ends_of_the_unit_interval_draw_tokens_that_exist():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    last = 1 - 2.0**-53
    assert draw(logits, torch.tensor([0.0], dtype=torch.float64)).tolist() == [1]
    assert draw(logits, torch.tensor([last], dtype=torch.float64)).tolist() == [3]


@pytest.mark.parametrize(
    "settings",
    [
        SampleSettings(top_k=9),
        SampleSettings(top_k=9, top_p=0.7, temperature=0.6),
        SampleSettings(top_k=40, min_p=0.1, typical_p=0.9),
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_the_shortlist_chooses_the_same_tokens_as_the_whole_vocabulary(settings, precision, monkeypatch):
    g = torch.Generator().manual_seed(5)
    logits = (torch.randn(300, 700, generator=g) * 3).to(precision)
    uniform = torch.rand(300, generator=g, dtype=torch.float64)
    seen = Seen(torch.zeros(300, 0, dtype=torch.long))
    short = Sampler(settings)(logits, seen, uniform)
    monkeypatch.setattr(samplers, "shortlist", lambda logits, k: (logits, None))
    assert torch.equal(short, Sampler(settings)(logits, seen, uniform))


def test_a_shortlist_gives_way_where_ties_reach_beyond_it():
    assert shortlist(torch.zeros(1, 1000), 5)[1] is None
    assert shortlist(torch.arange(1000.0)[None], 5)[1] is not None


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16], ids=str)
def test_the_nucleus_is_the_same_with_and_without_sorting_the_vocabulary(p, precision, monkeypatch):
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(6)) * torch.linspace(0.1, 6, 40)[:, None]
    found = [least_of_nucleus(row[None].to(precision), p) is not None for row in logits]
    assert any(found)
    quick = torch.cat([TopP(p)(row[None].to(precision)) for row in logits])
    monkeypatch.setattr(filters, "least_of_nucleus", lambda logits, p: None)
    assert torch.equal(quick, TopP(p)(logits.to(precision)))


def test_zero_temperature_is_the_first_argmax_and_obeys_penalties():
    logits = torch.tensor([[1.0, 3.0, 3.0]])
    greedy = SampleSettings(temperature=0.0, top_k=1, top_p=0.1)
    uniform = torch.tensor([0.99], dtype=torch.float64)
    assert Sampler(greedy)(logits, NOTHING_SEEN, uniform).tolist() == [1]
    penalised = SampleSettings(temperature=0.0, repetition_penalty=2.0)
    assert Sampler(penalised)(logits, Seen(torch.tensor([[1]])), uniform).tolist() == [2]


def test_every_wrong_setting_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        SampleSettings(temperature=-1.0, top_k=0, top_p=1.5, min_p=-0.1, typical_p=0.0, repetition_penalty=0.0)
    for name in (
        "temperature is -1.0",
        "top_k is 0",
        "top_p is 1.5",
        "min_p is -0.1",
        "typical_p",
        "repetition_penalty",
    ):
        assert name in str(caught.value)
    with pytest.raises(ConfigError, match="temperature is nan"):
        SampleSettings(temperature=float("nan"))


@pytest.mark.parametrize("choose", [most_probable, lambda x: draw(x, torch.full((2,), 0.5, dtype=torch.float64))])
def test_a_row_with_nothing_to_choose_is_named(choose):
    with pytest.raises(RunError, match="row 1 has no token"):
        choose(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]))
    with pytest.raises(RunError, match="row 1 has no token"):
        choose(torch.tensor([[0.0, 1.0], [-torch.inf, -torch.inf]]))
