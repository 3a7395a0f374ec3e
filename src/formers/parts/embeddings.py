"""Embeddings of tokens, of their types, and of positions. Padding (index -1) gets zeros from position tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Hidden, Ids
from formers.errors import ConfigError
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions


class LearnedPositions(nn.Module):
    """A table with a row for each position 0 .. max_length-1."""

    def __init__(self, max_length: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_length, d_model)

    def forward(self, positions: Positions) -> Float[Tensor, "#batch seq d_model"]:
        """Raises ConfigError where a known position lies beyond the table, before the table would."""
        if positions.start is not None and positions.place is None:
            check_length(positions.start + positions.length, self.table.num_embeddings)
            return self.table(positions.index)
        return self.table(positions.table_index) * positions.present[..., None]


class GridPositions(nn.Module):
    """The sum of a learned table for each coordinate of a position on a grid (Sparse Transformers, 1904.10509, 5.3).

    sizes  how many values each coordinate has, the slowest first: (lines, columns) for text, (lines, columns, channels) for
           images, whose bytes follow each other in that order
    """

    def __init__(self, sizes: Sequence[int], d_model: int, *, max_length: int) -> None:
        super().__init__()
        self.tables, self.max_length = nn.ModuleList(nn.Embedding(size, d_model) for size in sizes), max_length

    def forward(self, positions: Positions) -> Float[Tensor, "#batch seq d_model"]:
        """Raises ConfigError where a known position lies beyond `max_length`, before a table would."""
        if positions.start is not None and positions.place is None:
            check_length(positions.start + positions.length, self.max_length)
        rest, (slowest, *others) = positions.table_index, self.tables
        total = torch.zeros((), dtype=slowest.weight.dtype, device=rest.device)  # type: ignore[arg-type]
        for table in reversed(others):
            total = total + table(rest % table.num_embeddings)  # type: ignore[operator]
            rest = torch.div(rest, table.num_embeddings, rounding_mode="floor")  # type: ignore[arg-type]
        return (total + slowest(rest)) * positions.present[..., None]


class AxialPositions(nn.Module):
    """Positions on a grid: a row's vector beside a column's (Reformer, 2001.04451, appendix; trax). Place p stands in row
    p // columns and column p % columns, so n places need about 2 sqrt(n) vectors.

    shape   (rows, columns), whose product is at least `max_length`          widths  of the vectors of rows and of columns
    """

    def __init__(self, shape: tuple[int, int], widths: tuple[int, int], *, max_length: int) -> None:
        super().__init__()
        if shape[0] * shape[1] < max_length:
            places = f"a grid of {shape[0]} x {shape[1]} = {shape[0] * shape[1]} places"
            raise ConfigError(
                places, f"at least max_length, {max_length}", "make the grid larger or max_length smaller"
            )
        self.rows, self.columns = (nn.Embedding(size, width) for size, width in zip(shape, widths, strict=True))
        self.max_length = max_length

    def forward(self, positions: Positions) -> Float[Tensor, "#batch seq d_model"]:
        """Raises ConfigError where a known position lies beyond `max_length`."""
        if positions.start is not None and positions.place is None:
            check_length(positions.start + positions.length, self.max_length)
        place, columns = positions.table_index, self.columns.num_embeddings
        row = torch.div(place, columns, rounding_mode="floor")
        return torch.cat([self.rows(row), self.columns(place % columns)], -1) * positions.present[..., None]


class TextEmbedding(nn.Module):
    """dropout(norm(tokens + types + positions)): what an encoder reads (BERT, 1810.04805, figure 2).

    max_length  None: no positions, for blocks that know distances
    num_types   0: tokens have no types. Where none are given, all are of type 0
    """

    def __init__(
        self, vocab_size: int, width: int, *, max_length: int | None, num_types: int, eps: float, dropout: float
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.types = nn.Embedding(num_types, width) if num_types else None
        self.places = None if max_length is None else LearnedPositions(max_length, width)
        self.norm, self.dropout = LayerNorm(width, eps), dropout

    def forward(self, input_ids: Ids, positions: Positions, token_types: Ids | None = None) -> Hidden:
        x = self.tokens(input_ids)
        if self.types is not None:
            x = x + (self.types.weight[0] if token_types is None else self.types(token_types))
        if self.places is not None:
            x = x + self.places(positions)
        return F.dropout(self.norm(x), self.dropout, self.training)


class SinusoidalPositions(nn.Module):
    """PE[m, 2t] = sin(m / 10000^(2t/d)), PE[m, 2t+1] = cos(same) (1706.03762, section 3.5). No parameters, no limit."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, positions: Positions) -> Float[Tensor, "#batch seq d_model"]:
        return sinusoid(positions.table_index, self.d_model) * positions.present[..., None]


def sinusoid(index: Tensor, d_model: int, dtype: torch.dtype | None = None) -> Tensor:
    """Interleaved sines and cosines [..., d_model] of the numbers in `index`; odd widths end with a sine."""
    dtype = dtype or torch.get_default_dtype()
    even = torch.arange(0, d_model, 2, device=index.device, dtype=torch.float64)
    angle = index[..., None].to(torch.float64) / 10_000.0 ** (even / d_model)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :d_model].to(dtype)


def sinusoid_halves(index: Tensor, d_model: int, dtype: torch.dtype | None = None) -> Tensor:
    """The same numbers with all sines before all cosines, as tensor2tensor and Transformer-XL lay them out."""
    interleaved = sinusoid(index, d_model, dtype)
    return torch.cat([interleaved[..., 0::2], interleaved[..., 1::2]], -1)


def check_length(length: int, max_length: int) -> None:
    """Raise ConfigError where a text is longer than the model has positions for."""
    if length > max_length:
        raise ConfigError(
            f"{length} tokens, but the model has positions for {max_length}",
            f"at most {max_length} tokens, what was already read included",
            "shorten the text, or use a model with more positions",
        )


def check_ids(ids: Tensor, vocab_size: int | None, name: str = "input_ids") -> None:
    """Raises ConfigError for what are no ids [batch, seq] of a vocabulary (None: of any), before a table does. The ids
    themselves are read where that costs nothing: on a CPU, and not while a graph is traced."""
    if ids.dim() != 2 or ids.is_floating_point():
        raise ConfigError(f"{name} of {ids.dtype}, shape {list(ids.shape)}", "whole numbers [batch, seq]")
    if vocab_size is None or torch.compiler.is_compiling():
        return
    if type(ids) is not Tensor or ids.device.type != "cpu" or not ids.numel():
        return
    lowest, highest = (int(end) for end in ids.aminmax())
    if lowest < 0 or highest >= vocab_size:
        beyond = lowest if lowest < 0 else highest
        do = "encode the text with the model's own tokenizer; what pads a row needs an id of the vocabulary too"
        raise ConfigError(f"{name} with the id {beyond}", f"ids of the vocabulary, 0 to {vocab_size - 1}", do)
