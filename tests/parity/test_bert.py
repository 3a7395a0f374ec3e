"""BERT against transformers' own, head by head: float64, every parameter random, sizes prime where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from formers.errors import ConfigError
from formers.models.bert import BERT, FOREIGN, HEADS, PRESETS, BERTConfig
from formers.parts.norms import LayerNorm
from tests.parity.encoder_defects import NINE, TOLERANCE, check_defect
from tests.parity.encoders import (
    Batch,
    batch,
    cases,
    check_old_names,
    check_there_and_back,
    compare,
    ours_of,
    theirs_of,
    token_labels,
    twins,
)

SIZES: dict[str, Any] = {
    "vocab_size": 101, "d_model": 39, "num_layers": 3, "num_heads": 3, "d_ff": 53, "max_length": 71, "num_types": 3,
}  # fmt: skip
LABELS = {"sequence": 5, "token": 7}


def sizes(head: str) -> dict[str, Any]:
    return SIZES | {"num_labels": LABELS.get(head, 2)}


def given(side: str, head: str = "masked_token") -> Batch:
    return batch(side, vocab_size=101, num_labels=LABELS.get(head, 2), num_types=3)


@pytest.mark.parametrize(("head", "side", "attention"), cases(HEADS))
def test_hidden_states_logits_loss_and_every_gradient(head: str, side: str, attention: str) -> None:
    ours, theirs, table = twins("bert", head, attention=attention, **sizes(head))
    found = compare(ours, theirs, table, given(side, head))
    print(f"bert {head} {side}: {found.worst:.1e}")
    found.assert_within(TOLERANCE)


@pytest.mark.parametrize(
    "changes", [{"activation": "gelu_tanh", "eps": 3e-3}, {"activation": "relu"}, {"num_heads": 1}]
)
def test_other_settings_too(changes: dict[str, Any]) -> None:
    ours, theirs, table = twins("bert", "masked_token", **SIZES | changes)
    compare(ours, theirs, table, given("right")).assert_within(TOLERANCE)


@pytest.mark.parametrize("head", ["pair", "sequence", "pooler", "pretraining"])
def test_a_row_padded_on_the_left_is_read_by_its_first_token(head: str) -> None:
    """Equal to the same texts padded on the right, which is how transformers wants them."""
    ours, theirs, _ = twins("bert", head, **sizes(head))
    right = given("right", head)
    lengths = right.real.sum(-1)
    rolled = [torch.roll(row, int(23 - n)) for row, n in zip(right.ids, lengths, strict=True)]
    types = [torch.roll(row, int(23 - n)) for row, n in zip(right.types, lengths, strict=True)]  # type: ignore[arg-type]
    left = ours(torch.stack(rolled), positions=given("left").positions, token_types=torch.stack(types))
    wanted = theirs_of(theirs, head, right, token_labels(ours, right))
    row, expected = (left.pair, wanted.pair) if head == "pretraining" else (left.logits, wanted.logits)
    assert row is not None
    assert expected is not None
    assert (row - expected).abs().max() <= TOLERANCE


def test_types_that_are_not_given_are_type_0() -> None:
    ours, _, _ = twins("bert", "masked_token", **SIZES)
    ids = given("whole").ids
    zeros, ones = torch.zeros_like(ids), torch.ones_like(ids)
    assert torch.equal(ours(ids).logits, ours(ids, token_types=zeros).logits)
    assert not torch.equal(ours(ids).logits, ours(ids, token_types=ones).logits)


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical_and_their_auto_class_opens_it(head: str, tmp_path: Path) -> None:
    check_there_and_back(twins("bert", head, **sizes(head))[1], tmp_path)


def test_names_of_labels_go_there_and_back(tmp_path: Path) -> None:
    config = BERTConfig(**SIZES, head="token", num_labels=3, labels=("O", "B-PER", "I-PER"))
    theirs = FOREIGN.write(config)
    assert theirs["id2label"] == {"0": "O", "1": "B-PER", "2": "I-PER"}
    assert FOREIGN.read(theirs)["labels"] == config.labels
    assert FOREIGN.read(FOREIGN.write(BERTConfig(head="sequence", num_labels=5)))["num_labels"] == 5


@pytest.mark.parametrize("head", ["masked_token", "pooler"])
def test_names_of_old_files_are_read(head: str, tmp_path: Path) -> None:
    check_old_names(twins("bert", head, **SIZES)[1], tmp_path)


def test_what_is_not_implemented_is_refused_all_at_once() -> None:
    theirs = FOREIGN.write(BERTConfig()) | {
        "position_embedding_type": "relative_key",
        "is_decoder": True,
        "add_cross_attention": True,
        "hidden_act": "mish",
        "architectures": ["BertForChoosing"],
        "tie_word_embeddings": False,
    }
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read(theirs)
    for name in ("relative_key", "is_decoder", "add_cross_attention", "mish", "BertForChoosing", "tie_word"):
        assert name in str(caught.value)


PUBLISHED: dict[str, Any] = {
    "_num_labels": 3, "architectures": ["BertForTokenClassification"], "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi", "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "id2label": {"0": "O", "1": "B-PER", "2": "I-PER"}, "initializer_range": 0.02, "intermediate_size": 3072,
    "label2id": {"B-PER": 1, "I-PER": 2, "O": 0}, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
    "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12, "output_past": True, "pad_token_id": 0,
    "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform", "type_vocab_size": 2, "vocab_size": 28996,
}  # fmt: skip
"""config.json of a tagger made from Google's multilingual and Chinese files, which say of a pooler what no code reads."""


def test_a_published_config_is_read() -> None:
    labels = {"head": "token", "num_labels": 3, "labels": ("O", "B-PER", "I-PER")}
    assert BERTConfig(**FOREIGN.read(PUBLISHED)) == BERTConfig(vocab_size=28996, **labels)
    with pytest.raises(ConfigError, match=r"pooler_kind=.* is unknown"):
        FOREIGN.read(PUBLISHED | {"pooler_kind": "mean"})


@pytest.mark.parametrize(
    ("preset", "head", "parameters"),
    [("base", "pooler", 109_482_240), ("base", "pretraining", 110_106_428), ("large", "pooler", 335_141_888)],
)
def test_the_published_sizes_have_the_published_parameters(preset: str, head: str, parameters: int) -> None:
    with torch.device("meta"):
        made = BERT(BERTConfig(**PRESETS[preset], head=head))
    assert sum(p.numel() for p in made.parameters()) == parameters


# --- ten defects ------------------------------------------------------------------------------------------------------


def every_token_of_type_0(model: Any) -> None:
    read = model.embedding.forward
    model.embedding.forward = lambda ids, positions, types=None: read(ids, positions, None)


TEN = NINE | {"token types not read": every_token_of_type_0}


@pytest.mark.parametrize("name", TEN)
def test_parity_catches_the_defect(name: str) -> None:
    assert len(TEN) == 10
    check_defect(name, TEN[name], "bert", given("right"), SIZES)


class Detached(LayerNorm):
    """Its mean and spread are numbers to it that nothing has made."""

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = x.mean(-1, keepdim=True).detach(), x.var(-1, unbiased=False, keepdim=True).detach()
        return (x - mean) * (spread + self.eps).rsqrt() * self.weight + self.bias


def test_a_norm_that_keeps_gradients_from_its_mean_and_spread_is_caught_by_gradients_alone() -> None:
    """As an exercise of a public course has it, whose tests look at outputs."""
    ours, theirs, table = twins("bert", "masked_token", **SIZES)
    ours.trunk.norms[1]["attention"].__class__ = Detached
    found = compare(ours, theirs, table, given("right"))
    assert max(found.logits, found.loss, *found.hidden.values()) <= TOLERANCE
    assert max(found.gradients.values()) > 1e3 * TOLERANCE


def test_a_wrong_form_of_gelu_in_the_head_is_caught_too() -> None:
    ours, theirs, table = twins("bert", "masked_token", **SIZES)
    ours.head.activation = lambda x: F.gelu(x, approximate="tanh")
    assert compare(ours, theirs, table, given("whole")).worst > 1e3 * TOLERANCE


def test_the_chunked_loss_of_masked_tokens_is_the_loss_of_the_logits() -> None:
    ours, _, _ = twins("bert", "masked_token", **SIZES)
    one = given("right")
    answer = ours_of(ours, one)
    whole = F.cross_entropy(answer.logits.flatten(0, 1), token_labels(ours, one).flatten())
    assert (answer.loss - whole).abs() <= TOLERANCE
