"""A memory for a decoder that was trained without one (after 2203.08913, section 4.3; the gate after Flamingo, 2204.14198).

The decoder reads a document in segments. Within one, nothing changes. In the layers that are given a memory a query also
finds the keys and values that the layer made in earlier segments, as far back as the memory reaches:

    o = c + tanh(a) (m - c),  a = 0 at first

so that at the start a text of one segment gives the decoder's logits bit for bit, and a longer one those of the decoder on
each segment alone (other kernels, so up to rounding), while the gradient of `a` is live. (The paper's sigmoid gate would
replace a part of what a trained layer does.)

What is stored: keys without rotary positions, since their angles belong to a place long gone; queries look up without too.
Learned positions start again with each segment; with rotary ones `cache_length` tokens before it may be seen as well.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, from_dict, require, to_dict
from formers.errors import ConfigError, TargetError
from formers.models import registry
from formers.parts.attention import Attention, KeyValueCache, KeyValueWindow
from formers.parts.embeddings import LearnedPositions
from formers.parts.masks import EarlierSegment, SameDocument, Segments
from formers.parts.model import Model
from formers.parts.positions import Positions
from formers.parts.recollection import MERGES, MemoryAttention, MemorySettings, unknown_ways
from formers.parts.states import Tree


@dataclass(frozen=True)
class GraftedConfig:
    """The decoder, and the memory it is given."""

    architecture: ClassVar[str] = "grafted"

    base: str = "gpt2"
    settings: dict[str, Any] = field(default_factory=dict)  # of the decoder's config, where not its defaults
    layers: tuple[int, ...] = (8,)  # counted from 0
    memory_size: int = 8192  # entries a head, beside the segment being read; 0: nothing is found
    neighbours: int = 32
    segment_length: int = 512
    cache_length: int = 0  # tokens before the segment that every layer sees
    merge: str = "tanh"
    memory_search: str = "exact"  # or approximate
    memory_storage: str | None = None  # float32, bfloat16 or int8; None: as the weights are
    max_length: ClassVar[None] = None  # any

    def __post_init__(self) -> None:
        problems = below_one(self, ("neighbours", "segment_length"))
        if self.memory_size < 0:
            problems.append(f"memory_size is {self.memory_size}, wanted 0 or more")
        if self.cache_length < 0:
            problems.append(f"cache_length is {self.cache_length}, wanted 0 or more")
        depth = self.decoder.num_layers
        beyond = [i for i in self.layers if not 0 <= i < depth]
        if beyond or len(set(self.layers)) < len(self.layers) or not self.layers:
            problems.append(f"layers are {self.layers}, wanted different ones of 0 to {depth - 1}")
        if self.merge not in MERGES:
            problems.append(f"merge is {self.merge!r}, wanted one of {', '.join(MERGES)}")
        problems += unknown_ways(self.memory_search, self.memory_storage)
        longest = self.decoder.max_length
        if longest is not None and self.segment_length + self.cache_length > longest:
            problems.append(
                f"segment_length {self.segment_length} and cache_length {self.cache_length} are more than the {longest} "
                f"positions of the decoder"
            )
        require("GraftedConfig", problems)

    @functools.cached_property
    def decoder(self) -> Any:
        """The decoder's config."""
        return from_dict(registry.spec(self.base).load().CONFIG, self.settings)

    @property
    def vocab_size(self) -> int:
        return self.decoder.vocab_size

    @property
    def d_model(self) -> int:
        return self.decoder.d_model

    @property
    def num_layers(self) -> int:
        return self.decoder.num_layers


PRESETS: dict[str, dict] = {
    "nano": {
        "settings": {
            "d_model": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "max_length": 128,
            "dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0,
        },
        "layers": (1,), "memory_size": 1024, "neighbours": 16, "segment_length": 64,
    },
}  # fmt: skip


class Grafted(Model):
    """A decoder with a memory. `seed` draws the decoder's weights where none is given; a given one is changed."""

    def __init__(self, config: GraftedConfig, *, seed: int = 0, base: Any = None) -> None:
        super().__init__()
        self.config = config
        self.base = registry.spec(config.base).load().MODEL(config.decoder, seed=seed) if base is None else base
        self.restarts = any(isinstance(module, LearnedPositions) for module in self.base.modules())
        _check_decoder(self.base, self.restarts, config)
        for i, block in enumerate(self.trunk.blocks):  # type: ignore[arg-type]
            block["attention"] = _in_segments(block["attention"], config, remembers=i in config.layers)

    @property
    def trunk(self) -> nn.Module:  # type: ignore[override]
        return self.base.trunk

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        return self.base.head

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        within = positions.start is not None and positions.start + positions.length <= self.config.segment_length
        return self.base.run(input_ids, positions if within else self._placed(positions), state)

    def _placed(self, positions: Positions) -> Positions:
        """Places start again with each segment where a table gives them; no promise of a start, which has a limit."""
        index = positions.index
        place = index % self.config.segment_length if self.restarts else None
        return Positions(index, positions.document, place)


def default_layers(model: Any) -> tuple[int, ...]:
    """The layer at two thirds of the depth: the ninth of twelve, as in the paper (2203.08913, section 4.2)."""
    return (2 * model.config.num_layers // 3,)


def graft_memory(
    model: Any,
    layers: Sequence[int],
    size: int = 8192,
    *,
    neighbours: int = 32,
    segment_length: int | None = None,
    cache_length: int = 0,
    merge: str = "tanh",
) -> Grafted:
    """A copy of a decoder of ours with a memory of `size` entries a head in `layers` (counted from 0, negative from the end).

    segment_length  512 where None, or as many as the decoder has positions for
    Raises ConfigError for layers or lengths the decoder has not, TargetError for a model without such attention.
    """
    if not isinstance(model, Model) or not hasattr(model, "trunk"):
        raise TargetError(
            f"a memory cannot be grafted onto {type(model).__name__}", "a decoder of formers", "formers.load"
        )
    decoder = model.config
    asked = {
        "base": decoder.architecture,
        "settings": to_dict(decoder),
        "layers": [_from_the_start(i, decoder.num_layers) for i in layers],
        "memory_size": size,
        "neighbours": neighbours,
        "segment_length": min(512, decoder.max_length or 512) if segment_length is None else segment_length,
        "cache_length": cache_length,
        "merge": merge,
    }
    config = from_dict(GraftedConfig, asked)
    grafted = Grafted(config, base=copy.deepcopy(model))
    weight = next(model.parameters())
    return grafted.to(device=weight.device, dtype=weight.dtype).train(model.training)


def _from_the_start(layer: int, depth: int) -> int:
    if not -depth <= layer < depth:
        raise ConfigError(f"layer {layer} of a model of {depth} layers", f"{-depth} to {depth - 1}")
    return layer + depth if layer < 0 else layer


def _check_decoder(base: Any, restarts: bool, config: GraftedConfig) -> None:
    further = sorted(base.inputs - Model.inputs)
    if further:
        raise TargetError(
            f"{type(base).__name__} takes {', '.join(further)}", "a decoder that reads one text, as gpt2 and llama"
        )
    for i, block in enumerate(base.trunk.blocks):
        found = dict(block.items()).get("attention")
        if type(found) is not Attention or not isinstance(found.remember, KeyValueCache):
            raise TargetError(
                f"block {i} of {type(base).__name__} has {type(found).__name__} for its attention",
                "causal self-attention with a cache of keys and values, as in gpt2 and llama",
            )
    if restarts and config.cache_length:
        raise TargetError(
            f"cache_length {config.cache_length} with learned positions, which start again with each segment",
            "cache_length 0, or a decoder with rotary positions",
        )


def _in_segments(attention: Attention, config: GraftedConfig, *, remembers: bool) -> nn.Module:
    """The same attention, within segments, and with a memory where asked. It keeps its maps and their names."""
    score, remember = attention.score, attention.remember
    assert isinstance(remember, KeyValueCache)
    score.mask = score.mask & Segments(config.segment_length, config.cache_length)
    segment, size = config.segment_length, config.segment_length + config.cache_length
    window = KeyValueWindow(remember.num_kv_heads, remember.d_head, size, segment)
    if not remembers:
        attention.remember = window
        return attention
    shows = EarlierSegment(config.segment_length, 0, config.memory_size) & SameDocument()
    return MemoryAttention(
        attention.project,
        score,
        attention.mix,
        remember=window,
        memory=MemorySettings(
            config.memory_size + config.segment_length,
            config.neighbours,
            shows,
            config.memory_search,
            config.memory_storage,
        ),
        merge=MERGES[config.merge](attention.project.num_heads),  # type: ignore[arg-type]
        turn=attention.turn,
        runner=attention.runner,
    )


FOREIGN = None
"""No class of transformers holds this model."""

CONFIG, MODEL = GraftedConfig, Grafted
