"""Transformer-XL against the authors' own code: three segments with memory, float64, every parameter random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from formers.models.transformer_xl import TransformerXL, TransformerXLConfig, weights

TOLERANCE = 1e-9
"""Five orders above what was measured (3e-15)."""

GOLDEN = Path(__file__).parents[1] / "fixtures" / "transformer_xl" / "golden.safetensors"


class Golden:
    """The file: tensors by their authors' names, and the settings."""

    def __init__(self) -> None:
        with safe_open(GOLDEN, framework="pt") as file:
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.settings: dict[str, Any] = json.loads(file.metadata()["config"])

    def of(self, kind: str) -> dict[str, Tensor]:
        """The tensors named ``kind.*``, without that."""
        return {n.removeprefix(f"{kind}."): t for n, t in self.tensors.items() if n.startswith(f"{kind}.")}

    def model(self, **changes: Any) -> TransformerXL:
        theirs = self.settings
        config = TransformerXLConfig(
            **{
                "vocab_size": theirs["n_token"],
                "d_model": theirs["d_model"],
                "num_layers": theirs["n_layer"],
                "num_heads": theirs["n_head"],
                "d_head": theirs["d_head"],
                "d_ff": theirs["d_inner"],
                "segment_length": theirs["tgt_len"],
                "memory_length": theirs["mem_len"],
                "norm": "pre" if theirs["pre_lnorm"] else "post",
            }
            | changes
        )
        model = TransformerXL(config).double().eval()
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        model.load_state_dict(weights(config).read(self.of("weight"), shapes))
        return model

    def segments(self) -> list[tuple[Tensor, Tensor]]:
        length = self.settings["tgt_len"]
        return list(zip(*(self.tensors[name].split(length, 1) for name in ("input", "target")), strict=True))


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


def read(model: TransformerXL, golden: Golden) -> list[tuple[Tensor, Tensor]]:
    """Of each segment, fed in order: the loss of every token, and the last layer's output."""
    state, found = model.init_state(2, golden.tensors["input"].shape[1]), []
    for ids, targets in golden.segments():
        hidden, staged = model.body(ids, None, state)
        logits = model.head(hidden).flatten(0, 1)
        found.append((F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(ids), hidden))
        assert staged is not None
        state = staged.commit()
    return found


def test_every_loss_and_hidden_state_of_three_segments(golden: Golden) -> None:
    for segment, (losses, hidden) in enumerate(read(golden.model(), golden)):
        assert (losses - golden.tensors[f"nll.{segment}"]).abs().max() <= TOLERANCE
        assert (hidden - golden.tensors[f"hidden_last_layer.{segment}"]).abs().max() <= TOLERANCE


def test_every_gradient_of_the_sum_of_the_segments_mean_losses(golden: Golden) -> None:
    model = golden.model()
    sum(losses.mean() for losses, _ in read(model, golden)).backward()  # type: ignore[union-attr]
    wanted, problems = weights(model.config).partial(golden.of("grad"))
    assert not problems
    named = dict(model.named_parameters())
    assert len(named) == len(golden.of("grad"))
    for name, parameter in named.items():
        assert parameter.grad is not None
        assert (parameter.grad - wanted[name]).abs().max() <= TOLERANCE, name


def test_remembered_keys_give_the_same_losses_but_other_gradients(golden: Golden) -> None:
    wanted = golden.of("grad")["layers.1.dec_attn.qkv_net.weight"]
    model = golden.model(remember="keys")
    found = read(model, golden)
    sum(losses.mean() for losses, _ in found).backward()  # type: ignore[union-attr]
    for segment, (losses, _) in enumerate(found):
        assert (losses - golden.tensors[f"nll.{segment}"]).abs().max() <= TOLERANCE
    gradient = model.get_parameter("trunk.blocks.1.attention.project.linear.weight").grad
    assert gradient is not None
    queries, keys, values = (gradient - wanted).abs().split(15, 0)
    assert queries.max() <= TOLERANCE
    assert min(float(keys.max()), float(values.max())) > 1e-4


@pytest.mark.parametrize(
    "defect",
    [{"memory_length": 10}, {"memory_length": 12}, {"segment_length": 6}, {"eps": 1e-6}],
    ids=lambda changes: "".join(changes),
)
def test_one_setting_off_by_a_little_is_seen(golden: Golden, defect: dict[str, Any]) -> None:
    losses, _ = read(golden.model(**defect), golden)[-1]
    assert (losses - golden.tensors["nll.2"]).abs().max() > 1e3 * TOLERANCE


def test_the_authors_weights_there_and_back_are_bit_identical(golden: Golden) -> None:
    model, theirs = golden.model(), golden.of("weight")
    written = weights(model.config).write(model.state_dict())
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.items())
