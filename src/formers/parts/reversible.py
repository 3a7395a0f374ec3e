"""Reversible trunks: activations are made again from the outputs, so that training takes as much memory at any depth.

Two streams; the sublayers of a trunk take turns in adding to one what they read of the other:

    y1 = x1 + attention(norm(x2));    y2 = x2 + feed_forward(norm(y1))
    x2 = y2 - feed_forward(norm(y1)); x1 = y1 - attention(norm(x2))

Gomez et al. (1707.04585); Kitaev et al. (2001.04451), section 3. Both streams begin as the embedding.

What is rebuilt differs from what was by rounding, which grows with depth: float32 streams are good for tens of layers (under
autocast streams are float32), bf16 ones are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from formers.axes import Hidden
from formers.errors import ConfigError
from formers.parts.positions import Positions
from formers.parts.replay import Record, recomputing
from formers.parts.states import Tree
from formers.parts.trunk import Blocks, PreNorm, Trunk


def average(first: Hidden, second: Hidden) -> Hidden:
    """What the streams come to, as wide as they are."""
    return (first + second) / 2


def concatenate(first: Hidden, second: Hidden) -> Tensor:
    """Both streams side by side, twice as wide: the last norm and the head must be, too (Hugging Face's Reformer)."""
    return torch.cat([first, second], -1)


class Reversible(Trunk):
    """Two streams that sublayers add to in turns, what they come to, and a last norm. Blocks may have any number of sublayers.

    merge            (y1, y2) -> what the last norm reads: `average` or `concatenate`
    make_final_norm  makes the last norm; None: as `make_norm` does

    `rebuild` False is the slow twin: the same formula through ordinary autograd, with every activation kept (or recomputed
    in blocks, where `recompute` says so). The taps `stream.N` show the average of the streams behind an application; while
    one is listened to, activations are kept, and what a listener gives instead becomes both streams.

    Gradients of gradients, a `source`, and parameters shared out over processes have no rebuilt form and are refused.
    """

    def __init__(
        self,
        blocks: Blocks,
        make_norm: Callable[[], nn.Module],
        *,
        merge: Callable[[Hidden, Hidden], Tensor] = average,
        make_final_norm: Callable[[], nn.Module] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(blocks, make_norm, **settings)
        self.merge, self.rebuild = merge, True
        self.final_norm = (make_final_norm or make_norm)()

    def forward(
        self, x: Hidden, positions: Positions, state: Tree | None = None, source: Any = None
    ) -> tuple[Tensor, Tree | None]:
        if source is not None:
            found = f"a source for {type(self).__name__}, whose activations are rebuilt without one"
            raise ConfigError(found, "a trunk that reads no source", "PreNorm does")
        heard = any(tap.heard for tap in self.stream)  # type: ignore[union-attr]
        rebuilt = self.rebuild and torch.is_grad_enabled() and not heard
        walk: Any = self._rebuilt if rebuilt else self._kept
        streams, staged = walk(x, positions, state)
        return self.final_norm(self.merge(*streams)), staged

    def _kept(self, x: Hidden, positions: Positions, state: Tree | None) -> tuple[tuple[Hidden, Hidden], Tree | None]:
        """The slow twin."""
        streams, staged = (x, x), []
        for application, i in enumerate(self.order):
            nodes = (None,) * len(self._block(i)) if state is None else state[application]
            arguments = i, streams, positions, nodes
            if self.recompute and torch.is_grad_enabled():
                streams, news = checkpoint(self.couple_block, *arguments, **recomputing(x.device))  # type: ignore[misc]
            else:
                streams, news = self.couple_block(*arguments)
            shown = average(*streams)
            heard = self.stream[application](shown)
            streams = streams if heard is shown else (heard, heard)
            staged.append(news)
        return streams, None if state is None else tuple(staged)

    def couple_block(
        self, i: int, streams: tuple[Hidden, Hidden], positions: Positions, nodes: tuple[Any, ...]
    ) -> tuple[tuple[Hidden, Hidden], tuple[Any, ...]]:
        """One block: (the stream that is added to next, the one that is read), twice or as often as it has sublayers."""
        (added, read), staged = streams, []
        for sublayer, norm, node in zip(self._block(i).values(), self._norms(i), nodes, strict=True):
            y, new = self.branch(sublayer, norm, read, positions, node)
            added, read = read, added + y
            staged.append(new)
        return (added, read), tuple(staged)

    def branch(
        self, sublayer: nn.Module, norm: nn.Module, x: Hidden, positions: Positions, node: Any
    ) -> tuple[Hidden, Any]:
        """What one sublayer adds, and what it staged."""
        y, staged = sublayer(norm(x), positions, node, None)
        return self.drop(y), staged

    @torch.compiler.disable
    def _rebuilt(
        self, x: Hidden, positions: Positions, state: Tree | None
    ) -> tuple[tuple[Hidden, Hidden], Tree | None]:
        """The same, keeping the last two streams alone."""
        steps = list(self._steps(x, positions, state))
        steps[-1].is_last = True
        added, read, tape = x, x, Tape()
        for step in steps:
            added, read = read, _Couple.apply(step, tape, added, read, *step.parameters)  # type: ignore[misc]
        if state is None:
            return (added, read), None
        staged = iter([step.take_staged() for step in steps])
        return (added, read), tuple(tuple(next(staged) for _ in self._block(i)) for i in self.order)

    def _steps(self, x: Hidden, positions: Positions, state: Tree | None) -> Iterator[Step]:
        for application, i in enumerate(self.order):
            nodes = (None,) * len(self._block(i)) if state is None else state[application]
            for sublayer, norm, node in zip(self._block(i).values(), self._norms(i), nodes, strict=True):

                def branch(
                    read: Hidden, sublayer: nn.Module = sublayer, norm: nn.Module = norm, node: Any = node
                ) -> tuple[Hidden, Any]:
                    return self.branch(sublayer, norm, read, positions, node)

                learning = [p for module in (norm, sublayer) for p in module.parameters() if p.requires_grad]
                yield Step(branch, tuple(learning), Record(x.device))


@dataclass
class Step:
    """One sublayer's turn in one forward.

    branch      the stream that is read -> what is added to the other, and what was staged
    parameters  that learn, of the sublayer and its norm
    """

    branch: Callable[[Hidden], tuple[Hidden, Any]]
    parameters: tuple[nn.Parameter, ...]
    record: Record
    is_last: bool = False
    staged: Any = None

    def take_staged(self) -> Any:
        """What was staged, which the step then lets go of."""
        staged, self.staged = self.staged, None
        return staged


@dataclass
class Tape:
    """What a backward pass has rebuilt so far: the streams that the step before the one it has reached gave."""

    streams: tuple[Tensor, ...] = field(default=())


class _Couple(torch.autograd.Function):
    """(added, read) -> added + branch(read). Saves nothing, but for the last step its two streams.

    Autograd runs the steps backwards in their order, since each reads what the one before gave; so a step finds on the tape
    what the step behind it has rebuilt.
    """

    @staticmethod
    def forward(ctx: Any, step: Step, tape: Tape, added: Tensor, read: Tensor, *parameters: Tensor) -> Tensor:
        with step.record.recording():
            y, step.staged = step.branch(read)
        result = added + y
        ctx.step, ctx.tape, ctx.dtypes = step, tape, (added.dtype, read.dtype)
        if step.is_last:
            ctx.save_for_backward(read, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            found = "create_graph: gradients of gradients, through activations that are rebuilt"
            raise ConfigError(found, "activations that are kept", "formers.parts.reversible.set_rebuild(model, False)")
        step, tape, (gradient,) = ctx.step, ctx.tape, gradients
        read, result = ctx.saved_tensors if step.is_last else tape.streams
        tape.streams = ()
        read = read.detach().requires_grad_()
        with torch.enable_grad(), step.record.replaying():
            y, _ = step.branch(read)
        added = (result - y.detach()).to(ctx.dtypes[0])
        wanted = (read, *step.parameters)
        found = torch.autograd.grad(y, wanted, gradient.to(y.dtype), allow_unused=True)
        tape.streams = added, read.detach()
        return None, None, gradient.to(ctx.dtypes[0]), *found


TRUNKS: dict[str, type[Trunk]] = {"pre_norm": PreNorm, "reversible": Reversible}
"""Trunks that a config may name, for models whose blocks begin with a norm."""


def problems_of_trunk(config: Any) -> list[str]:
    """What is wrong with the `trunk` that a config names."""
    return [] if config.trunk in TRUNKS else [f"trunk {config.trunk!r} is none of {', '.join(TRUNKS)}"]


def set_rebuild(model: nn.Module, on: bool) -> None:
    """Whether the model's reversible trunks rebuild their activations in the backward pass, or keep them: the slow twin."""
    for module in model.modules():
        if isinstance(module, Reversible):
            module.rebuild = on
