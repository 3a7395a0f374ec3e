"""Evaluation against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from formers.parts.positions import Positions
from formers.training.batches import CarriedStates
from formers.training.evaluate import evaluate, evaluating
from formers.training.objective import Objective
from tests.training import small


def by_hand(model, view):
    """(loss, hit, index) of every scored token."""
    found = []
    for batch in view:
        rows = batch.torch()
        logits = model(rows.input_ids, positions=Positions(rows.place, rows.document)).logits
        losses = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none").view_as(rows.targets)
        for r, c in (rows.targets >= 0).nonzero().tolist():
            hit = logits[r, c].argmax() == rows.targets[r, c]
            found.append((losses[r, c].item(), bool(hit), int(batch.index[r, c])))
    return found


def test_every_measure_is_what_it_says():
    model, view = small.gpt2(dtype=torch.float64).eval(), small.validation()
    with torch.no_grad():
        tokens = by_hand(model, view)
    found = evaluate(Objective(model), view)
    losses = [loss for loss, _, _ in tokens]
    size = sum(batch.bytes for batch in view)
    assert found.tokens == len(tokens) == sum(view.inputs)
    assert found.loss == pytest.approx(math.fsum(losses) / len(losses), rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(found.loss), rel=1e-12)
    assert found.bits_per_byte == pytest.approx(math.fsum(losses) / math.log(2) / size, rel=1e-12)
    assert found.accuracy == pytest.approx(sum(hit for _, hit, _ in tokens) / len(tokens), rel=1e-12)
    for stretch in found.by_position:
        within = [loss for loss, _, index in tokens if stretch["start"] <= index < stretch["end"]]
        assert stretch["count"] == len(within) > 0
        assert stretch["loss"] == pytest.approx(math.fsum(within) / len(within), rel=1e-12)
    assert sum(stretch["count"] for stretch in found.by_position) == found.tokens
    assert [stretch["start"] for stretch in found.by_position] == [0, 16, 32]


def test_bytes_of_all_scored_tokens_are_those_of_the_documents_but_for_their_first_tokens():
    view = small.validation()
    assert sum(batch.bytes for batch in view) == sum(view.lengths - 2)  # a byte a token; no first, no end of text


def test_carried_states_see_the_whole_document_whatever_the_length_of_a_row():
    model = small.gpt2(dtype=torch.float64)
    whole = evaluate(Objective(model), small.validation(seq_len=128, stride=128))
    cut = small.validation(seq_len=7, stride=None)
    carried = evaluate(Objective(model), cut, states=CarriedStates(model, small.BATCH, 128))
    assert carried.tokens == whole.tokens
    assert carried.loss == pytest.approx(whole.loss, rel=1e-12)
    assert evaluate(Objective(model), cut).loss != pytest.approx(whole.loss, rel=1e-6)


def test_only_as_many_batches_as_asked_for_are_scored():
    model, view = small.gpt2(), small.validation()
    first = evaluate(Objective(model), view, batches=1)
    assert first.tokens == view.batch(0).scored < sum(view.inputs)
    assert evaluate(Objective(model), view, batches=10_000).tokens == sum(view.inputs)
    assert evaluate(Objective(model), small.windows(), batches=2).tokens == sum(
        small.windows().batch(number).scored for number in range(2)
    )


def test_dropout_is_off_for_the_time_and_every_mode_is_put_back():
    model = small.gpt2(dropout=0.5)
    model.trunk.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    objective = Objective(model)
    assert evaluate(objective, small.validation()) == evaluate(objective, small.validation())
    assert {name: module.training for name, module in model.named_modules()} == modes
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()


def test_the_row_holds_plain_numbers():
    row = evaluate(Objective(small.gpt2()), small.validation(), batches=1).row()
    assert row.keys() == {"loss", "bits_per_byte", "perplexity", "accuracy", "by_position"}
    assert all(isinstance(row[name], float) for name in ("loss", "bits_per_byte", "perplexity", "accuracy"))
    assert row["by_position"][0].keys() == {"start", "end", "loss", "count"}
