"""DeBERTa keeps the laws of encoders in every version, with and without what belongs to one of them alone."""

from __future__ import annotations

from typing import Any

import pytest

import formers
from formers.laws import certify

SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 29, "max_distance": 7,
}  # fmt: skip
CASES: list[tuple[str, dict[str, Any]]] = [
    ("deberta", {}),
    ("deberta", {"mask_decoder": "enhanced"}),
    ("deberta", {"head": "sequence", "num_labels": 5}),
    ("deberta", {"head": "none", "num_types": 2}),
    ("deberta_v2", {"num_buckets": 8}),
    ("deberta_v2", {"num_buckets": 8, "mask_decoder": "enhanced", "convolution_width": 3}),
    ("deberta_v2", {"num_buckets": 0, "share_keys": False, "head": "token"}),
]
ALWAYS = {
    "rows independent",
    "padding changes nothing",
    "training differs only by dropout",
    "every parameter gets a gradient",
    "finite in bf16",
    "recomputation gives the same gradients",
    "save and load exact",
}


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_the_laws_hold(name: str, changes: dict[str, Any]) -> None:
    report = certify(formers.build(name, **SIZES | changes), length=13, fresh=True)
    assert report.ok, report.failed
    passed = {verdict.name for verdict in report.laws.values() if verdict.status == "pass"}
    head = changes.get("head", "masked_token")
    packed = {"documents stay apart"} if head != "sequence" else set()
    guessing = {"first loss near ln V"} if head != "none" else set()
    assert passed == ALWAYS | packed | guessing


def test_a_convolution_across_documents_is_caught() -> None:
    made = formers.build("deberta_v2", **SIZES | {"num_buckets": 8, "convolution_width": 3})
    inner = made.trunk.convolution.forward
    made.trunk.convolution.forward = lambda x, positions: inner(x, type(positions)(positions.index))
    failed = {verdict.name for verdict in certify(made, laws=["documents stay apart"], length=13).failed}
    assert failed == {"documents stay apart"}


def test_dropout_of_distances_is_drawn_in_training_alone() -> None:
    report = certify(
        formers.build("deberta", **SIZES, attention_dropout=0.0), laws=["training differs only by dropout"], length=13
    )
    assert report.ok, report.failed
