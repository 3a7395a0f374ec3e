"""Memory Mosaics against the authors' own nanoMosaics: logits and every gradient, float64, every parameter random."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from formers.errors import WeightsError
from formers.models.memory_mosaics import MemoryMosaics, MemoryMosaicsConfig, weights
from formers.parts import leaky, mosaic
from formers.parts.masks import Causal, SameDocument

TOLERANCE = 1e-9
"""Four orders above what was measured (1e-13)."""

GOLDEN = Path(__file__).parents[1] / "fixtures" / "memory_mosaics" / "golden.safetensors"


class Golden:
    """The file: tensors by their authors' names, and the settings."""

    def __init__(self) -> None:
        with safe_open(GOLDEN, framework="pt") as file:
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.settings: dict[str, Any] = json.loads(file.metadata()["config"])

    def of(self, kind: str) -> dict[str, Tensor]:
        """The tensors named ``kind.*``, without that."""
        return {n.removeprefix(f"{kind}."): t for n, t in self.tensors.items() if n.startswith(f"{kind}.")}

    def model(self, **changes: Any) -> MemoryMosaics:
        theirs = self.settings
        config = MemoryMosaicsConfig(
            **{
                "vocab_size": theirs["vocab_size"],
                "d_model": theirs["n_embd"],
                "num_layers": theirs["n_layer"],
                "num_heads": theirs["n_head"],
                "memory_size": theirs["pmem_size"],
                "memory_sets": theirs["pmem_count"],
                "bias": theirs["bias"],
            }
            | changes
        )
        model = MemoryMosaics(config).double().eval()
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        model.load_state_dict(weights(config).read(self.of("weight"), shapes))
        return model

    def worst(self, model: MemoryMosaics) -> float:
        """The largest difference of all logits, the loss and all gradients."""
        logits = model(self.tensors["input"]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), self.tensors["target"].flatten())
        model.zero_grad()
        loss.backward()
        wanted, problems = weights(model.config).partial(self.of("grad"))
        assert not problems
        named = dict(model.named_parameters())
        assert len(named) == len(self.of("grad"))
        gaps = [(p.grad - wanted[n]).abs().max() for n, p in named.items() if p.grad is not None]
        assert len(gaps) == len(named)
        gaps += [(logits - self.tensors["logits"]).abs().max(), (loss - self.tensors["loss"]).abs().max()]
        return float(torch.stack(gaps).max().detach())


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


def test_logits_and_every_gradient(golden: Golden) -> None:
    assert golden.worst(golden.model()) <= TOLERANCE


def test_the_average_in_chunks_and_as_a_matrix_give_the_same(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosaic, "leaky_average", leaky.matrix)
    assert golden.worst(golden.model()) <= TOLERANCE
    monkeypatch.undo()
    monkeypatch.setattr(leaky, "CHUNK", 3)
    assert golden.worst(golden.model()) <= TOLERANCE


def test_the_authors_weights_there_and_back_are_bit_identical(golden: Golden) -> None:
    model, theirs = golden.model(), golden.of("weight")
    written = weights(model.config).write(model.state_dict())
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.items())


def test_their_buffers_and_the_prefix_of_a_compiled_model_are_no_trouble(golden: Golden) -> None:
    model = golden.model()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    theirs = {f"_orig_mod.{name}": tensor for name, tensor in golden.of("weight").items()}
    theirs["_orig_mod.lm_head.weight"] = theirs["_orig_mod.mosaic.wte.weight"]
    theirs["_orig_mod.mosaic.h.0.attn.bias"] = torch.ones(1, 1, 13, 13)
    theirs["_orig_mod.mosaic.h.0.mlp.k_featurizer.leaky_avg.coef"] = torch.ones(13, 13)
    read = weights(model.config).read(theirs, shapes)
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())


def test_pairs_of_another_number_are_refused(golden: Golden) -> None:
    with pytest.raises(WeightsError, match=r"mlp\.P_k is \(1, 1, 3, 17, 7\), wanted \(1, 1, 3, 19, 7\)"):
        golden.model(memory_size=19)


# --- ten mistakes that people make --------------------------------------------------------------------------------------


def context(model: MemoryMosaics) -> Any:
    return model.trunk.blocks[1]["context_memory"]  # type: ignore[index]


def persistent(model: MemoryMosaics) -> Any:
    return model.trunk.blocks[1]["persistent_memory"]  # type: ignore[index]


def the_mask_is_not_strict(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    """Pair t-1 is taken for pair t: a token sees the value that holds the token after it."""
    peeked = mosaic.ContextMemory._pairs_in_step

    def with_the_own_pair(self: Any, q: Tensor, features: Tensor, *rest: Any) -> Any:
        after = torch.cat([features[:, :, 1:], features[:, :, :1]], 2)
        made = peeked(self, q, features, *rest)
        positions = mosaic.Positions.whole(q.shape[2])
        return mosaic.Pairs(q, self.value.of(features, after), positions) if self is context(model) else made

    patch.setattr(mosaic.ContextMemory, "_pairs_in_step", with_the_own_pair)
    context(model).score.mask = Causal() & SameDocument()


def values_look_back(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.Values.of
    patch.setattr(mosaic.Values, "of", lambda self, now, after: of(self, after, now))


def logits_over_the_root_of_d_head(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.attend
    patch.setattr(mosaic, "attend", lambda q, *rest, **named: of(q * 7**-0.5, *rest, **named))


def queries_of_their_own(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.attend
    patch.setattr(mosaic, "attend", lambda q, *rest, **named: of(q.flip(-1), *rest, **named))


def one_rate_for_all_heads(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    rate = context(model).key.rate
    rate.data = rate.data.mean().expand_as(rate).clone()


def values_are_normalised_before_they_are_mixed(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.Values.of
    patch.setattr(mosaic.Values, "of", lambda self, now, after: of(self, mosaic._unit(now), mosaic._unit(after)))


def no_peek_at_the_next_token(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    context(model).value.peek.data.fill_(1.0)


def the_scale_of_persistent_keys_is_not_doubled(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    persistent(model).key.power = 1


def keys_are_normalised_before_they_are_averaged(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.leaky_average
    patch.setattr(mosaic, "leaky_average", lambda x, *rest: of(mosaic._unit(x), *rest))


def rates_without_the_factor_of_ten(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.leaky_average
    patch.setattr(mosaic, "leaky_average", lambda x, rate, *rest: of(x, rate / 10, *rest))


def the_average_starts_one_token_late(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    of = mosaic.leaky_average
    patch.setattr(mosaic, "leaky_average", lambda x, rate, *rest: of(x, rate, *rest) - x)


def no_scale_of_what_is_found(model: MemoryMosaics, patch: pytest.MonkeyPatch) -> None:
    persistent(model).scale.data.zero_()


Defect = Callable[[MemoryMosaics, pytest.MonkeyPatch], None]
DEFECTS: list[Defect] = [
    the_mask_is_not_strict,
    values_look_back,
    logits_over_the_root_of_d_head,
    queries_of_their_own,
    one_rate_for_all_heads,
    values_are_normalised_before_they_are_mixed,
    no_peek_at_the_next_token,
    the_scale_of_persistent_keys_is_not_doubled,
    keys_are_normalised_before_they_are_averaged,
    rates_without_the_factor_of_ten,
    the_average_starts_one_token_late,
    no_scale_of_what_is_found,
]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_mistake_that_people_make_is_seen(golden: Golden, defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    model = golden.model()
    defect(model, monkeypatch)
    assert golden.worst(model) > 1e3 * TOLERANCE
