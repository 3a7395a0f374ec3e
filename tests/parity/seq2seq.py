"""Parity of encoder-decoders: two implementations with the same random weights, on padded sources and targets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from formers.models.t5 import FOREIGN, T5, T5Config, weights
from formers.parts.positions import Positions
from formers.parts.sources import Source
from formers.parts.taps import listen
from formers.weights import Table
from tests.parity.harness import carry, ragged, random_ids, randomise

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "d_model": 26,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "d_head": 7,
    "d_ff": 53,
    "num_buckets": 10,
    "max_distance": 17,
}


def twins(*, seed: int = 1, attention: str = "sdpa", **changes: Any) -> tuple[Any, Any, Table]:
    """Our model, transformers' with the same random weights, both float64, and the table between their names."""
    config = T5Config(**SIZES | changes)
    torch.manual_seed(seed)
    settings = transformers.AutoConfig.for_model(**FOREIGN.write(config))
    theirs: Any = transformers.AutoModelForSeq2SeqLM.from_config(settings, attn_implementation=attention)
    if not config.tie:  # transformers 5 ties at birth whatever the config says
        theirs.lm_head.weight = nn.Parameter(torch.zeros_like(theirs.lm_head.weight))
    theirs = theirs.double().eval()
    randomise(theirs, seed)
    ours, table = T5(config).double().eval(), weights(config)
    carry(theirs, ours, table)
    return ours, theirs, table


@dataclass(frozen=True)
class Texts:
    """Ids of sources and of targets, where they stand, and what the decoder should say (-100: nothing)."""

    source: Source
    ids: Tensor
    positions: Positions | None
    labels: Tensor

    @property
    def real(self) -> Tensor:
        return torch.ones_like(self.ids, dtype=torch.bool) if self.positions is None else self.positions.present


def whole(source: int = 23) -> Texts:
    return Texts(
        Source(random_ids(2, source, 101)), random_ids(2, 31, 101, seed=1), None, random_ids(2, 31, 101, seed=2)
    )


def padded(source_side: str = "right", target_side: str = "left", sources: tuple[int, int, int] = (23, 5, 13)) -> Texts:
    """Rows of three lengths; the row with the longest source has the shortest target."""
    source, source_positions = ragged([*sources], 101)
    ids, positions = ragged([2, 31, 17], 101, seed=1)
    labels = random_ids(3, 31, 101, seed=2)
    if source_side == "right":
        source_positions = Positions.from_attention_mask(source_positions.present.flip(1))
    if target_side == "right":
        positions = Positions.from_attention_mask(positions.present.flip(1))
    return Texts(Source(source, source_positions), ids, positions, labels.masked_fill(~positions.present, -100))


@contextlib.contextmanager
def streams(theirs: Any) -> Iterator[dict[str, Tensor]]:
    """What leaves every block of theirs, under our names."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        return lambda module, args, output: seen.__setitem__(name, output[0])

    stacks = {"encoder": theirs.encoder, "trunk": theirs.decoder}
    hooks = [
        block.register_forward_hook(note(f"{name}.stream.{i}"))
        for name, stack in stacks.items()
        for i, block in enumerate(stack.block)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def gap(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0)).detach())


@dataclass(frozen=True)
class Differences:
    """Largest differences, each over the reference's largest number where that is above 1."""

    logits: float
    loss: float
    hidden: dict[str, float]
    gradients: dict[str, float]

    @property
    def worst(self) -> float:
        return max(self.logits, self.loss, *self.hidden.values(), *self.gradients.values())

    def assert_within(self, tolerance: float) -> None:
        assert self.logits <= tolerance, self.logits
        assert self.loss <= tolerance, self.loss
        for found in (self.hidden, self.gradients):
            beyond = {name: size for name, size in found.items() if not size <= tolerance}
            assert not beyond, beyond


def compare(ours: Any, theirs: Any, table: Table, texts: Texts) -> Differences:
    """Logits, loss and hidden states at kept positions, and the gradients of the loss and of randomly weighed logits."""
    source, real = texts.source, texts.real
    source_real = source.placed.present.expand_as(source.input_ids)
    with listen(ours, "encoder.stream.*", "trunk.stream.*") as our_hidden:
        our_logits = ours(
            texts.ids, source=source, **({} if texts.positions is None else {"positions": texts.positions})
        ).logits
    our_loss = F.cross_entropy(our_logits.flatten(0, 1), texts.labels.flatten())
    with streams(theirs) as their_hidden:
        their = call(theirs, texts)
    assert our_hidden.keys() == their_hidden.keys()
    hidden = {
        name: gap(found[0][kept], their_hidden[name][kept])
        for name, found in our_hidden.items()
        for kept in [source_real if name.startswith("encoder") else real]
    }
    weigh = torch.randn(our_logits[real].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    our_gradients = gradients(ours, our_loss + (our_logits[real] * weigh).sum())
    their_gradients, problems = table.partial(gradients(theirs, their.loss + (their.logits[real] * weigh).sum()))
    assert not problems, problems
    named = {name for name, _ in ours.named_parameters()}
    assert named <= their_gradients.keys(), named - their_gradients.keys()
    return Differences(
        gap(our_logits[real].detach(), their.logits[real].detach()),
        gap(our_loss.detach(), their.loss.detach()),
        hidden,
        {name: gap(our_gradients[name], their_gradients[name]) for name in named},
    )


def call(theirs: Any, texts: Texts) -> Any:
    """transformers' output for these texts."""
    source = texts.source
    return theirs(
        input_ids=source.input_ids,
        attention_mask=source.placed.present.expand_as(source.input_ids).long(),
        decoder_input_ids=texts.ids,
        decoder_attention_mask=texts.real.long(),
        labels=texts.labels,
    )


@torch.no_grad()
def logits_gap(ours: Any, theirs: Any, texts: Texts) -> float:
    """Largest difference of the logits at kept positions."""
    found = ours(texts.ids, source=texts.source, positions=texts.positions).logits
    return gap(found[texts.real], call(theirs, texts).logits[texts.real])


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def paired_gap(ours: Any, theirs: Any, pairs: list[tuple[str, str]], texts: Texts) -> float:
    """The largest gap between outputs of modules that are said to mean the same."""
    seen: dict[str, Tensor] = {}
    for side, model in enumerate((ours, theirs)):
        for names in pairs:
            model.get_submodule(names[side]).register_forward_hook(
                lambda module, args, output, name=names[side]: seen.__setitem__(
                    name, output[0] if isinstance(output, tuple) else output
                )
            )
    ours(texts.ids, source=texts.source)
    theirs(input_ids=texts.source.input_ids, decoder_input_ids=texts.ids)
    return max(gap(seen[our], seen[their]) for our, their in pairs)
