"""Ten seeded defects of an encoder-decoder, each a mistake that people make with T5. Parity must catch every one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.t5 import modeling_t5

from formers.parts.masks import Causal, Everything, SameDocument
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.terms import T5Bias
from tests.parity.harness import float64_throughout
from tests.parity.seq2seq import logits_gap, padded, twins
from tests.parity.test_t5 import LIFTED


def scale_the_queries(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.scale = 7**-0.5


def a_table_for_each_layer(model: Any) -> None:
    """The second layer begins with the first one's numbers and goes its own way by a thousandth."""
    attention = model.encoder.blocks[1]["attention"]
    shared = attention.score.terms[0]
    own = T5Bias(3, num_buckets=10, max_distance=17, bidirectional=True).double()
    own.table.weight.data.copy_(shared.table.weight.detach() * 1.001)
    attention.score.terms[0] = own


def forget_the_scale_of_the_head(model: Any) -> None:
    model.head.scale = 1.0


def bias_on_the_source(model: Any) -> None:
    cross = model.trunk.blocks[0]["cross"]
    cross.score.terms.append(model.trunk.blocks[0]["attention"].score.terms[0])


class Backwards(T5Bias):
    def prepare(self, project: Any, positions: Positions) -> Any:
        term = super().prepare(project, positions)
        return lambda q, k, q_positions, k_positions: term(q, k, k_positions, q_positions).transpose(-1, -2)


def distances_backwards(model: Any) -> None:
    model.encoder.blocks[0]["attention"].score.terms[0].__class__ = Backwards


def one_sided_buckets_in_the_encoder(model: Any) -> None:
    term = model.encoder.blocks[0]["attention"].score.terms[0]
    one_sided = T5Bias(3, num_buckets=10, max_distance=17, bidirectional=False)
    term.past, term.future, term.buckets = one_sided.past, one_sided.future, one_sided.buckets


def a_causal_encoder(model: Any) -> None:
    model.encoder.blocks[2]["attention"].score.mask = Causal() & SameDocument()


def a_decoder_that_looks_ahead(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.mask = Everything() & SameDocument()


def norms_that_subtract_the_mean(model: Any) -> None:
    norm = model.trunk.norms[1]["cross"]
    other = LayerNorm(26, norm.eps, bias=False).double()
    other.weight = norm.weight
    model.trunk.norms[1]["cross"] = other


@torch.no_grad()
def swap_keys_and_values_of_the_source(model: Any) -> None:
    weight = model.trunk.blocks[1]["cross"].project.source.weight
    k, v = weight.chunk(2)
    weight.copy_(torch.cat([v, k]))


def forget_the_last_norm_of_the_encoder(model: Any) -> None:
    model.encoder.finish = lambda x: x


def ignore_the_padding_of_the_source(model: Any) -> None:
    read = model.encode

    def encode(source: Any) -> Any:
        found = read(source)
        return type(found)(found.hidden, Positions.whole(found.hidden.shape[1]))

    model.encode = encode


DEFECTS: dict[str, Callable[[Any], None]] = {
    "scaled queries": scale_the_queries,
    "a table for each layer": a_table_for_each_layer,
    "head without its scale": forget_the_scale_of_the_head,
    "a bias on the source": bias_on_the_source,
    "distances backwards": distances_backwards,
    "one-sided buckets in the encoder": one_sided_buckets_in_the_encoder,
    "a causal encoder": a_causal_encoder,
    "a decoder that looks ahead": a_decoder_that_looks_ahead,
    "norms that subtract the mean": norms_that_subtract_the_mean,
    "keys and values of the source swapped": swap_keys_and_values_of_the_source,
    "no last norm in the encoder": forget_the_last_norm_of_the_encoder,
    "padding of the source ignored": ignore_the_padding_of_the_source,
}


@pytest.mark.parametrize("name", DEFECTS)
def test_parity_catches_the_defect(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch, modeling_t5)
    ours, theirs, _ = twins()
    assert logits_gap(ours, theirs, padded()) <= LIFTED
    DEFECTS[name](ours)
    found = logits_gap(ours, theirs, padded())
    print(f"{name}: logits {found:.1e}")
    assert not found <= 1e3 * LIFTED


def test_there_are_ten_at_least() -> None:
    assert len(DEFECTS) >= 10
