"""The laws of an encoder-decoder are those of its decoder, with a source given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.laws import certify
from formers.parts.masks import Everything, SameDocument
from formers.parts.positions import Positions
from formers.parts.sources import Encoded

SIZES: dict[str, Any] = {
    "vocab_size": 2003,
    "d_model": 26,
    "num_layers": 1,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "d_head": 5,
    "d_ff": 53,
}
GATED = {"gated": True, "activation": "gelu_tanh", "tie": False, "scale_head": False}


def t5(**changes: Any) -> Any:
    return formers.build("t5", **SIZES | changes)


@pytest.mark.parametrize("changes", [{}, GATED], ids=["1.0", "1.1"])
def test_t5_keeps_every_law(changes: dict[str, Any]) -> None:
    report = certify(t5(**changes), length=13, fresh=True)
    assert report.ok, report.failed
    silent = {verdict.name for verdict in report.laws.values() if verdict.status != "pass"}
    assert silent == {"the tokenizer fits", "segments equal whole", "no weight on the future"}


def look_ahead(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.mask = Everything() & SameDocument()


def mix_the_rows_of_the_text(model: Any) -> None:
    cross = model.trunk.blocks[0]["cross"]
    forward = cross.forward

    def across(x: Tensor, positions: Positions, *rest: Any) -> Any:
        return forward(x + 0.1 * x.mean(0, keepdim=True), positions, *rest)

    cross.forward = across


def forget_the_source(model: Any) -> None:
    """Steps read another source than the whole did."""
    cross, read = model.trunk.blocks[1]["cross"], model.trunk.blocks[1]["cross"].read_source
    cross.read_source = lambda source, **kind: read(
        Encoded(source.hidden * (0.5 if kind else 1.0), source.positions), **kind
    )


@pytest.mark.parametrize(
    ("seed_defect", "law"),
    [
        (look_ahead, "causal by perturbation"),
        (mix_the_rows_of_the_text, "rows independent"),
        (forget_the_source, "step by step equals whole"),
    ],
)
def test_a_defect_of_the_decoder_breaks_its_law(seed_defect: Any, law: str) -> None:
    model = t5()
    seed_defect(model)
    report = certify(model, laws=[law], length=13)
    assert not report.ok
    assert report.laws[law].blame is not None


def test_the_model_that_was_given_is_not_changed() -> None:
    model = t5()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    certify(model, laws=["causal by gradient"], length=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
