"""Which rows an objective gets, and what a model that learnt nothing reaches on them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from formers.data import MaskedTokens, SentencePairs, SpanCorruption, equip
from formers.errors import ConfigError
from formers.experiments.rows import text_baselines, text_view, unigram_loss
from formers.experiments.text import training_view, validation_view
from formers.recipes import DataSettings, TrainSettings
from tests.data import texts

SIZES = {"batch_size": 4, "seq_len": 40}


def settings(objective: str, **changes) -> TrainSettings:
    return TrainSettings(objective=objective, **{**SIZES, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objective", "kind", "attributes"),
    [
        ("masked_token", MaskedTokens, {"kind": "packed"}),
        ("replaced_token", MaskedTokens, {"kind": "packed"}),
        ("next_sentence", SentencePairs, {"pairs": "next"}),
        ("sentence_order", SentencePairs, {"pairs": "order"}),
        ("span_corruption", SpanCorruption, {}),
    ],
)
def test_an_objective_gets_the_rows_it_is_made_of(objective: str, kind: type, attributes: dict):
    shards = equip(texts.shards(), objective)
    view = "packed" if kind is MaskedTokens else "windows"
    made = training_view(shards, DataSettings(view=view), settings(objective, masking="words", masked_share=0.3))
    assert type(made) is kind
    assert {name: getattr(made, name) for name in attributes} == attributes
    if kind is SpanCorruption:
        assert made.corruption.share == 0.3
    else:
        assert (made.masking.choose, made.masking.share) == ("words", 0.3)


def test_validation_has_the_same_masks_for_every_seed_of_training():
    shards = equip(texts.shards(), "masked_token")
    views = [validation_view(shards, **SIZES, carried=False, train=settings("masked_token", seed=s)) for s in (1, 2)]
    for step in range(len(views[0])):
        first, second = (view.batch(step) for view in views)
        assert np.array_equal(first.targets, second.targets)
        assert np.array_equal(first.input_ids, second.input_ids)


def test_rows_that_carry_documents_on_are_refused():
    shards = equip(texts.shards(), "masked_token")
    with pytest.raises(ConfigError, match="windows or packed"):
        training_view(shards, DataSettings(view="streams"), settings("masked_token"))
    with pytest.raises(ConfigError, match="windows, every"):
        text_view(shards, settings("next_sentence"), "packed", split="train", **SIZES)


def test_the_unigram_loss_is_that_of_the_frequencies_in_training():
    shards = equip(texts.shards("bpe"), "masked_token")
    special = set(shards.tokenizer.special_tokens.values())

    def ids(split: str) -> list[int]:
        found = np.concatenate([shards.document_tokens(int(row)) for row in shards.rows(split)]).tolist()
        return [i for i in found if i not in special]

    trained, words = ids("train"), shards.vocab_size - len(special)
    chance = {i: (trained.count(i) + 1) / (len(trained) + words) for i in set(ids("validation"))}
    wanted = -sum(math.log(chance[i]) for i in ids("validation")) / len(ids("validation"))
    assert unigram_loss(shards) == pytest.approx(wanted, rel=1e-12)
    assert text_baselines(shards, "masked_token") == {"unigram_loss": unigram_loss(shards)}
    assert text_baselines(shards, "span_corruption") == {}
