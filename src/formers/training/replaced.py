"""Replaced-token detection: a generator writes into the gaps of a text, a discriminator says where (ELECTRA, 2003.10555).

DeBERTa 3 (2111.09543, section 3): the generator has half the layers, and the discriminator's token embedding is

    E_D = stop_gradient(E_G) + E_delta,   E_delta = 0 at first

so that it begins with what the generator knows, and the discriminator's loss moves E_delta alone ("gradient-disentangled"). Any
two encoders of this library can be put together so. What is kept of it at the end is the discriminator: `merged` gives it an
embedding of its own.

Departures
- The discriminator's head is a `token` head with two labels, original and replaced, of which the softmax is ELECTRA's sigmoid;
  so what was trained opens as any token classifier does, and as a body under another head.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.axes import Hidden, Ids
from formers.errors import ConfigError, suggest
from formers.parts.model import Output
from formers.training.loss import IGNORE

LABELS = ("original", "replaced")
SHARING = ("disentangled", "shared", "none")
"""What the discriminator's embedding is to the generator's (2111.09543, 3.2): E_G + E_delta, the same, or one of its own."""


class DisentangledEmbedding(nn.Module):
    """Rows of stop_gradient(shared) + delta. `shared` stays the generator's: it is no parameter of this module."""

    def __init__(self, shared: nn.Embedding) -> None:
        super().__init__()
        self._shared = [shared]  # in a list, so that it is not registered here a second time
        self.delta = nn.Embedding(shared.num_embeddings, shared.embedding_dim, device=shared.weight.device)
        nn.init.zeros_(self.delta.weight)

    @property
    def weight(self) -> Tensor:
        """[vocab, width], as it is now."""
        return self._shared[0].weight.detach() + self.delta.weight

    def forward(self, input_ids: Ids) -> Hidden:
        return F.embedding(input_ids, self._shared[0].weight.detach()) + self.delta(input_ids)


class ReplacedToken(nn.Module):
    """A generator with a `masked_token` head and a discriminator with a `token` head, which is the model that is wanted.

    sharing  one of `SHARING`

    Called like the discriminator: logits [batch, seq, 2]. Raises ConfigError for other heads or unequal vocabularies.
    """

    def __init__(self, generator: Any, discriminator: Any, *, sharing: str = "disentangled") -> None:
        super().__init__()
        _check(generator.config, discriminator.config, sharing)
        self.generator, self.discriminator = generator, discriminator
        if sharing == "shared":
            discriminator.embedding.tokens = generator.embedding.tokens
        elif sharing == "disentangled":
            discriminator.embedding.tokens = DisentangledEmbedding(generator.embedding.tokens)

    @classmethod
    def of(cls, config: Any, *, seed: int = 0, sharing: str = "disentangled") -> ReplacedToken:
        """Both from the config of one encoder; the generator has half its layers (2111.09543, 4.1)."""
        from formers.models.registry import of_config

        build = of_config(config).load().MODEL
        halved = _halved(config)
        return cls(
            build(dataclasses.replace(halved, head="masked_token", num_labels=2, labels=()), seed=seed),
            build(dataclasses.replace(config, head="token", num_labels=2, labels=LABELS), seed=seed + 1),
            sharing=sharing,
        )

    @property
    def config(self) -> Any:
        """The discriminator's."""
        return self.discriminator.config

    @property
    def inputs(self) -> frozenset[str]:
        """The discriminator's."""
        return self.discriminator.inputs

    def forward(self, input_ids: Ids, **given: Any) -> Output:
        return self.discriminator(input_ids, **given)

    def merged(self) -> Any:
        """The discriminator alone, its token embedding E_G + E_delta: an encoder like any other."""
        alone = copy.deepcopy(self.discriminator)
        weight = self.discriminator.embedding.tokens.weight.detach().clone()
        alone.embedding.tokens = nn.Embedding.from_pretrained(weight, freeze=False)
        return alone


def _halved(config: Any) -> Any:
    """Half the layers, at least one; of ALBERT's groups as many as divide them."""
    layers = max(1, config.num_layers // 2)
    groups = {"num_groups": 1} if getattr(config, "num_groups", 1) > 1 and layers % config.num_groups else {}
    return dataclasses.replace(config, num_layers=layers, **groups)


def _check(generator: Any, discriminator: Any, sharing: str) -> None:
    if sharing not in SHARING:
        raise ConfigError(f"sharing {sharing!r}", ", ".join(SHARING), suggest(sharing, SHARING))
    heads = generator.head, discriminator.head, discriminator.num_labels
    if heads != ("masked_token", "token", 2):
        raise ConfigError(
            f"a generator with the head {heads[0]!r}, a discriminator with {heads[1]!r} of {heads[2]} labels",
            "masked_token, and token of 2 labels",
        )
    width = "d_embedding" if hasattr(generator, "d_embedding") else "d_model"
    sizes = [(c.vocab_size, getattr(c, width)) for c in (generator, discriminator)]
    if sharing != "none" and sizes[0] != sizes[1]:
        raise ConfigError(f"embeddings of {sizes[0]} and {sizes[1]}", "one size, since they are shared")


@torch.no_grad()
def draw_tokens(hidden: Tensor, head: Any, at: Tensor, *, seeded: bool) -> Tensor:
    """Tokens drawn from the generator's distribution, Int [batch, seq]; 0 where `at` (Bool) is False.

    seeded  from a seed of its own, always the same: an evaluation draws what it drew before. Else from torch's.

    By the exponential race: the smallest of Exp(1) / p is each token with probability p.
    """
    return _drawn(hidden, head, at, seeded)  # pyright: ignore[reportCallIssue]


@torch.compiler.disable  # the number of masked tokens is another in every batch
def _drawn(hidden: Tensor, head: Any, at: Tensor, seeded: bool) -> Tensor:
    generator = torch.Generator(hidden.device).manual_seed(0) if seeded else None
    drawn = torch.zeros(at.shape, dtype=torch.long, device=at.device)
    found = [
        torch.empty_like(p).exponential_(generator=generator).div_(p).argmin(-1)
        for part in hidden[at].split(ROWS)
        for p in [torch.softmax(head(part[None])[0].float(), -1)]
    ]
    if found:
        drawn[at] = torch.cat(found)
    return drawn


ROWS = 512
"""Tokens whose logits are held at a time."""


def replaced(input_ids: Tensor, targets: Tensor, drawn: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the discriminator reads, and its labels: 1 where that is not the text's own token, -100 at padding."""
    masked = targets != IGNORE
    original = torch.where(masked, targets, input_ids)
    read = torch.where(masked, drawn, original)
    labels = (read != original).long()
    return read, labels if index is None else labels.masked_fill(index < 0, IGNORE)
