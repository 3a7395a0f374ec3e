"""Encoders: what sees what, what training draws, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.errors import ConfigError, StateError
from formers.parts.positions import Positions
from formers.training.loss import IGNORE
from formers.training.objective import Objective

SIZES: dict[str, Any] = {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 29}
PLACED = ["bert", "albert", "distilbert"]
"""Those that have a table of places."""
NAMES = [*PLACED, "deberta", "deberta_v2"]


def model(name: str, **changes: Any) -> Any:
    return formers.build(name, **SIZES | changes)


def text(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 31, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_token_sees_the_whole_text_and_no_padding(name: str) -> None:
    changes = {"convolution_width": 3} if name == "deberta_v2" else {}
    made, ids = model(name, init_std=0.3, **changes).double().eval(), text(1, 9)
    positions = Positions(torch.tensor([[-1, *range(7), -1]]))
    whole = made(ids, positions=positions).logits
    for changed in range(9):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % 31
        moved = (made(other, positions=positions).logits - whole)[0, 1:8].abs().amax(-1) > 0
        assert moved.tolist() == [changed not in (0, 8)] * 7


@pytest.mark.parametrize("name", NAMES)
def test_masked_tokens_are_learnt_through_the_chunked_loss(name: str) -> None:
    made = model(name, dropout=0.0, attention_dropout=0.0)
    objective, ids = Objective(made), text(8, 13)
    masked = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    targets, read = torch.where(masked, ids, IGNORE), torch.where(masked, 0, ids)
    optimizer, losses = torch.optim.AdamW(made.parameters(), lr=1e-2), []
    for _ in range(40):
        total, count, state = objective(read, targets)
        assert state is None
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float((total / count).detach()))
    assert losses[0] == pytest.approx(3.43, abs=0.2)  # ln 31
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(("name", "head"), [("bert", "sequence"), ("albert", "token"), ("distilbert", "span")])
def test_dropout_is_drawn_in_training_alone_and_from_the_seed(name: str, head: str) -> None:
    made, ids = model(name, head=head, dropout=0.3), text(1, 9)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(made.train()(ids).logits)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(made.eval()(ids).logits, made(ids).logits)


@pytest.mark.parametrize(
    ("setting", "name", "head"),
    [
        ("classifier_dropout", "bert", "sequence"),
        ("classifier_dropout", "albert", "pretraining"),
        ("sequence_dropout", "distilbert", "sequence"),
        ("span_dropout", "distilbert", "span"),
        ("classifier_dropout", "deberta", "sequence"),
    ],
)
def test_each_head_has_its_own_dropout(setting: str, name: str, head: str) -> None:
    still = {"dropout": 0.0, "attention_dropout": 0.0}

    def moves(value: float) -> bool:
        made = model(name, head=head, **still, **{setting: value}).train()
        torch.manual_seed(0)
        first, second = made(text(3, 9)), made(text(3, 9))
        one, two = (first.logits, second.logits) if first.pair is None else (first.pair, second.pair)
        return not torch.equal(one, two)

    assert moves(0.5)
    assert not moves(0.0)


@pytest.mark.parametrize("name", NAMES)
def test_they_keep_no_state_and_say_so(name: str) -> None:
    with pytest.raises(StateError, match="keeps no state"):
        model(name).init_state(1, 9)


def test_deberta_reads_a_text_longer_than_it_was_made_for() -> None:
    """It knows distances alone; only the decoder of masked tokens has places."""
    ids = text(1, 30)
    assert model("deberta", max_distance=7)(ids).logits.shape == (1, 30, 31)
    with pytest.raises(ConfigError, match="30 tokens, but the model has positions for 29"):
        model("deberta", mask_decoder="enhanced")(ids)


def test_deberta_has_types_where_its_config_says_so() -> None:
    ids = text(2, 4)
    with pytest.raises(ConfigError, match="DeBERTa was given token_types"):
        model("deberta")(ids, token_types=torch.zeros_like(ids))
    typed = model("deberta", num_types=2)
    assert not torch.equal(typed.eval()(ids).logits, typed(ids, token_types=torch.ones_like(ids)).logits)


@pytest.mark.parametrize(("name", "given"), [("bert", "token_types"), ("longformer", "is_global")])
def test_what_is_said_of_tokens_is_said_of_as_many(name: str, given: str) -> None:
    with pytest.raises(ConfigError, match=rf"{given} of shape \[2, 5\] for input_ids \[2, 4\]"):
        model(name)(text(2, 4), **{given: torch.zeros(2, 5, dtype=torch.long)})


@pytest.mark.parametrize("name", PLACED)
def test_a_text_longer_than_the_positions_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="30 tokens, but the model has positions for 29"):
        model(name)(text(1, 30))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "bert",
            {"num_heads": 5, "head": "rows"},
            "not a multiple of num_heads 5; head 'rows' is none of masked_token",
        ),
        ("albert", {"d_embedding": 0, "num_labels": 0}, "d_embedding is 0.*num_labels is 0"),
        ("albert", {"head": "pretraining", "num_labels": 3}, "head 'pretraining' has 2 labels"),
        ("distilbert", {"head": "pair"}, "head 'pair' is none of masked_token, sequence, choice, token, span, none"),
        ("distilbert", {"activation": "mish", "d_ff": 0}, "d_ff is 0.*activation 'mish'"),
    ],
)
def test_what_cannot_be_is_refused_all_at_once(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        model(name, **changes)


def test_bert_is_short_enough_to_be_read_at_once() -> None:
    """Ids in, logits out, no tokenizer, and names of weights both ways: 150 to 300 lines (the formatter's)."""
    from formers.models import bert

    assert 150 <= len(Path(str(bert.__file__)).read_text().splitlines()) <= 300


@pytest.mark.parametrize(("name", "moves"), [("bert", True), ("gpt2", False)])
def test_what_follows_changes_what_bert_makes_of_a_token_and_not_what_gpt2_makes(name: str, moves: bool) -> None:
    sizes = {key: value for key, value in SIZES.items() if name == "bert" or key != "d_ff"}
    made, ids = formers.build(name, **sizes, init_std=0.3).double().eval(), text(1, 12)
    third = [made.body(ids[:, :length])[0][0, 2] for length in range(3, 13)]
    changes = [float((later - third[0]).abs().max().detach()) for later in third[1:]]
    assert all((change > 1e-6) == moves for change in changes)
    assert moves or max(changes) <= 1e-12  # the same sums, in another order at most


@pytest.mark.parametrize("head", ["sequence", "pooler", "masked_token"])
def test_a_batch_of_nothing_gives_nothing_and_rows_of_nothing_have_no_first_token(head: str) -> None:
    made, none = model("bert", head=head), torch.zeros(0, 5, dtype=torch.long)
    assert len(made(none).logits) == 0
    if head == "masked_token":
        assert made(none.view(2, 0)).logits.shape == (2, 0, 31)
    else:
        with pytest.raises(ConfigError, match="a row of no tokens"):
            made(none.view(2, 0))
