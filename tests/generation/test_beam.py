"""Beam search finds what transformers' finds, everything where it is wide enough, and each row what it would alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import formers
from formers.errors import ConfigError, DataError
from formers.generation import beam_search, generate, score
from formers.parts.states import State
from tests.generation.conftest import Plain

transformers = pytest.importorskip("transformers")

SIZES = {"num_layers": 2, "d_model": 32, "num_heads": 4, "vocab_size": 31}
GPT2 = SIZES | {"max_length": 61, "init_std": 0.5}
T5 = SIZES | {"d_head": 7, "d_ff": 53, "tie": False, "scale_head": False, "init_factor": 3.0}
PROMPTS = {
    "gpt2": [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9]],
    "t5": [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]],
}
STOP = {"gpt2": 13, "t5": 9}
"""Tokens that the models like to say, so that continuations end at many lengths."""


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[Any, Any]]:
    """Ours and transformers', with the same weights in float64."""
    found = {}
    for name, sizes in (("gpt2", GPT2), ("t5", T5)):
        ours = formers.build(name, **sizes, seed=2).double().eval()
        module = formers.models()[name].load()
        config = transformers.AutoConfig.for_model(**module.FOREIGN.write(ours.config))
        kind = transformers.AutoModelForCausalLM if name == "gpt2" else transformers.AutoModelForSeq2SeqLM
        theirs = kind.from_config(config)
        if name == "t5":
            theirs.lm_head.weight = nn.Parameter(torch.zeros_like(theirs.lm_head.weight))
        theirs.load_state_dict(module.weights(ours.config).write(ours.state_dict()), strict=False)
        found[name] = ours, theirs.double().eval()
    return found


def search_theirs(theirs: Any, prompts: list[list[int]], **settings: Any) -> tuple[list[list[int]], list[float]]:
    """New ids of every sequence, cut behind the stop token, and scores, `num_return` a prompt, one prompt after another."""
    longest, stops = max(map(len, prompts)), list(settings.pop("stop_tokens", ()))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
    made = theirs.generate(
        ids,
        attention_mask=mask,
        num_return_sequences=settings.pop("num_return"),
        do_sample=False,
        eos_token_id=stops or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **{} if not theirs.config.is_encoder_decoder else {"decoder_start_token_id": 0},
        **settings,
    )
    begin = 1 if theirs.config.is_encoder_decoder else longest
    lengths = (made.beam_indices >= 0).sum(1).tolist()
    rows = [row[begin : begin + n] for row, n in zip(made.sequences.tolist(), lengths, strict=True)]
    return rows, made.sequences_scores.tolist()


CASES: list[dict[str, Any]] = [
    {"num_beams": 4},
    {"num_beams": 2, "stop_tokens": ()},
    {"num_beams": 5, "num_return": 5, "early_stopping": True},
    {"num_beams": 3, "num_return": 3, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 4, "num_return": 4, "early_stopping": "never", "length_penalty": 0.0},
    {"num_beams": 4, "num_return": 2, "length_penalty": -1.0},
    {"num_beams": 3, "num_return": 3, "length_penalty": 0.6, "stop_tokens": "three"},
    {"num_beams": 4, "num_return": 4, "length_penalty": 3.0, "max_new_tokens": 5},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_sequences_and_scores_equal_those_of_transformers(
    pairs: dict[str, tuple[Any, Any]], name: str, changes: dict[str, Any]
) -> None:
    ours, theirs = pairs[name]
    settings = {"max_new_tokens": 11, "num_return": 1, "stop_tokens": (STOP[name],)} | changes
    if settings["stop_tokens"] == "three":
        settings["stop_tokens"] = (STOP[name], 11, 2)
    found = [h for hypotheses in beam_search(ours, PROMPTS[name], **settings) for h in hypotheses]
    sequences, scores = search_theirs(theirs, PROMPTS[name], **settings)
    assert [list(h.ids) for h in found] == sequences
    assert [h.score for h in found] == pytest.approx(scores, rel=2e-6)  # theirs are float32


def test_the_cases_end_at_different_lengths_and_differ_from_greedy(pairs: dict[str, tuple[Any, Any]]) -> None:
    """Or they would show nothing."""
    for name, (ours, _) in pairs.items():
        best = [h[0] for h in beam_search(ours, PROMPTS[name], max_new_tokens=11, stop_tokens=STOP[name])]
        every = beam_search(ours, PROMPTS[name], max_new_tokens=11, num_return=4, stop_tokens=STOP[name])
        assert len({len(h.ids) for row in every for h in row}) > 2, name
        assert len({token for row in every for h in row for token in h.ids}) > 10, name
        greedy = generate(ours, PROMPTS[name], max_new_tokens=11, temperature=0.0).tolist()
        assert any(row[-11:][: len(h.ids)] != list(h.ids) for row, h in zip(greedy, best, strict=True)), name


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_one_beam_is_greedy(pairs: dict[str, tuple[Any, Any]], name: str) -> None:
    ours, _ = pairs[name]
    greedy = generate(ours, PROMPTS[name], max_new_tokens=7, temperature=0.0)[:, -7:].tolist()
    assert [list(row[0].ids) for row in beam_search(ours, PROMPTS[name], num_beams=1, max_new_tokens=7)] == greedy


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_wide_enough_it_finds_the_best_of_all(name: str, length_penalty: float) -> None:
    """Vocabulary 4, three tokens, one of them a stop: 4^3 beams leave nothing out."""
    sizes = (GPT2 if name == "gpt2" else T5) | {"vocab_size": 4}
    model, stop, prompt = formers.build(name, **sizes, seed=5).double().eval(), 2, [3, 1]
    every = [
        ids
        for n in (1, 2, 3)
        for ids in itertools.product(range(4), repeat=n)
        if stop not in ids[:-1] and (n == 3 or ids[-1] == stop)
    ]
    scores = {ids: float(score(model, [prompt], [ids])[0]) / len(ids) ** length_penalty for ids in every}
    wanted = sorted(scores, key=lambda ids: -scores[ids])
    (found,) = beam_search(
        model, [prompt], num_beams=64, num_return=64, max_new_tokens=3, stop_tokens=(stop,),
        length_penalty=length_penalty, early_stopping="never",
    )  # fmt: skip
    assert [h.ids for h in found] == wanted
    assert [h.score for h in found] == pytest.approx([scores[ids] for ids in wanted], rel=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_score_is_the_sum_of_the_log_probabilities_over_its_length(
    pairs: dict[str, tuple[Any, Any]], name: str
) -> None:
    ours, _ = pairs[name]
    for prompt in PROMPTS[name]:
        (found,) = beam_search(
            ours, [prompt], max_new_tokens=9, num_return=4, stop_tokens=STOP[name], length_penalty=0.7
        )
        sums = score(ours, [prompt], [h.ids for h in found]).tolist()
        assert [h.log_prob for h in found] == pytest.approx(sums, rel=1e-9)
        assert [h.score for h in found] == pytest.approx(
            [p / len(h.ids) ** 0.7 for p, h in zip(sums, found, strict=True)]
        )
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert all((h.ids[-1] == STOP[name]) == (h.ended == "stop_token") for h in found)


RAGGED = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3]]


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_rows_together_equal_rows_alone_however_long_each_is_searched(
    pairs: dict[str, tuple[Any, Any]], name: str
) -> None:
    ours, _ = pairs[name]
    together = beam_search(ours, RAGGED, max_new_tokens=11, num_return=3, stop_tokens=STOP[name], early_stopping=True)
    for prompt, found in zip(RAGGED, together, strict=True):
        (alone,) = beam_search(
            ours, [prompt], max_new_tokens=11, num_return=3, stop_tokens=STOP[name], early_stopping=True
        )
        assert [h.ids for h in found] == [h.ids for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], rel=1e-9)


class Stateless(nn.Module):
    """An encoder-decoder of the user's own that keeps no state."""

    inputs = frozenset({"source"})

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids: torch.Tensor, *, source: Any) -> Any:
        return self.inner(input_ids, source=source)


@pytest.mark.parametrize(("name", "wrap"), [("gpt2", Plain), ("t5", Stateless)])
def test_the_state_changes_the_speed_and_nothing_else(
    pairs: dict[str, tuple[Any, Any]], name: str, wrap: type[nn.Module]
) -> None:
    ours, _ = pairs[name]
    settings: dict[str, Any] = {"max_new_tokens": 9, "num_return": 4, "stop_tokens": (STOP[name],)}
    with_state, anew = (beam_search(model, PROMPTS[name], **settings) for model in (ours, wrap(ours)))
    assert [[h.ids for h in row] for row in with_state] == [[h.ids for h in row] for row in anew]


def test_a_state_that_is_not_reordered_is_noticed(pairs: dict[str, tuple[Any, Any]], monkeypatch) -> None:
    """Each of the comparisons above stands on `State.select`."""
    ours, _ = pairs["t5"]
    settings: dict[str, Any] = {"max_new_tokens": 9, "num_return": 4, "stop_tokens": (STOP["t5"],)}
    right, select = beam_search(ours, PROMPTS["t5"], **settings), State.select

    def as_they_stand(state: State, rows: torch.Tensor) -> State:
        return select(state, rows.sort().values)

    monkeypatch.setattr(State, "select", as_they_stand)
    wrong = beam_search(ours, PROMPTS["t5"], **settings)
    assert [[h.ids for h in row] for row in wrong] != [[h.ids for h in row] for row in right]


def test_ids_beyond_the_vocabulary_asked_for_are_never_chosen(pairs: dict[str, tuple[Any, Any]]) -> None:
    found = beam_search(pairs["gpt2"][0], PROMPTS["gpt2"], max_new_tokens=9, num_return=4, vocab_size=5)
    assert {token for row in found for h in row for token in h.ids} <= set(range(5))


def test_what_cannot_be_is_named(pairs: dict[str, tuple[Any, Any]]) -> None:
    ours, _ = pairs["t5"]
    with pytest.raises(ConfigError, match=r"num_beams is 0.*num_return is 2, wanted at most num_beams"):
        beam_search(ours, [[1]], num_beams=0, num_return=2)
    with pytest.raises(ConfigError, match="early_stopping"):
        beam_search(ours, [[1]], early_stopping="soon")
    with pytest.raises(DataError, match="outside the vocabulary: 31"):
        beam_search(ours, [[1, 31]])
    with pytest.raises(ConfigError, match="at most 61 together"):
        beam_search(pairs["gpt2"][0], [[1] * 51], max_new_tokens=11)
