"""What a training will take, before anything is allocated: memory and time of a step, what fits, and what was right of it.

Memory is counted by running a step on tensors without numbers (inspection/footprint.py); what the program itself takes, and
how fast this machine multiplies and moves numbers, is measured in a second.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from formers.errors import ConfigError
from formers.experiments.text import with_objective
from formers.inspection.footprint import Footprint, Settings, Step, footprint, without_numbers
from formers.parts.trunk import set_recompute
from formers.recipes import Recipe
from formers.recipes.recipe import with_vocabulary
from formers.training import estimates, loss
from formers.training.objectives import make_objective
from formers.training.precision import Numerics, choose, choose_device
from formers.training.setup import spares_memory
from formers.training.usage import resident_bytes

COMPILED = 0.62
"""Share of the activations that compiled code holds, of those that the operators give one by one: it makes the cheap ones
again (training/precision.py) and never writes what it can use at once. Measured on gpt2.mini, 8 x 512 tokens, bf16."""

HEAP = 1.24
"""Bytes that the process holds for each byte of activations on a CPU: malloc keeps what a step frees (training/precision.py),
and between blocks of many sizes there is room that none of the next fits into. How much depends on the order of the blocks:
1.05 for a Transformer-XL, 1.2 to 1.35 for a GPT-2 in float32, 1.45 in bf16. This is between them."""

HEAP_RETURNED = 1.07
"""The same where memory is spared, and every large block goes back to the system."""

COMPILED_MOVES = 0.35
"""Share of the bytes that compiled code reads and writes."""

COMPILER = 450 << 20
"""Bytes that the compiler leaves with the process."""

ROOM = 0.9
"""Share of the memory there is that a plan may take: the rest is the system's."""

BYTES, GPT2 = 257, 50257
"""Vocabularies of the tokenizers of those names."""

CALL = 6e-6
"""Seconds that calling an operator costs by itself, forward and backward, uncompiled."""


@dataclass(frozen=True)
class Speed:
    """What this machine does in a second: products [operations] and memory [bytes read or written]."""

    products: float
    memory: float


@dataclass(frozen=True)
class Plan:
    """What a training will take on this machine.

    program   bytes of the interpreter and the libraries        footprint  of a step
    seconds   of a step                                         have       bytes of memory that may be taken
    """

    recipe: Recipe[Any]
    numerics: Numerics
    program: int
    footprint: Footprint
    seconds: float
    have: int

    @property
    def peak(self) -> int:
        """Bytes that the process will take at most."""
        return self.program + self.footprint.peak

    @property
    def fits(self) -> bool:
        return self.peak <= self.have

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.recipe.train.batch_size * self.recipe.train.seq_len

    def parts(self) -> dict[str, int]:
        """Bytes by what they are for; of a process's peak, so they add up to it where a step holds more than a checkpoint."""
        made, names = self.footprint, ("weights", "gradients", "optimizer", "state", "activations")
        return {"program": self.program, **{name: getattr(made, name) for name in names}}


def plan(recipe: Recipe[Any], *, vocab_size: int | None = None, numerics: Numerics | None = None) -> Plan:
    """Plan a recipe for this machine.

    vocab_size  of the model; None: of the tokenizer that the recipe names
    numerics    what a run was computed with; None: what this machine would choose

    Raises ConfigError for recipes whose step cannot be run without numbers.
    """
    recipe = with_objective(recipe) if recipe.train.objective == "auto" else recipe
    recipe = dataclasses.replace(recipe, model=with_vocabulary(recipe.model, vocab_size or _vocab_size(recipe)))
    program = program_bytes(choose_device(recipe.train.device))
    if numerics is None:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in recipe.build().parameters())
        numerics = choose(recipe.train, operations=estimates.operations(parameters, recipe.train))
    found = as_held(step_footprint(recipe, numerics), recipe, numerics)
    program += COMPILER if numerics.compile else 0
    seconds = step_seconds(found, numerics, recipe, machine_speed(numerics.device, numerics.precision))
    return Plan(recipe, numerics, program, found, seconds, memory_to_take(numerics.device))


def as_held(found: Footprint, recipe: Recipe[Any], numerics: Numerics) -> Footprint:
    """The activations that the process holds for those that the operators give."""
    with torch.device("meta"):
        spares = spares_memory(recipe.build(), recipe.train)
    heap = 1.0 if numerics.device != "cpu" else HEAP_RETURNED if spares else HEAP
    share = heap * (COMPILED if numerics.compile else 1.0)
    return dataclasses.replace(found, activations=int(share * found.activations))


def _vocab_size(recipe: Recipe[Any]) -> int:
    """As many as the tokenizer will have; of one that is made of the text, what the config says."""
    known: dict[str, int] = {"bpe": recipe.data.vocab_size or 4096, "byte": BYTES, "gpt2": GPT2}
    return known.get(recipe.data.tokenizer) or recipe.model.vocab_size


def step_footprint(recipe: Recipe[Any], numerics: Numerics, *, rows: int | None = None) -> Footprint:
    """Of one step as the loop makes it, every operator by itself. `rows` of a micro-batch, where not as the settings say."""
    train = recipe.train
    rows = rows or -(-train.batch_size // train.accumulate)
    dtype = torch.bfloat16 if numerics.precision == "bf16" else torch.float32

    def make() -> Step:
        model = without_numbers(recipe.build).train()
        set_recompute(model, train.recompute)
        objective = make_objective(model, train.objective, precision=numerics.precision)
        state = _state(model, recipe, rows)
        held = 0 if state is None else state.nbytes * train.accumulate
        return Step(objective, _forward(objective, recipe, rows, state), held)

    within = {torch.ops.formers.linear_cross_entropy.default: functools.partial(loss.bytes_within, dtype)}
    return footprint(make, Settings(train.accumulate, train.optimizer, within))


def _state(model: nn.Module, recipe: Recipe[Any], rows: int) -> Any:
    train = recipe.train
    if not train.carry_state:
        return None
    length = train.state_length or getattr(recipe.model, "max_length", None) or recipe.data.longest
    if length is None:
        raise ConfigError("a carried state whose length its text decides", "a number", "set --train.state-length")
    return model.init_state(rows, length).dynamic()  # type: ignore[operator]


def _forward(objective: nn.Module, recipe: Recipe[Any], rows: int, state: Any) -> Callable[[], Tensor]:
    """The loop's call of the objective for one micro-batch, as `training.loop.lane_loss` makes it."""
    train = recipe.train
    ids = torch.zeros(rows, train.seq_len, dtype=torch.long)
    apart, (index, document) = train.documents_apart or train.carry_state, (None, None)
    if apart:
        with unset_fake_temporarily():
            index = torch.arange(train.seq_len).repeat(rows, 1)
            document = torch.arange(rows)[:, None].repeat(1, train.seq_len)
    given: dict[str, Tensor] = {}
    if train.objective in ("next_sentence", "sentence_order"):
        given = {"token_types": ids.clone(), "pair": ids[:, 0].clone()}
    elif train.objective in ("span_corruption", "source_to_target"):
        length = train.target_len or _target_length(train)
        with unset_fake_temporarily():
            source_index = torch.arange(train.seq_len).repeat(rows, 1)
        given = {"source_ids": ids.clone(), "source_index": source_index}
        ids, index = ids[:, :length].clone(), ids[:, :length].clone()
    elif train.objective == "replaced_token":
        raise ConfigError("a generator and a discriminator", "a plan of one model", "plan each of them by itself")
    return lambda: objective(ids, ids, index, document, state, **given)[0]


def _target_length(train: Any) -> int:
    """Tokens of what a source of `seq_len` tokens lost."""
    if train.objective == "source_to_target":
        return train.seq_len
    lost = train.seq_len * train.masked_share / (1 - train.masked_share + train.masked_share / train.mean_span)
    return max(1, round(lost * (1 + 1 / train.mean_span))) + 1


# --- the machine ------------------------------------------------------------------------------------------------------


@functools.cache
def program_bytes(device: str) -> int:
    """What this process takes with the libraries of a training loaded; asked before anything else is."""
    import torch._dynamo  # noqa: F401  (the first step of an optimizer does)

    return resident_bytes() if device == "cpu" else 0


def memory_to_take(device: str) -> int:
    """Bytes: of a GPU what it has, on a CPU what other processes leave, less what the system needs."""
    if device.startswith("cuda"):
        return int(ROOM * torch.cuda.get_device_properties(device).total_memory)
    return int(ROOM * (psutil.virtual_memory().available + resident_bytes()))


@functools.cache
def machine_speed(device: str, precision: str) -> Speed:
    """Measured: products of 1,024 x 1,024 matrices, and a copy that no cache holds. Takes a second."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, large = torch.randn(1024, 1024, device=device, dtype=dtype), torch.zeros(1 << 25, device=device)
    target = torch.empty_like(large)
    products = _best(lambda: a @ a, device)
    copy = _best(lambda: target.copy_(large), device)
    return Speed(2 * 1024**3 / products, 2 * large.numel() * 4 / copy)


def _best(run: Callable[[], Any], device: str, *, rounds: int = 7) -> float:
    """Seconds of the fastest of a few runs."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def step_seconds(found: Footprint, numerics: Numerics, recipe: Recipe[Any], speed: Speed) -> float:
    """Time of a step: products, what is moved between them, and the calls themselves; then the optimizer, which reads and
    writes weights, gradients and averages."""
    traffic = found.traffic
    moved = traffic.moved * (COMPILED_MOVES if numerics.compile else 1.0)
    calls = 0.0 if numerics.compile else traffic.calls * CALL
    lane = traffic.products / speed.products + moved / speed.memory + calls
    update = (2 * found.weights + 2 * found.gradients + 2 * found.optimizer) / speed.memory
    return recipe.train.accumulate * lane + update


# --- what would fit ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A change of settings: what to type, and the recipe that it makes."""

    words: str
    recipe: Recipe[Any]


def alternatives(found: Plan) -> list[tuple[str, Plan]]:
    """What takes less: options to add, and the plan with them."""
    size, numerics = found.recipe.model.vocab_size, found.numerics
    return [(made.words, plan(made.recipe, vocab_size=size, numerics=numerics)) for made in changes(found.recipe)]


def changes(recipe: Recipe[Any]) -> Iterator[Change]:
    """What takes less memory, that which costs least first: the same update in more micro-batches, activations made again,
    fewer rows, shorter rows."""
    train, model = recipe.train, recipe.model
    for parts in (2, 4, 8):
        if train.batch_size % (parts * train.accumulate) == 0:
            yield _train(recipe, accumulate=parts * train.accumulate)
    if not train.recompute:
        yield _train(recipe, recompute=True)
    if getattr(model, "ff_chunks", None) == 1:
        yield _model(recipe, ff_chunks=4)
    if getattr(model, "trunk", None) == "pre_norm":
        yield _model(recipe, trunk="reversible")
    if train.batch_size > 1:
        yield _train(recipe, batch_size=max(1, train.batch_size // 2), accumulate=1)
    yield _train(recipe, seq_len=max(1, train.seq_len // 2))


def _train(recipe: Recipe[Any], **settings: Any) -> Change:
    words = " ".join(
        f"--train.{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in settings.items()
    )
    return Change(words, dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **settings)))


def _model(recipe: Recipe[Any], **settings: Any) -> Change:
    words = " ".join(f"--model.{name.replace('_', '-')} {value}" for name, value in settings.items())
    return Change(words, dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **settings)))


def most_rows(found: Plan) -> int:
    """Rows of a micro-batch that would just fit, counted from two sizes: memory grows by as much with each row. 0: none."""
    train = found.recipe.train
    rows = -(-train.batch_size // train.accumulate)
    other = 2 * rows
    more = as_held(step_footprint(found.recipe, found.numerics, rows=other), found.recipe, found.numerics)
    held = more.activations + more.state - found.footprint.activations - found.footprint.state
    each = held / (other - rows)
    left = found.have - found.peak
    return max(0, rows + int(left // each)) if each > 0 else rows


# --- what was right of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """What a run took: bytes at most, seconds of a step (the median behind the first four). None: it did not write it down."""

    peak: int | None
    seconds: float | None


def fact(environment: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], tokens: int) -> Fact:
    """From a run's environment.json and the train rows of its metrics; `tokens` of a step."""
    speeds = [row["tokens_per_second"] for row in steps[4:] or steps if row.get("tokens_per_second")]
    return Fact(environment.get("peak_bytes"), tokens / statistics.median(speeds) if speeds else None)


__all__ = ["Change", "Fact", "Plan", "Speed", "alternatives", "changes", "fact", "most_rows", "plan"]
