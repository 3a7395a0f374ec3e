"""The trunk owns the residual stream: norms, order and sharing. Blocks are data: tuples of named sublayers.

A sublayer is anything that maps ``(x, positions, state=None, source=None) -> (y, staged state | None)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from formers.axes import Hidden
from formers.errors import ConfigError
from formers.parts.positions import Positions
from formers.parts.replay import recomputing
from formers.parts.states import Tree
from formers.parts.taps import Tap

Blocks = Sequence[Mapping[str, nn.Module]]


class Trunk(nn.Module):
    """Applies blocks in order and threads states through them. Subclasses say where the norms stand.

    blocks     for each block its sublayers by name, in the order they run
    make_norm  makes one norm
    dropout    of what each sublayer adds to the stream
    order      which block each application uses; None: each once. (0, 0, 0) is one block shared by three layers
    """

    def __init__(
        self,
        blocks: Blocks,
        make_norm: Callable[[], nn.Module],
        *,
        dropout: float = 0.0,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict(block) for block in blocks)
        self.norms = nn.ModuleList(nn.ModuleDict({name: make_norm() for name in block}) for block in blocks)
        self.dropout, self.order = dropout, tuple(range(len(blocks)) if order is None else order)
        self.recompute = False
        self.stream = nn.ModuleList(Tap() for _ in self.order)
        if sorted(set(self.order)) != list(range(len(blocks))):
            raise ConfigError(f"order {self.order} of {len(blocks)} blocks", "each block used at least once")

    def init_state(self, batch_size: int, max_length: int, *, source: Any = None, **kind: Any) -> Tree:
        """A node for every application of a sublayer that remembers. `source`: what cross-attention reads, once."""

        def node(sublayer: nn.Module) -> Any:
            if source is not None and hasattr(sublayer, "read_source"):
                return sublayer.read_source(source, **kind)  # type: ignore[operator]
            return sublayer.init_state(batch_size, max_length, **kind) if hasattr(sublayer, "init_state") else None  # type: ignore[operator]

        return tuple(tuple(node(sublayer) for sublayer in self._block(i).values()) for i in self.order)

    def forward(
        self, x: Hidden, positions: Positions, state: Tree | None = None, source: Any = None
    ) -> tuple[Hidden, Tree | None]:
        staged = []
        for application, i in enumerate(self.order):
            nodes = (None,) * len(self._block(i)) if state is None else state[application]
            run = self._recomputed if self.recompute and torch.is_grad_enabled() else self.apply_block
            x, staged_nodes = run(i, x, positions, nodes, source)
            x = self.stream[application](x)
            staged.append(staged_nodes)
        return self.finish(x), None if state is None else tuple(staged)

    def apply_block(
        self, i: int, x: Hidden, positions: Positions, nodes: tuple[Any, ...], source: Any
    ) -> tuple[Hidden, tuple[Any, ...]]:
        staged = []
        for sublayer, norm, node in zip(self._block(i).values(), self._norms(i), nodes, strict=True):
            x, staged_node = self.residual(x, sublayer, norm, positions, node, source)
            staged.append(staged_node)
        return x, tuple(staged)

    def residual(
        self, x: Hidden, sublayer: nn.Module, norm: nn.Module, positions: Positions, node: Any, source: Any
    ) -> tuple[Hidden, Any]:
        raise NotImplementedError

    def finish(self, x: Hidden) -> Hidden:
        return x

    def drop(self, y: Hidden) -> Hidden:
        return F.dropout(y, self.dropout) if self.training else y

    def _recomputed(self, *arguments: Any) -> tuple[Hidden, tuple[Any, ...]]:
        return checkpoint(self.apply_block, *arguments, **recomputing(arguments[1].device))  # type: ignore[return-value]

    def _block(self, i: int) -> nn.ModuleDict:
        return self.blocks[i]  # type: ignore[return-value]

    def _norms(self, i: int) -> Iterable[nn.Module]:
        return self.norms[i].values()  # type: ignore[operator]


class PreNorm(Trunk):
    """x <- x + dropout(sublayer(norm(x))), and a last norm behind all blocks (GPT-2, Llama, T5)."""

    def __init__(self, blocks: Blocks, make_norm: Callable[[], nn.Module], **settings: Any) -> None:
        super().__init__(blocks, make_norm, **settings)
        self.final_norm = make_norm()

    def residual(
        self, x: Hidden, sublayer: nn.Module, norm: nn.Module, positions: Positions, node: Any, source: Any
    ) -> tuple[Hidden, Any]:
        y, staged = sublayer(norm(x), positions, node, source)
        return x + self.drop(y), staged

    def finish(self, x: Hidden) -> Hidden:
        return self.final_norm(x)


class PostNorm(Trunk):
    """x <- norm(x + dropout(sublayer(x))) (Vaswani, BERT, ALBERT, Transformer-XL)."""

    def residual(
        self, x: Hidden, sublayer: nn.Module, norm: nn.Module, positions: Positions, node: Any, source: Any
    ) -> tuple[Hidden, Any]:
        y, staged = sublayer(x, positions, node, source)
        return norm(x + self.drop(y)), staged


def shared(num_layers: int, num_groups: int = 1) -> tuple[int, ...]:
    """The order in which `num_groups` blocks serve `num_layers` layers, as ALBERT shares them (1909.11942, 3.1)."""
    return tuple(layer * num_groups // num_layers for layer in range(num_layers))


def set_recompute(model: nn.Module, on: bool) -> None:
    """Recompute the activations of each block in the backward pass instead of keeping them: less memory, more time."""
    for module in model.modules():
        if isinstance(module, Trunk):
            module.recompute = on
