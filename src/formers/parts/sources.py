"""Sources: what an encoder-decoder reads before it writes, and the attention through which it reads.

source = Source.of_texts([[5, 7, 1], [9, 1]])       # rows of different lengths
model(ids, source=source)                           # keys and values of the source are made anew, with gradients
state = model.init_state(2, 64, source=source)      # they are made once, and live in the state
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from formers.axes import Hidden, Ids, Keys, Queries, Values
from formers.errors import ConfigError
from formers.parts.attention import Attention
from formers.parts.positions import EMPTY, Positions


@dataclass(frozen=True)
class Source:
    """input_ids [batch, source] and where they stand; positions None: 0, 1, .. in every row. Index -1 is padding."""

    input_ids: Ids
    positions: Positions | None = None

    @classmethod
    def of(cls, given: Source | Tensor) -> Source:
        """Ids alone, or a source with its positions. Raises ConfigError for anything else."""
        if isinstance(given, Source):
            return given
        if not isinstance(given, Tensor) or given.dim() != 2 or given.is_floating_point():
            shape = f" {given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else ""
            raise ConfigError(
                f"a source that is a {type(given).__name__}{shape}",
                "ids [batch, source], or a Source with positions",
                "Source.of_texts(rows) pads rows of different lengths",
            )
        return cls(given)

    @classmethod
    def of_texts(cls, rows: Sequence[Sequence[int]], *, device: torch.device | str | None = None) -> Source:
        """Rows of ids, padded on the right where lengths differ."""
        ids = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        if bool((lengths == ids.shape[1]).all()):
            return cls(ids)
        index = torch.arange(ids.shape[1], device=device).expand(ids.shape)
        return cls(ids, Positions(index.masked_fill(index >= lengths[:, None], EMPTY)))

    @property
    def placed(self) -> Positions:
        """Positions, written out where none were given."""
        ids = self.input_ids
        return Positions.whole(ids.shape[1], device=ids.device) if self.positions is None else self.positions


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of a source."""

    hidden: Hidden
    positions: Positions


@dataclass
class SourceKeys:
    """Keys and values of a source in one layer: a node of the state that no call changes.

    keys   [batch, heads, source, d_head]     values  [batch, heads, source, d_head]
    index  Int [batch, source], -1 for padding     document  Int [batch, source], or None
    whole  the promise that every row is 0, 1, .. to the end
    """

    keys: Tensor
    values: Tensor
    index: Int[Tensor, "batch source"]
    document: Int[Tensor, "batch source"] | None = None
    whole: bool = False

    @functools.cached_property
    def positions(self) -> Positions:
        if self.whole:
            return Positions(self.index[:1], start=0)
        return Positions(self.index, self.document)

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> SourceKeys:
        mapped = SourceKeys(**{name: function(tensor) for name, tensor in self.tensors().items()})  # type: ignore[arg-type]
        mapped.whole = self.whole
        return mapped

    def reset(self, rows: Tensor) -> SourceKeys:
        """The same: a row that begins anew writes anew from its source."""
        return self

    def dynamic(self) -> SourceKeys:
        return self

    def keep(self, length: int) -> SourceKeys:
        return self

    def tensors(self) -> dict[str, Tensor]:
        named = {"keys": self.keys, "values": self.values, "index": self.index, "document": self.document}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def with_tensors(self, tensors: dict[str, Tensor]) -> SourceKeys:
        return SourceKeys(**tensors)  # type: ignore[arg-type]


class CrossProject(nn.Module):
    """Queries of a text by one linear map, keys and values of a source by another (k first, then v)."""

    def __init__(self, d_model: int, num_heads: int, d_head: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.d_head = num_heads, num_heads, d_head
        self.linear = nn.Linear(d_model, num_heads * d_head, bias=bias)
        self.source = nn.Linear(d_model, 2 * num_heads * d_head, bias=bias)

    def queries(self, x: Hidden) -> Queries:
        return self._heads(self.linear(x))

    def keys(self, seen: Hidden) -> tuple[Keys, Values]:
        k, v = self.source(seen).chunk(2, dim=-1)
        return self._heads(k), self._heads(v)

    def _heads(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (self.num_heads, self.d_head)).transpose(1, 2)


class CrossAttention(Attention):
    """Attention whose keys and values are of a source: of `source`, or, with a state, those that the state keeps.

    A sublayer: (x, positions, state, source) -> (y, None). Vaswani et al. (1706.03762), section 3.2.3.
    """

    project: CrossProject

    def read_source(self, source: Encoded, **kind: Any) -> SourceKeys:
        """Keys and values of a source, made once. kind: their dtype and device, where a state is to hold them: then each head's
        stand in one piece, since every token to come reads them all."""
        k, v = self.project.keys(source.hidden)
        if kind:
            k, v = k.to(**kind).contiguous(), v.to(**kind).contiguous()
        p = source.positions.rows(k.shape[0])
        document = None if p.document is None else p.document.contiguous()
        return SourceKeys(k, v, p.index.contiguous(), document, p.start == 0)

    def forward(  # type: ignore[override]
        self, x: Hidden, positions: Positions, state: SourceKeys | None = None, source: Encoded | None = None
    ) -> tuple[Hidden, None]:
        if state is None:
            assert source is not None, "the model sees to it that there is a source"
            state = self.read_source(source)
        q = self.queries(self.score.scaled(self.project.queries(x)))
        heads = self.weigh(q, self.keys(state.keys), self.values(state.values), positions, state.positions)
        return self.mix(self.heads(heads)), None
