"""Each sentinel speaks when it should, names the cause, and is silent otherwise."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formers.errors import ConfigError, DataError, RunError
from formers.training import sentinels
from formers.training.distributed import Team
from formers.training.evaluate import evaluating
from formers.training.objective import Objective
from tests.training import small
from tests.training.test_objective import micro


def test_a_first_loss_near_ln_v_is_silent():
    assert sentinels.first_loss(math.log(8195) * 1.05, 8195) is None
    assert sentinels.first_loss(math.log(8195) * 0.95, 8195) is None


def test_a_first_loss_far_above_names_the_scale_of_the_logits():
    """77.7 where ln 8195 = 9.0: the log of a run that nobody looked at."""
    said = sentinels.first_loss(77.7, 8195)
    assert said is not None
    assert "9.01" in said
    assert "standard deviation of 11.7" in said
    assert "initial weights" in said


def test_the_standard_deviation_it_names_is_that_of_the_logits():
    logits = 2.0 * torch.randn(4000, 1000)
    loss = F.cross_entropy(logits, torch.randint(1000, (4000,))).item()
    said = sentinels.first_loss(loss, 1000)
    assert said is not None
    assert "standard deviation of 2.0" in said


def test_a_first_loss_far_below_names_a_leak():
    said = sentinels.first_loss(1.0, 8195)
    assert said is not None
    assert "mask that leaks" in said


def shared(share, split="train"):
    view = small.validation()
    view.shards = dataclasses.replace(view.shards, folder=Path("other"), meta={**view.shards.meta, "overlap": share})
    return view


def test_validation_that_stands_in_training_is_warned_of_with_its_share():
    said = sentinels.overlap(small.windows(), shared(0.25))
    assert said is not None
    assert "25%" in said
    assert sentinels.overlap(small.windows(), shared(0.03)) is None
    assert sentinels.overlap(small.windows(), shared(None)) is None


def test_evaluating_on_the_training_split_is_warned_of():
    said = sentinels.overlap(small.windows(), small.validation(split="train"))
    assert said is not None
    assert "measures memory" in said


def test_shards_of_another_tokenizer_are_refused():
    other = small.validation()
    other.shards = dataclasses.replace(other.shards, meta={**other.shards.meta, "tokenizer_fingerprint": "f" * 64})
    with pytest.raises(DataError, match="another tokenizer"):
        sentinels.check_tokenizers(small.gpt2(), small.windows(), other)
    with pytest.raises(DataError, match="another tokenizer"):
        sentinels.check_tokenizers(small.gpt2(), small.windows(), fingerprint="0" * 64)
    view = small.windows()
    assert sentinels.check_tokenizers(small.gpt2(), view) == view.shards.meta["tokenizer_fingerprint"]


def test_ids_beyond_the_models_vocabulary_are_refused():
    with pytest.raises(DataError, match="vocab_size=257"):
        sentinels.check_tokenizers(small.gpt2(vocab_size=200), small.windows())


def test_rows_longer_than_the_models_positions_are_refused():
    with pytest.raises(ConfigError, match="positions for 128"):
        sentinels.check_length(small.gpt2(), 129)
    sentinels.check_length(small.gpt2(), 128)


def test_rows_that_cannot_be_dealt_out_are_refused_with_a_number_that_can():
    sentinels.check_rows(small.settings(accumulate=2), world=4)
    with pytest.raises(ConfigError, match="set batch_size to 12"):
        sentinels.check_rows(small.settings(accumulate=2), world=3)


class AlwaysDropping(nn.Module):
    """Dropout whatever the mode: a fault of public code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x):
        return F.dropout(self.linear(x), 0.5)


def test_dropout_that_ignores_the_mode_is_an_error():
    module, x = AlwaysDropping(), torch.ones(3, 5)
    with evaluating(module), pytest.raises(RunError, match="scoring one batch twice"):
        sentinels.check_evaluation(module, lambda: module(x))


def test_a_module_left_in_training_mode_is_named():
    module, x = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.0)), torch.ones(3, 5)
    with evaluating(module):
        sentinels.check_evaluation(module, lambda: module(x))
        module[1].train()
        with pytest.raises(RunError, match="in training mode: 1"):
            sentinels.check_evaluation(module, lambda: module(x))


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.cut, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Parameter(torch.ones(2))
        self.gate = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return self.used(x) + self.gate * x + self.cut(x).detach()


def test_parameters_that_no_gradient_reaches_are_named_once_at_the_end_of_the_watch():
    module = Deaf()
    watch = sentinels.GradientWatch(module.named_parameters(), Team(), last=3)
    said = []
    for step in range(1, 6):
        module.zero_grad()
        (module(torch.randn(4, 3)) * step).sum().backward()
        watch.look(step)
        said.append(watch.verdict(step))
    assert [bool(sentence) for sentence in said] == [False, False, True, False, False]
    named = said[2].partition("steps: ")[2].partition(". They")[0]
    assert set(named.split(", ")) == {"cut.weight", "cut.bias", "unused"}


def test_a_parameter_that_the_loss_does_not_use_is_an_error_under_ddp():
    class Two(Team):
        def total(self, tensor):
            return tensor

    module = Deaf()
    module(torch.randn(4, 3)).sum().backward()
    with pytest.raises(RunError, match=r"not use these parameters: unused, cut\.weight, cut\.bias"):
        sentinels.GradientWatch(module.named_parameters(), Two(world=2), last=5).look(1)
    sentinels.GradientWatch(module.named_parameters(), Two(world=2, parallel="fsdp"), last=5).look(1)


def test_a_gpt2_is_silent():
    model = small.gpt2()
    watch = sentinels.GradientWatch(model.named_parameters(), Team(), last=1)
    Objective(model)(*micro().arguments())[0].backward()
    watch.look(1)
    assert watch.verdict(1) is None


def blame(spoil, backward=True):
    model = small.gpt2()
    objective, rows = Objective(model), micro()
    handle = spoil(model)
    found = sentinels.find_non_finite(objective, lambda: objective(*rows.arguments())[0], backward=backward)
    handle.remove()
    assert all(p.grad is None for p in model.parameters())
    return found


def test_the_first_module_whose_output_is_not_finite_is_named():
    def spoil(model):
        return model.trunk.blocks[1]["feed_forward"].expand.register_forward_hook(lambda m, i, out: out * math.inf)

    assert blame(spoil) == "the output of model.trunk.blocks.1.feed_forward.expand"


def test_the_first_module_whose_gradient_is_not_finite_is_named():
    def spoil(model):
        def hook(module, inputs, out):
            out.register_hook(lambda grad: grad / 0.0)

        return model.trunk.norms[1]["attention"].register_forward_hook(hook)

    found = blame(spoil)
    assert found is not None
    assert found.startswith("the gradient of model.trunk")


def test_spoilt_weights_are_named_before_anything_runs():
    def spoil(model):
        with torch.no_grad():
            model.trunk.blocks[0]["attention"].mix.linear.bias[3] = math.nan
        return model.register_forward_hook(lambda *arguments: None)

    assert "trunk.blocks.0.attention.mix.linear.bias are not finite" in str(blame(spoil))


def test_where_all_is_finite_nothing_is_named():
    assert blame(lambda model: model.register_forward_hook(lambda *arguments: None)) is None
