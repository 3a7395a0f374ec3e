"""Objectives: the loss that the paper writes down, whatever the micro-batches, and each for the models that can learn it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import formers
from formers.data import MaskedTokens, SentencePairs, SpanCorruption, equip
from formers.errors import ConfigError
from formers.parts.positions import Positions
from formers.parts.sources import Source
from formers.training import train
from formers.training.batches import lane_rows, number_scored, step_batch, to_tensors
from formers.training.evaluate import evaluate
from formers.training.objective import Objective
from formers.training.objectives import PairObjective, ReplacedObjective, SourceObjective, choose, make_objective
from formers.training.replaced import DisentangledEmbedding, ReplacedToken, draw_tokens, replaced
from tests.data import texts
from tests.data.statistics import within
from tests.training import small

SIZES: dict[str, Any] = {"d_model": 24, "num_layers": 2, "num_heads": 2, "d_ff": 31, "dropout": 0.0}
TEXT = {**SIZES, "max_length": 64, "attention_dropout": 0.0}
ENCODERS = ["bert", "albert", "distilbert", "deberta", "deberta_v2"]
ROWS: dict[str, Any] = {"batch_size": small.BATCH, "seq_len": 40}


def masked_view(**changes: Any) -> MaskedTokens:
    return MaskedTokens(equip(texts.shards(), "masked_token"), **{**ROWS, **changes})


def pair_view(**changes: Any) -> SentencePairs:
    return SentencePairs(equip(texts.shards(), "next_sentence"), **{**ROWS, **changes})


def span_view(**changes: Any) -> SpanCorruption:
    return SpanCorruption(equip(texts.shards("unigram"), "span_corruption"), **{**ROWS, **changes})


def encoder(name: str = "bert", head: str = "masked_token", dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    vocab_size = texts.shards().vocab_size
    made = formers.build(name, vocab_size=vocab_size, head=head, **{**TEXT, **changes})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made.to(dtype)


def t5(dtype: torch.dtype = torch.float64) -> Any:
    view = span_view()
    return formers.build("t5", vocab_size=view.shards.vocab_size, d_head=12, **SIZES).to(dtype)


def detector(name: str = "bert", sharing: str = "disentangled", dtype: torch.dtype = torch.float64) -> ReplacedToken:
    generator = encoder(name, dtype=dtype, num_layers=1)
    discriminator = encoder(name, "token", dtype=dtype, labels=("original", "replaced"))
    return ReplacedToken(generator, discriminator, sharing=sharing).to(dtype)


def micro(view: Any, step: int = 0) -> Any:
    return to_tensors(view.batch(step), "cpu", apart=True, carried=False)


def total(objective: Objective, view: Any, step: int = 0, lanes: int = 1) -> torch.Tensor:
    """The loss of a step as the loop makes it."""
    batch, losses = view.batch(step), []
    for lane in range(lanes):
        rows = to_tensors(lane_rows(batch, lane, lanes), "cpu", apart=True, carried=False)
        torch.manual_seed(lane)
        losses.append(objective(*rows.arguments(), **rows.given, **objective.weights(batch, "cpu"))[0])
    return torch.stack(losses).sum() / number_scored(batch)


# --- the losses -------------------------------------------------------------------------------------------------------


def test_masked_loss_is_the_mean_over_masked_tokens():
    model, view = encoder(), masked_view()
    rows = micro(view)
    logits = model(rows.input_ids, positions=Positions(rows.index, rows.document)).logits
    expected = F.cross_entropy(logits[rows.targets >= 0], rows.targets[rows.targets >= 0])
    assert total(make_objective(model), view).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_the_loss_of_pairs_is_the_sum_of_both_means(name: str):
    changes = {"classifier_dropout": 0.0, "d_embedding": 14} if name == "albert" else {}
    model, view = encoder(name, "pretraining", **changes), pair_view()
    rows = micro(view)
    out = model(rows.input_ids, positions=Positions(rows.index), token_types=rows.given["token_types"])
    tokens = F.cross_entropy(out.logits[rows.targets >= 0], rows.targets[rows.targets >= 0])
    expected = tokens + F.cross_entropy(out.pair, rows.given["pair"])
    objective = make_objective(model)
    assert isinstance(objective, PairObjective)
    assert total(objective, view).item() == pytest.approx(expected.item(), rel=1e-6)  # the weight is a float32


def test_the_loss_of_a_target_is_that_of_teacher_forcing():
    model, view = t5(), span_view(seq_len=400)
    rows = micro(view)
    assert (rows.given["source_index"] < 0).any()  # texts that are shorter than their rows
    source = Source(rows.given["source_ids"], Positions(rows.given["source_index"]))
    logits = model(rows.input_ids, positions=Positions(rows.index), source=source).logits
    expected = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten())
    objective = make_objective(model)
    assert isinstance(objective, SourceObjective)
    assert total(objective, view).item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("lanes", [2, 4])
def test_micro_batches_add_up_to_the_same_gradient(lanes: int):
    for model, view in ((encoder(head="pretraining"), pair_view()), (t5(), span_view())):
        objective = make_objective(model)
        whole, parts = (torch.autograd.grad(total(objective, view, lanes=n), [*model.parameters()]) for n in (1, lanes))
        for a, b in zip(whole, parts, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_loss_of_replaced_tokens_is_that_of_both_models():
    model, view = detector(), masked_view()
    rows, objective = micro(view), make_objective(model)
    assert isinstance(objective, ReplacedObjective)
    positions = Positions(rows.index, rows.document)
    hidden, _ = model.generator.body(rows.input_ids, positions)
    torch.manual_seed(0)
    drawn = draw_tokens(hidden, model.generator.head, rows.targets >= 0, seeded=False)
    read, labels = replaced(rows.input_ids, rows.targets, drawn, rows.index)
    tokens = F.cross_entropy(model.generator.head(hidden)[rows.targets >= 0], rows.targets[rows.targets >= 0])
    found = F.cross_entropy(model(read, positions=positions).logits.flatten(0, 1), labels.flatten())
    expected = tokens + 50 * found
    assert total(objective, view).item() == pytest.approx(expected.item(), rel=1e-6)


# --- replaced tokens --------------------------------------------------------------------------------------------------


def discriminator_loss(model: ReplacedToken, rows: Any) -> torch.Tensor:
    positions = Positions(rows.index, rows.document)
    hidden, _ = model.generator.body(rows.input_ids, positions)
    drawn = draw_tokens(hidden, model.generator.head, rows.targets >= 0, seeded=True)
    read, labels = replaced(rows.input_ids, rows.targets, drawn, rows.index)
    return F.cross_entropy(model(read, positions=positions).logits.flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("name", ENCODERS)
def test_the_discriminators_loss_moves_its_delta_and_nothing_of_the_generator(name: str):
    changes: Any = detector(name)
    loss = discriminator_loss(changes, micro(masked_view()))
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in changes.generator.parameters())
    assert changes.discriminator.embedding.tokens.delta.weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in changes.discriminator.parameters())


def test_a_shared_embedding_is_moved_by_both_losses():
    """What gradient-disentangled sharing prevents is there without it."""
    model = detector(sharing="shared")
    discriminator_loss(model, micro(masked_view())).backward()
    assert model.generator.embedding.tokens.weight.grad.any()


def test_the_gradient_of_both_losses_at_the_shared_embedding_is_the_generators_own():
    model, view = detector(), masked_view()
    weight = model.generator.embedding.tokens.weight
    together = torch.autograd.grad(total(make_objective(model), view), weight)[0]
    alone = torch.autograd.grad(total(Objective(model.generator), view), weight)[0]
    assert torch.equal(together, alone)


def test_the_disentangled_embedding_is_the_shared_one_and_a_delta():
    shared = torch.nn.Embedding(7, 3)
    made = DisentangledEmbedding(shared)
    ids = torch.tensor([[1, 5]])
    assert torch.equal(made(ids), shared(ids))
    torch.nn.init.normal_(made.delta.weight)
    assert torch.equal(made(ids), (shared.weight + made.delta.weight)[ids])
    shared.weight.data.add_(1.0)
    assert torch.equal(made(ids), (shared.weight + made.delta.weight)[ids])  # it follows the generator
    assert [name for name, _ in made.named_parameters()] == ["delta.weight"]


def test_tokens_are_drawn_by_their_probability_and_in_evaluation_always_the_same():
    logits = torch.tensor([0.1, 2.0, -1.0, 0.7])
    hidden = torch.zeros(1, 6000, 1)
    at = torch.ones(1, 6000, dtype=torch.bool)
    at[0, :100] = False

    def head(x: torch.Tensor) -> torch.Tensor:
        return logits.expand(*x.shape[:-1], 4)

    torch.manual_seed(1)
    drawn = draw_tokens(hidden, head, at, seeded=False)
    assert not drawn[~at].any()
    counts = torch.bincount(drawn[at], minlength=4).tolist()
    assert all(within(n, 5900, p) for n, p in zip(counts, logits.softmax(-1).tolist(), strict=True))
    twice = [draw_tokens(hidden, head, at, seeded=True) for _ in range(2)]
    assert torch.equal(*twice)
    assert not torch.equal(twice[0], drawn)


def test_labels_say_where_the_text_is_not_its_own():
    ids, targets = torch.tensor([[4, 8, 9, 0]]), torch.tensor([[5, -100, 6, -100]])
    index = torch.tensor([[0, 1, 2, -1]])
    read, labels = replaced(ids, targets, torch.tensor([[5, 0, 7, 0]]), index)
    assert read.tolist() == [[5, 8, 7, 0]]
    assert labels.tolist() == [[0, 0, 1, -100]]  # a token that was guessed right is no replacement


def test_what_is_kept_is_an_encoder_like_any_other(tmp_path):
    model = detector(dtype=torch.float32)
    torch.nn.init.normal_(model.discriminator.embedding.tokens.delta.weight)
    alone = model.merged()
    ids = torch.randint(5, 90, (2, 9))
    assert torch.equal(alone.eval()(ids).logits, model.eval()(ids).logits)
    again = formers.load(formers.save(alone, tmp_path / "model"))
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.config.labels == ("original", "replaced")
    assert isinstance(model.discriminator.embedding.tokens, DisentangledEmbedding)  # the training goes on


def test_generators_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="masked_token, and token of 2 labels"):
        ReplacedToken(encoder(), encoder())
    with pytest.raises(ConfigError, match="one size"):
        ReplacedToken(encoder(d_model=12), encoder(head="token"))
    with pytest.raises(ConfigError, match="did you mean 'disentangled'"):
        detector(sharing="disentangle")
    assert ReplacedToken(encoder(d_model=12), encoder(head="token"), sharing="none")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_generator_has_half_the_layers(name: str):
    model = ReplacedToken.of(formers.build(name, **{**TEXT, "num_layers": 4}).config)
    assert (model.generator.config.num_layers, model.discriminator.config.num_layers) == (2, 4)
    assert model.config.head == "token"


# --- which ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "asked", "chosen"),
    [
        ("gpt2", {}, "auto", "next_token"),
        ("bert", {}, "auto", "masked_token"),
        ("distilbert", {}, "auto", "masked_token"),
        ("bert", {"head": "pretraining"}, "auto", "next_sentence"),
        ("albert", {"head": "pretraining"}, "auto", "sentence_order"),
        ("bert", {"head": "pretraining"}, "sentence_order", "sentence_order"),
        ("bert", {"head": "token"}, "replaced_token", "replaced_token"),
        ("deberta", {}, "auto", "masked_token"),
        ("t5", {}, "auto", "span_corruption"),
        ("t5", {}, "source_to_target", "source_to_target"),
    ],
)
def test_a_head_says_what_it_is_for(name: str, changes: dict, asked: str, chosen: str):
    model = formers.build(name, "nano", **changes)
    assert choose(asked, model, model.config) == chosen
    assert choose(asked, type(model), model.config) == chosen


@pytest.mark.parametrize(
    ("name", "changes", "asked", "said"),
    [
        ("bert", {}, "next_token", "each of its tokens sees the next one"),
        ("bert", {}, "next_sentence", "--model.head pretraining"),
        ("bert", {"head": "sequence"}, "auto", "learns from labelled data"),
        ("gpt2", {}, "masked_token", "a masked_token head"),
        ("gpt2", {}, "span_corruption", "writes from a source"),
        ("gpt2", {}, "replaced_token", "an encoder"),
        ("t5", {}, "next_token", "span_corruption or source_to_target"),
    ],
)
def test_a_model_that_cannot_learn_it_is_refused(name: str, changes: dict, asked: str, said: str):
    model = formers.build(name, "nano", **changes)
    with pytest.raises(ConfigError, match=said):
        choose(asked, model, model.config)


def test_a_head_that_labels_keeps_the_loss_of_its_targets():
    assert type(make_objective(encoder(head="token"))) is Objective


def test_runs_of_before_there_were_objectives_can_be_resumed():
    new = small.settings().of_the_weights()
    assert not new.keys() & {"objective", "masking", "masked_share", "mean_span", "target_len"}
    assert small.settings(objective="next_token").of_the_weights() == new
    changed = small.settings(objective="masked_token", masking="words", masked_share=0.4)
    assert changed.of_the_weights().keys() - new.keys() == {"objective", "masking", "masked_share"}


# --- trainings --------------------------------------------------------------------------------------------------------


def settings(**changes: Any) -> Any:
    return small.settings(**{**ROWS, "documents_apart": True, "lr": 1e-2, **changes})


def rows_of(out: Any, kind: str) -> list[dict]:
    return [row for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind]


CASES = {
    "masked_token": lambda: (encoder(dtype=torch.float32), masked_view),
    "next_sentence": lambda: (encoder(head="pretraining", dtype=torch.float32), pair_view),
    "replaced_token": lambda: (detector(dtype=torch.float32), masked_view),
    "span_corruption": lambda: (t5(torch.float32), span_view),
}


@pytest.mark.parametrize("name", CASES)
def test_each_learns_and_a_stopped_training_ends_with_the_same_bits(name: str, tmp_path):
    def run(out: str, **more: Any) -> Any:
        model, view = CASES[name]()
        return train(
            model,
            settings(objective=name, steps=14, checkpoint_every=5, accumulate=2),
            view(),
            view(rows="every", split="validation"),
            out=tmp_path / out,
            progress=False,
            fresh=False,
            **more,
        )

    def stop(row: dict) -> None:
        if row["kind"] == "train" and row["step"] == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    whole = run("whole")
    assert run("stopped", on_event=stop).steps == 7
    again = run("stopped", resume=True)
    assert again.resumed_from == 7
    assert small.digest(again.model) == small.digest(whole.model)
    losses = [row["loss"] for row in rows_of(tmp_path / "whole", "train")]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    assert rows_of(tmp_path / "whole", "eval")[-1]["objective"] == name


def test_an_evaluation_of_pairs_measures_both():
    view = pair_view(rows="every", split="validation")
    found = evaluate(make_objective(encoder(head="pretraining")), view)
    again = evaluate(make_objective(encoder(head="pretraining")), view)
    assert found == again  # the masks are fixed by the seed
    row = found.row()
    assert row["bits_per_byte"] is None
    assert row["pair_loss"] > 0
    assert 0 <= row["pair_accuracy"] <= 1
    labels = sum(int((view.batch(step).pair >= 0).sum()) for step in range(len(view)))
    assert row["pair_accuracy"] * labels == pytest.approx(round(row["pair_accuracy"] * labels), abs=1e-6)
    assert found.tokens == sum(int((view.batch(step).targets >= 0).sum()) for step in range(len(view)))


def test_an_evaluation_of_replaced_tokens_is_the_same_twice():
    view = masked_view(rows="every", split="validation")
    found = [evaluate(make_objective(detector()), view) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].second.keys() == {"replaced_loss", "replaced_accuracy"}


def test_the_first_loss_of_two_questions_is_that_of_both():
    assert PairObjective.second_loss == pytest.approx(math.log(2))
    assert Objective.second_loss == 0


def test_a_source_of_another_length_is_refused():
    with pytest.raises(formers.errors.DataError, match="8 rows of 40 tokens"):
        step_batch(span_view(), 1, settings(seq_len=39))


def test_padding_is_told_even_where_documents_are_not_apart():
    rows = to_tensors(masked_view().batch(0), "cpu", apart=False, carried=False)
    assert rows.index is not None
    assert rows.document is None
    assert dataclasses.is_dataclass(rows)
