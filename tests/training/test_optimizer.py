"""Decay groups, and the optimizer's state by parameter name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from formers.errors import ConfigError, RunError
from formers.training.optimizer import decay_names, load_optimizer_tensors, make_optimizer, optimizer_tensors, set_lr
from formers.training.settings import TrainSettings


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.linear = nn.Linear(5, 7)
        self.linear.weight = self.embedding.weight
        self.norm = nn.LayerNorm(5)
        self.table = nn.Parameter(torch.randn(3, 5))
        self.table.no_decay = True  # type: ignore[attr-defined]
        self.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)

    def forward(self, ids):
        return self.linear(self.norm(self.embedding(ids)) + self.table.sum(0))


def optimizer_of(model, **settings):
    return make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(**settings))


def names_of(model):
    return {parameter: name for name, parameter in model.named_parameters()}


def step(model, optimizer):
    torch.manual_seed(0)
    optimizer.zero_grad()
    model(torch.randint(7, (4, 6))).square().sum().backward()
    optimizer.step()


def test_matrices_and_embeddings_decay_and_nothing_else_does():
    model = Small()
    optimizer, names = optimizer_of(model, weight_decay=0.3), names_of(model)
    groups = {g["weight_decay"]: {names[p] for p in g["params"]} for g in optimizer.param_groups}
    assert groups == {0.3: {"embedding.weight"}, 0.0: {"linear.bias", "norm.weight", "norm.bias", "table"}}


def test_decay_alone_shrinks_by_lr_times_decay():
    model = Small()
    optimizer = optimizer_of(model, weight_decay=0.5, lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name == "embedding.weight" else 1.0
        assert torch.allclose(parameter, factor * before[name], rtol=1e-6), name


def test_state_by_name_goes_into_a_fresh_optimizer_and_trains_on_to_the_same_bits():
    torch.manual_seed(3)
    model = Small()
    optimizer = optimizer_of(model)
    step(model, optimizer)
    stored = optimizer_tensors(optimizer, names_of(model))
    assert {key.partition(".")[0] for key in stored} == {"step", "exp_avg", "exp_avg_sq"}
    assert not any(key.endswith("frozen") for key in stored)
    twin = Small()
    twin.load_state_dict(model.state_dict())
    fresh = optimizer_of(twin)
    load_optimizer_tensors(fresh, names_of(twin), stored)
    for m, o in ((model, optimizer), (twin, fresh)):
        step(m, o)
        step(m, o)
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_was_loaded_is_apart_from_what_it_was_loaded_from():
    model = Small()
    optimizer = optimizer_of(model)
    step(model, optimizer)
    stored = {key: tensor.clone() for key, tensor in optimizer_tensors(optimizer, names_of(model)).items()}
    kept = stored["exp_avg.table"].clone()
    load_optimizer_tensors(optimizer, names_of(model), stored)
    step(model, optimizer)
    assert torch.equal(stored["exp_avg.table"], kept)


def test_state_of_unknown_parameters_is_refused():
    model = Small()
    with pytest.raises(RunError, match="other\\.weight"):
        load_optimizer_tensors(optimizer_of(model), names_of(model), {"exp_avg.other.weight": torch.zeros(2)})


def test_the_rate_reaches_every_group():
    optimizer = optimizer_of(Small())
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_adafactor_steps_in_proportion_to_the_size_of_a_weight():
    model = Small()
    with torch.no_grad():
        model.embedding.weight.mul_(100)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, optimizer_of(model, optimizer="adafactor", lr=1e-2, weight_decay=0.0))
    for name in ("embedding.weight", "table"):
        now, then = model.get_parameter(name).detach(), before[name]
        moved = (now - then).square().mean().sqrt() / then.square().mean().sqrt()
        assert 0.003 < moved <= 0.01 + 1e-6, name


def test_adafactor_goes_on_from_its_state_and_holds_no_square_of_a_matrix():
    whole, parted = Small(), Small()
    parted.load_state_dict(whole.state_dict())
    first, second = (optimizer_of(model, optimizer="adafactor") for model in (whole, parted))
    for _ in range(2):
        step(whole, first)
    step(parted, second)
    stored = optimizer_tensors(second, names_of(parted))
    assert stored["row_var.embedding.weight"].numel() + stored["col_var.embedding.weight"].numel() == 7 + 5
    again = optimizer_of(parted, optimizer="adafactor")
    load_optimizer_tensors(again, names_of(parted), stored)
    step(parted, again)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, parted.get_parameter(name)), name


def test_adafactor_over_shares_of_weights_is_refused():
    with pytest.raises(ConfigError, match="adafactor with parallel fsdp"):
        TrainSettings(optimizer="adafactor", parallel="fsdp")
