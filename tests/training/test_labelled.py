"""The loss of a label a text: packed texts give what each gives alone, in all encoders with such a head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import formers
from formers.data.batch import NO_TARGET
from formers.data.examples import Example, LabelledRows
from formers.text import train_tokenizer
from formers.training.batches import to_tensors
from formers.training.labelled import LabelObjective
from formers.training.objectives import make_objective

FLOAT64 = 1e-9
NAMES = ("bert", "albert", "distilbert", "deberta", "deberta_v2")


def model_of(name: str) -> torch.nn.Module:
    model = formers.build(name, preset="nano", vocab_size=257, head="sequence", num_labels=3, init_std=0.3)
    return model.double().eval()


def view() -> LabelledRows:
    generator = np.random.default_rng(0)
    examples = []
    for number, length in enumerate((5, 3, 7, 2, 4, 6, 3)):
        labels = np.full(length, NO_TARGET)
        labels[0] = number % 3
        examples.append(Example(generator.integers(1, 250, length), labels))
    return LabelledRows(examples, train_tokenizer("byte"), batch_size=2, seq_len=17, every=True)


@pytest.mark.parametrize("name", NAMES)
def test_texts_in_one_row_give_the_loss_and_gradients_that_each_gives_alone(name: str) -> None:
    rows, model = view(), model_of(name)
    objective = make_objective(model)
    assert isinstance(objective, LabelObjective)
    total, count, _ = objective(*to_tensors(rows.batch(0), "cpu", apart=True, carried=False).arguments())
    total.backward()
    packed = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = torch.zeros((), dtype=torch.float64)
    for example in rows.examples:
        logits = model(torch.from_numpy(example.ids)[None]).logits
        alone = alone + torch.nn.functional.cross_entropy(logits, torch.tensor([int(example.labels[0])]))
    alone.backward()
    assert len(rows) == 1
    assert int(count) == len(rows.examples)
    assert abs((total - alone).item()) < FLOAT64
    assert packed.keys() == {key for key, p in model.named_parameters() if p.grad is not None}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert float((parameter.grad - packed[key]).abs().max()) < FLOAT64, key


def test_scores_stand_where_the_labels_do_and_add_up_to_the_loss() -> None:
    rows, objective = view(), make_objective(model_of("bert"))
    given = to_tensors(rows.batch(0), "cpu", apart=True, carried=False).arguments()
    losses, right, state = objective(*given, scores=True)
    total, _, _ = objective(*given)
    assert state is None
    assert abs((losses.sum() - total).item()) < FLOAT64
    assert (losses[given[1] == NO_TARGET] == 0).all()
    assert not right[given[1] == NO_TARGET].any()
    likeliest = [int(objective.model(torch.from_numpy(e.ids)[None]).logits.argmax()) for e in rows.examples]
    hits = sum(int(e.labels[0]) == best for e, best in zip(rows.examples, likeliest, strict=True))
    assert int(right.sum()) == hits
