"""What a training is put together from, and how a checkpoint is put back into it."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import ConfigError, RunError
from formers.parts.feed_forward import Chunked
from formers.parts.reversible import Reversible
from formers.parts.trunk import set_recompute
from formers.training import checkpoints, estimates, sentinels
from formers.training.batches import CarriedStates, state_length
from formers.training.checkpoints import Checkpoint
from formers.training.distributed import Team
from formers.training.job import Job
from formers.training.learners import lr_factors
from formers.training.objective import Objective, accepts, is_float64, parameter_count
from formers.training.objectives import make_objective
from formers.training.optimizer import (
    decay_names,
    like,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    whole,
)
from formers.training.precision import Numerics, choose, freed_memory_kept, freed_memory_returned
from formers.training.randomness import random_tensors, restore_random
from formers.training.settings import TrainSettings


def spares_memory(model: nn.Module, settings: TrainSettings) -> bool:
    """Whether activations are made again in the backward pass, because memory was to be spared."""
    return settings.recompute or any(isinstance(module, Reversible | Chunked) for module in model.modules())


def freed_memory(model: nn.Module, settings: TrainSettings, device: str) -> contextlib.AbstractContextManager[None]:
    """What becomes of the memory that a step frees: it is kept for the next one, or returned where it is to be spared."""
    return freed_memory_returned(device) if spares_memory(model, settings) else freed_memory_kept(device)


@dataclass
class Parts:
    """A training's moving parts on this process.

    objective  the module that is trained; wrapped: what is called in its place (the same where there is one process)
    names      parameter -> its name in the model
    lanes      the micro-batches of this process, of `num_lanes` over all processes
    unsharded  a copy of the model that takes the weights at the end, where the model itself is sharded
    """

    objective: Objective
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    names: dict[Tensor, str]
    states: CarriedStates
    lanes: range
    num_lanes: int
    unsharded: nn.Module | None

    @property
    def model(self) -> nn.Module:
        return self.objective.model


def find_checkpoint(job: Job, team: Team, say: Any) -> Checkpoint | None:
    """The newest whole checkpoint, or None. The first process looks first, since it sets damaged ones aside.

    `say` is told of damaged ones. Raises RunError, listing what differs, where it is of another run, and DataError where
    the data are of another tokenizer.
    """
    folder = job.out / "checkpoints"
    if not team.first:
        team.barrier()
    found = checkpoints.load_newest(folder, rank=team.rank, on_damage=say)
    if team.first:
        team.barrier()
    if found is not None:
        sentinels.check_tokenizers(job.model, *job.views, fingerprint=found.facts["identity"]["tokenizer"])
        checkpoints.refuse_another(found.facts["identity"], job.identity(team.world))
        if team.first:
            checkpoints.tidy(folder)  # a kill after the last checkpoint took its place: no other will be written
    return found


def choose_numerics(job: Job, checkpoint: Checkpoint | None, say: Any) -> Numerics:
    """What is computed with: as the machine does it fast, or as the checkpoint was computed. `say` is told of changes."""
    work = estimates.operations(parameter_count(job.model, frozen=True), job.settings)
    chosen = choose(job.settings, operations=work, float64=is_float64(job.model))
    for note in chosen.notes:
        say(note)
    if checkpoint is None:
        return chosen
    stored = checkpoint.facts["numerics"]
    if chosen.device.partition(":")[0] != stored["device"].partition(":")[0]:
        say(f"The run was on {stored['device']} and goes on on {chosen.device}: its numbers will not be the same bits.")
    asked = {"precision": job.settings.precision, "compile": job.settings.compile, "threads": job.settings.threads}
    kept = {name: stored[name] for name in asked}
    for name, value in asked.items():
        explicit = {"on": True, "off": False}.get(value, value) if name == "compile" else value
        if explicit not in ("auto", None) and explicit != kept[name]:
            say(f"{name} {value} was asked for, but the run has {kept[name]}, which it keeps.")
    return Numerics(chosen.device, **kept)


def assemble(job: Job, team: Team, numerics: Numerics) -> Parts:
    """Build everything around the model, on its device. Raises ConfigError for what the model cannot do."""
    settings, model = job.settings, job.model
    if settings.carry_state and not accepts(model, "state"):
        raise ConfigError(f"{type(model).__name__} keeps no state", "carry_state off", "leave carry_state out")
    if settings.documents_apart and not accepts(model, "positions"):
        raise ConfigError(
            f"{type(model).__name__} takes no positions, which would tell it where documents begin",
            "documents_apart off, or a model that takes positions",
            "set documents_apart to False",
        )
    set_recompute(model, settings.recompute)
    model.to(numerics.device).train()
    is_sharded = team.world > 1 and settings.parallel == "fsdp"
    unsharded = copy.deepcopy(model).cpu() if is_sharded and team.first else None
    decaying, factors = decay_names(model), lr_factors(model, settings.lr_factors)
    objective = make_objective(model, settings.objective, precision=numerics.precision)
    wrapped = team.wrap(objective, compiled=numerics.compile)
    num_lanes = team.world * settings.accumulate
    states = CarriedStates()
    if settings.carry_state:
        length = state_length(model, job.train_view, settings)
        states = CarriedStates(model, settings.batch_size // num_lanes, length)
    return Parts(
        objective=objective,
        wrapped=wrapped,
        optimizer=make_optimizer(model.named_parameters(), decaying, settings, factors),
        names={parameter: name for name, parameter in model.named_parameters()},
        states=states,
        lanes=range(team.rank * settings.accumulate, (team.rank + 1) * settings.accumulate),
        num_lanes=num_lanes,
        unsharded=unsharded,
    )


def snapshot(parts: Parts, step: int, facts: dict[str, Any]) -> Checkpoint:
    """Everything that the next step depends on. Every process calls it."""
    return Checkpoint(
        step,
        model_tensors(parts.model),
        optimizer_tensors(parts.optimizer, parts.names),
        random_tensors() | parts.states.tensors(),
        facts,
    )


def restore(parts: Parts, checkpoint: Checkpoint, device: str) -> None:
    """Put a checkpoint back. Raises RunError where its tensors are not the model's."""
    stored = _stored(parts.model)
    if stored.keys() != checkpoint.model.keys():
        differing = ", ".join(sorted(stored.keys() ^ checkpoint.model.keys()))
        raise RunError(f"the checkpoint's tensors are not the model's: {differing}", "the model that it was made with")
    with torch.no_grad():
        for name, tensor in stored.items():
            tensor.copy_(like(tensor, checkpoint.model[name]))
    load_optimizer_tensors(parts.optimizer, parts.names, checkpoint.optimizer)
    restore_random(checkpoint.mine)
    parts.states.restore(checkpoint.mine, device)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and stored buffer once, whole and on the CPU. Every process calls it where they are sharded."""
    return {name: whole(tensor) for name, tensor in _stored(model).items()}


def trained_model(parts: Parts) -> nn.Module:
    """The model with its weights whole, in evaluation mode. Every process calls it; the first gets the whole one."""
    model = parts.model
    if parts.objective is parts.wrapped and parts.unsharded is None and not _is_sharded(model):
        return model.eval()
    tensors = model_tensors(model)
    if parts.unsharded is None:
        return model.eval()
    with torch.no_grad():
        for name, tensor in _stored(parts.unsharded).items():
            tensor.copy_(tensors[name])
    return parts.unsharded.eval()


def _is_sharded(model: nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: its state dict with each tied tensor once."""
    kept = model.state_dict(keep_vars=True).keys()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if name in kept}
