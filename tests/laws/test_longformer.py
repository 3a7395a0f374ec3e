"""Longformer's encoder and the laws: which speak of it, and the one that its global maps are excepted from."""

from __future__ import annotations

import pytest

import formers
from formers.laws import certify
from tests.laws.test_encoders import ALWAYS

GRADIENTS = "every parameter gets a gradient"


@pytest.mark.parametrize("head", ["masked_token", "sequence", "none"])
def test_it_keeps_the_laws_that_speak_of_it(head: str) -> None:
    sizes = {
        "vocab_size": 31,
        "d_model": 22,
        "num_layers": 2,
        "num_heads": 2,
        "d_ff": 37,
        "max_length": 29,
        "windows": 6,
    }
    labels = {"num_labels": 5} if head == "sequence" else {}
    report = certify(formers.build("longformer", head=head, **sizes, **labels), length=13, fresh=True)
    assert report.ok, report.failed
    passed = {verdict.name for verdict in report.laws.values() if verdict.status == "pass"}
    assert ALWAYS - {GRADIENTS} <= passed
    reason = "last layer's window" if head == "sequence" else "without `is_global` there are none"
    assert reason in report.laws[GRADIENTS].detail
