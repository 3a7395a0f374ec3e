"""Models that read from both sides: which laws speak of them, under every head, and what these catch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import formers
from formers.laws import certify
from formers.models.bert import HEADS
from formers.parts.encoder import Encoder
from formers.parts.heads import first_token

SIZES: dict[str, Any] = {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 29}
ALWAYS = {
    "rows independent",
    "padding changes nothing",
    "training differs only by dropout",
    "every parameter gets a gradient",
    "finite in bf16",
    "recomputation gives the same gradients",
    "save and load exact",
}


def model(name: str = "bert", **changes: Any) -> Any:
    return formers.build(name, **SIZES | changes)


CASES = [("bert", head) for head in HEADS] + [
    ("albert", "pretraining"),
    ("distilbert", "sequence"),
    ("distilbert", "none"),
]


@pytest.mark.parametrize(("name", "head"), CASES)
def test_every_head_keeps_the_laws_that_speak_of_it(name: str, head: str) -> None:
    labels = {"num_labels": 5} if head in ("sequence", "token") else {}
    report = certify(model(name, head=head, **labels), length=13, fresh=True)
    assert report.ok, report.failed
    passed = {verdict.name for verdict in report.laws.values() if verdict.status == "pass"}
    packed = {"documents stay apart"} if head in ("masked_token", "token", "span", "none") else set()
    guessing = {"first loss near ln V"} if head not in ("pooler", "none") else set()
    assert passed == ALWAYS | packed | guessing


def test_what_is_not_asked_of_them_has_a_reason() -> None:
    laws = certify(model(head="pooler"), length=13).laws
    assert "bidirectional" in laws["causal by perturbation"].detail
    assert "BERT keeps no state" in laws["step by step equals whole"].detail
    assert "a row is one text" in laws["documents stay apart"].detail
    assert "gives no logits" in laws["first loss near ln V"].detail


def test_a_head_that_labels_is_asked_to_guess_its_labels() -> None:
    verdict = certify(model(head="token", num_labels=5), length=13, fresh=True).laws["first loss near ln V"]
    assert "ln 5 = 1.609" in verdict.detail


# --- what they catch --------------------------------------------------------------------------------------------------


class ReadsColumnZero(nn.Module):
    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.linear, self.activation = pool.linear, pool.activation

    def forward(self, hidden: Tensor, positions: Any = None) -> Tensor:
        return self.activation(self.linear(first_token(hidden)))


def test_a_row_read_by_its_padding_is_caught() -> None:
    made = model(head="sequence")
    made.head.pool = ReadsColumnZero(made.head.pool)
    assert {v.name for v in certify(made, laws=sorted(ALWAYS), length=13).failed} == {"padding changes nothing"}


def test_a_pair_head_that_nothing_trains_is_caught() -> None:
    class Mute(Encoder):
        def answer(self, hidden: Tensor, positions: Any, staged: Any) -> Any:
            out = super().answer(hidden, positions, staged)
            out.pair = None
            return out

    made = model(head="pretraining")
    made.__class__ = type("BERT", (Mute, type(made)), {})
    made.__class__.answer = Mute.answer
    failed = certify(made, laws=["every parameter gets a gradient"], length=13).failed
    assert [v.name for v in failed] == ["every parameter gets a gradient"]
    assert "head.pair" in failed[0].detail


def test_tokens_that_see_padding_are_caught() -> None:
    made = model()
    inner = made.trunk.forward
    made.trunk.forward = lambda x, positions, *rest: inner(x, positions.map(lambda t: t.clamp(min=0)), *rest)
    caught = {v.name for v in certify(made, laws=sorted(ALWAYS), length=13).failed}
    assert "padding changes nothing" in caught


def test_the_embedding_shaken_by_the_batch_is_caught() -> None:
    class Mixing(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + 1e-3 * x.mean(0, keepdim=True))

    made = model()
    made.embedding.norm = Mixing(made.embedding.norm)
    assert "rows independent" in {v.name for v in certify(made, laws=["rows independent"], length=13).failed}


# --- heads that read a row --------------------------------------------------------------------------------------------


def test_documents_packed_into_rows_are_refused_by_a_head_that_reads_one_token() -> None:
    from formers.errors import ConfigError
    from formers.parts.positions import Positions

    packed = Positions(torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 0, 1, 1]]))
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ConfigError, match="a text a row"):
        model(head="sequence")(ids, positions=packed)
    assert model(head="token")(ids, positions=packed).logits.shape == (1, 4, 2)
