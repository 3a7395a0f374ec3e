"""Parity with a reference: the same weights, every one of them random, in two implementations, compared forward and back.

    ours, theirs, table = twins("gpt2", **sizes)
    compare(ours, theirs, table, ids).assert_within(1e-9)

`float64_throughout` lifts the float32 casts that some of transformers' models keep in a float64 model, so that parity can
be asked for beyond float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from formers.models.registry import configure, spec
from formers.parts.positions import Positions
from formers.weights import Table

NO_SPECIAL_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


@dataclass(frozen=True)
class Differences:
    """Largest differences: of the logits, and of every parameter's gradient under its name in our model.

    Each is divided by the largest number of the reference's tensor where that is above 1.
    """

    logits: float
    gradients: dict[str, float]

    @property
    def worst(self) -> float:
        return max(self.logits, *self.gradients.values())

    def assert_within(self, tolerance: float) -> None:
        """Written so that not-a-number is not within."""
        beyond = {name: gap for name, gap in self.gradients.items() if not gap <= tolerance}
        assert self.logits <= tolerance, f"logits differ by {self.logits:.2e}, gradients by {beyond}"
        assert not beyond, f"gradients differ: {beyond}"


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Make every parameter random: gains 1 +- 0.3, biases +- 0.3, maps N(0, 1/width), so that nothing hides behind a 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        if parameter.ndim > 1:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.copy_(0.3 * noise + (0.0 if name.endswith("bias") else 1.0))


def twins(
    name: str,
    *,
    seed: int = 1,
    random: bool = True,
    attention: str = "sdpa",
    reference: type | None = None,
    **config: Any,
) -> tuple[Any, Any, Table]:
    """Our model, transformers' with the same weights (all random, or as it initialises them), both float64, and the table.

    `reference`: a config class of transformers, where the model's own is not what it is compared with.
    """
    module, ours_config = spec(name).load(), configure(name, None, **config)
    settings = module.FOREIGN.write(ours_config) | NO_SPECIAL_TOKENS
    torch.manual_seed(seed)
    if reference is None:
        theirs_config = transformers.AutoConfig.for_model(**settings)
    else:
        theirs_config = reference(**{k: v for k, v in settings.items() if k != "model_type"})
    theirs = transformers.AutoModelForCausalLM.from_config(theirs_config, attn_implementation=attention)
    theirs = theirs.double().eval()
    if random:
        randomise(theirs, seed)
    ours, table = module.MODEL(ours_config).double().eval(), module.weights(ours_config)
    carry(theirs, ours, table)
    return ours, theirs, table


def carry(theirs: nn.Module, ours: nn.Module, table: Table) -> None:
    """Their weights into our model, through the table."""
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(table.read(theirs.state_dict(), shapes))


def compare(
    ours: nn.Module,
    theirs: nn.Module,
    table: Table,
    ids: Tensor,
    *,
    positions: Positions | None = None,
    given: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Differences:
    """Logits and gradients of both models on `ids`. Padding (positions of index -1) is left out of the comparison.

    positions  for our model; transformers' is handed the same as attention_mask and position_ids
    given      what else transformers' forward takes
    The loss is the sum of the logits, weighed by random numbers, so that no gradient cancels.
    """
    theirs_given = dict(given or {})
    real = torch.ones_like(ids, dtype=torch.bool)
    if positions is not None:
        real = positions.present.expand_as(real)
        theirs_given |= {"attention_mask": real.long(), "position_ids": positions.index.expand_as(ids).clamp(min=0)}
    our_logits = ours(ids, **({} if positions is None else {"positions": positions})).logits[real]
    their_logits = theirs(input_ids=ids, **theirs_given).logits[real]
    weights = torch.randn(our_logits.shape, generator=torch.Generator().manual_seed(seed), dtype=our_logits.dtype)
    our_gradients = _gradients(ours, (our_logits * weights).sum())
    their_gradients, problems = table.partial(_gradients(theirs, (their_logits * weights).sum()))
    assert not problems, problems
    named = dict(ours.named_parameters())
    assert named.keys() <= their_gradients.keys(), named.keys() - their_gradients.keys()
    gaps = {name: _gap(our_gradients[name], their_gradients[name]) for name in named}
    return Differences(_gap(our_logits.detach(), their_logits.detach()), gaps)


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True))


def _gap(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def ragged(lengths: list[int], vocab_size: int, *, seed: int = 0) -> tuple[Tensor, Positions]:
    """Random ids [batch, longest] of texts of these lengths, padded on the left."""
    longest = max(lengths)
    ids = random_ids(len(lengths), longest, vocab_size, seed=seed)
    index = torch.arange(longest)[None] - (longest - torch.tensor(lengths)[:, None])
    return ids, Positions(index.clamp(min=-1))


def random_ids(batch: int, length: int, vocab_size: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def greedy(model: Any, ids: Tensor, count: int) -> Tensor:
    """The likeliest next token, `count` times, each step going on from a state."""
    state, told = model.init_state(ids.shape[0], ids.shape[1] + count), []
    for _ in range(count):
        out = model(ids, state=state)
        state, ids = out.state.commit(), out.logits[:, -1:].argmax(-1)
        told.append(ids)
    return torch.cat(told, 1)


# --- lifting transformers' float32 casts -----------------------------------------------------------------------------


class _WideTorch:
    """torch, but for float32, which is float64 here."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def float64_throughout(patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """In these modules of transformers, and in `Tensor.float`, float32 means float64. Build the model afterwards."""
    import transformers.modeling_rope_utils

    for module in (*modules, transformers.modeling_rope_utils):
        patch.setattr(module, "torch", _WideTorch())
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
