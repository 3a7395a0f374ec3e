"""Small models of prime sizes, and the defects that are seeded in them: one function a defect, each changes a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import formers
from formers.axes import Hidden
from formers.models.gpt2 import GPT2
from formers.parts.attention import Attention, KeyValueCache, KeyValueWindow
from formers.parts.embeddings import LearnedPositions
from formers.parts.masks import Block, Causal, Mask, SameDocument, Segments, Span
from formers.parts.positions import Place, Positions
from formers.parts.states import KeyValueRing, StagedEntries, State

SIZES: dict[str, Any] = {"vocab_size": 97, "d_model": 26, "num_layers": 2, "num_heads": 2, "d_ff": 53, "max_length": 67}
LLAMA: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 29,
    "num_layers": 2,
    "num_heads": 6,
    "num_kv_heads": 3,
    "d_head": 10,
    "d_ff": 53,
    "max_length": 67,
    "tie": True,
}
XL: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 26,
    "num_layers": 2,
    "num_heads": 2,
    "d_head": 5,
    "d_ff": 53,
    "segment_length": 5,
    "memory_length": 12,
}


def gpt2(**changes: Any) -> Any:
    return formers.build("gpt2", **SIZES | changes)


def llama(**changes: Any) -> Any:
    return formers.build("llama", **LLAMA | changes)


def transformer_xl(**changes: Any) -> Any:
    return formers.build("transformer_xl", **XL | changes)


class Plain(nn.Module):
    """A decoder as a reader might write it: no positions, no state, ``forward(input_ids) -> logits``."""

    def __init__(self, vocab_size: int = 97, width: int = 26) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(vocab_size, width)
        self.past = Past(width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, 0.1, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        return self.out(self.norm(x + self.past(x)))


class Past(nn.Module):
    """The mean of what came before, mapped."""

    def __init__(self, width: int, ahead: int = 0) -> None:
        super().__init__()
        self.map, self.ahead = nn.Linear(width, width), ahead

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = torch.ones(length, length, device=x.device).tril(self.ahead)
        return self.map((mask / mask.sum(-1, keepdim=True)) @ x)


# --- masks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaky(Mask):
    """Causal, but for one token too many."""

    def allows(self, q: Place, k: Place) -> Tensor:
        return k.index <= q.index + 1

    def block(self, q: Span, k: Span) -> Block:
        return Block.SOME


def leak_one_token(model: Any, layer: int = 1) -> None:
    model.trunk.blocks[layer]["attention"].score.mask = Leaky() & SameDocument()


def leak_one_token_of_segments(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.mask = Leaky() & Segments(5, 12) & SameDocument()


def see_too_little_of_the_memory(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.mask = Causal() & Segments(5, 9) & SameDocument()


def keep_too_little_for_the_third_segment(model: Any) -> None:
    model.trunk.blocks[1]["attention"].remember.size = 9


def let_documents_see_each_other(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.mask = Causal()


class PaddingSeen(Attention):
    """Takes padding for tokens at place 0."""

    def forward(
        self, x: Hidden, positions: Positions, state: KeyValueRing | None = None, source: None = None
    ) -> tuple[Hidden, Any]:
        return super().forward(x, Positions(positions.index.clamp(min=0), positions.document), state, source)


def see_padding(model: Any) -> None:
    model.trunk.blocks[1]["attention"].__class__ = PaddingSeen


class PlacesFromShape(LearnedPositions):
    """Counts places from the shape of what it is given."""

    def forward(self, positions: Positions) -> Tensor:
        return self.table(torch.arange(positions.length))[None]


def take_places_from_the_shape(model: Any) -> None:
    model.places.__class__ = PlacesFromShape


# --- what stands beside each other -----------------------------------------------------------------------------------


class Centred(nn.Module):
    """Takes the mean over rows away: a batch norm at its simplest. `only_training` as batch norm itself has it."""

    def __init__(self, inner: nn.Module, only_training: bool) -> None:
        super().__init__()
        self.inner, self.only_training = inner, only_training

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y if self.only_training and not self.training else y - 0.1 * y.mean(0, keepdim=True)


def mix_rows(model: Any) -> None:
    model.trunk.final_norm = Centred(model.trunk.final_norm, only_training=False)


def mix_rows_in_training(model: Any) -> None:
    model.trunk.final_norm = Centred(model.trunk.final_norm, only_training=True)


# --- states ----------------------------------------------------------------------------------------------------------


def remember_too_little(model: Any) -> None:
    attention = model.trunk.blocks[1]["attention"]
    attention.remember = KeyValueWindow(2, 13, 5)


class Overwriting(KeyValueRing):
    """Writes fresh keys into its buffer as the forward runs."""

    def extend(self, k: Tensor, v: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Positions, StagedEntries]:
        *seen, staged = super().extend(k, v, positions)
        self.keys[:, :, : k.shape[2]] = k.detach()
        return *seen, Kept(staged.ring, staged.k, staged.v, staged.positions)  # type: ignore[return-value]


class Hasty(KeyValueRing):
    """Takes what stands in the free slots for what is being committed, though another call may have written there."""

    def extend(self, k: Tensor, v: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Positions, StagedEntries]:
        *seen, staged = super().extend(k, v, positions)
        return *seen, Kept(staged.ring, staged.k, staged.v, staged.positions)  # type: ignore[return-value]


class Kept(StagedEntries):
    """Commits to a ring of the same kind."""

    def commit(self) -> KeyValueRing:
        if isinstance(self.ring, Hasty) and self.ring.fresh is not None:
            self.ring.fresh = self
        committed = super().commit()
        committed.__class__ = type(self.ring)
        return committed


class Clinging(KeyValueRing):
    """Keeps what it holds when it is reset."""

    def extend(self, k: Tensor, v: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Positions, StagedEntries]:
        *seen, staged = super().extend(k, v, positions)
        return *seen, Kept(staged.ring, staged.k, staged.v, staged.positions)  # type: ignore[return-value]

    def reset(self, rows: Tensor) -> KeyValueRing:
        return Clinging(self.keys, self.values, self.index, self.document, self.written, None, self.overflow, None)


class _Remember(KeyValueCache):
    def __init__(self, heads: int, d_head: int, kind: type[KeyValueRing]) -> None:
        super().__init__(heads, d_head)
        self.kind = kind

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        d = self.d_head
        return self.kind.empty(batch_size, self.num_kv_heads, max_length, d, d, overflow="refuse", **kind)


def write_in_place(model: Any) -> None:
    model.trunk.blocks[1]["attention"].remember = _Remember(2, 13, Overwriting)


def commit_what_stands_there(model: Any) -> None:
    model.trunk.blocks[1]["attention"].remember = _Remember(2, 13, Hasty)


def cling_to_what_was_read(model: Any) -> None:
    model.trunk.blocks[1]["attention"].remember = _Remember(2, 13, Clinging)


@dataclass
class Forgiving(State):
    """Lets itself be used after a commit."""

    def _moved_to(self, successor: State) -> State:
        return Forgiving(successor.nodes, successor.next_index, successor.document, successor.start)


class ForgivingGPT2(GPT2):
    def init_state(self, *args: Any, **kwargs: Any) -> State:
        state = super().init_state(*args, **kwargs)
        return Forgiving(state.nodes, state.next_index)


def forgive_stale_states(model: Any) -> None:
    model.__class__ = ForgivingGPT2


# --- modes, parameters, numbers --------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A norm, and something done to what it gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class AlwaysDropping(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.inner(x), 0.1, True)


class HandMadeDropout(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y * (torch.rand_like(y) > 0.1) / 0.9


class HonestDropout(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.inner(x), 0.25, self.training)


class LouderInTraining(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (1.01 if self.training else 1.0)


class Overflowing(Wrapped):
    """The logarithm of an exponential, which float64 can hold and bfloat16 cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) + 120.0).exp().log() - 120.0


class OwnDice(Wrapped):
    """Drops by a generator of its own, which recomputation does not turn back."""

    generators: ClassVar[list[torch.Generator]] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.generators:
            self.generators.append(torch.Generator().manual_seed(0))
        y = self.inner(x)
        return y * (torch.rand(y.shape, generator=self.generators[0]) > 0.1)


class Straight(Wrapped):
    """Passes values through, and gradients of the token after as well."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        after = y.roll(-1, 1)
        return y + (after - after.detach())


class LooseGain(nn.Module):
    """A norm whose gain is a plain tensor that wants a gradient: trained by nobody, stored by nobody."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.gain = torch.full((width,), 1.5).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gain.to(x), self.bias, 1e-5)


class DrawnAnew(nn.Module):
    """Multiplies by numbers that are drawn when the model is made, and never stored."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.numbers = torch.rand(97, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.numbers.to(x)


def wrap_final_norm(wrapper: type[Wrapped]) -> Any:
    def seed(model: Any) -> None:
        model.trunk.final_norm = wrapper(model.trunk.final_norm)

    return seed


def wrap_inner_norm(wrapper: type[Wrapped]) -> Any:
    def seed(model: Any) -> None:
        model.trunk.norms[0]["feed_forward"] = wrapper(model.trunk.norms[0]["feed_forward"])

    return seed


def leave_a_parameter_out(model: Any) -> None:
    model.trunk.final_norm.spare = nn.Parameter(torch.ones(3))


def learn_a_loose_tensor(model: Any) -> None:
    model.trunk.final_norm = LooseGain(26)
