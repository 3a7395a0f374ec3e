"""transformers' own models under the laws, through nothing but the arguments they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from formers.laws import certify
from formers.laws.adapters import AnyModule, OurModel, TransformersModel, adapt
from formers.parts.positions import Positions
from tests.laws.subjects import Plain, gpt2

transformers = pytest.importorskip("transformers")
SIZES = {
    "gpt2": {"vocab_size": 97, "n_embd": 26, "n_layer": 2, "n_head": 2, "n_positions": 67},
    "llama": {
        "vocab_size": 97,
        "hidden_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 53,
        "max_position_embeddings": 67,
    },
    "bert": {
        "vocab_size": 97,
        "hidden_size": 26,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 53,
        "max_position_embeddings": 67,
    },
}


def theirs(kind: str, head: str = "AutoModelForCausalLM", **changes: Any) -> Any:
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = transformers.AutoConfig.for_model(kind, **special | SIZES[kind] | changes)
    return getattr(transformers, head).from_config(config)


def test_models_are_told_apart_by_what_they_offer() -> None:
    assert type(adapt(gpt2())) is OurModel
    assert type(adapt(Plain())) is AnyModule
    assert type(adapt(theirs("gpt2"))) is TransformersModel


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_transformers_decoders_keep_every_law_that_applies_to_them(kind: str) -> None:
    report = certify(theirs(kind))
    assert report.ok, report.failed
    reasons = {v.name: v.detail for v in report.laws.values() if v.status == "not applicable"}
    assert set(reasons) == {
        "documents stay apart",
        "a state stays as it is until commit",
        "a superseded state raises",
        "a row that is reset begins anew",
        "segments equal whole",
        "no weight on the future",
        "the tokenizer fits",
    }
    assert reasons["a superseded state raises"] == "its cache is advanced by the forward itself"


def test_an_encoder_is_asked_for_no_causality_and_no_state() -> None:
    report = certify(theirs("bert", "AutoModelForMaskedLM"))
    assert report.ok, report.failed
    for name in ("causal by perturbation", "causal by gradient", "step by step equals whole"):
        assert report.laws[name].status == "not applicable"
    assert report.laws["padding changes nothing"].status == "pass"


def test_a_leak_in_their_attention_is_named_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = theirs("gpt2", attn_implementation="eager")
    attention = model.transformer.h[1].attn
    forward = attention.forward

    def leak(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        mixed, *rest = forward(hidden_states, *args, **kwargs)
        return mixed + 0.01 * mixed.roll(-1, 1), *rest

    monkeypatch.setattr(attention, "forward", leak)
    verdict = certify(model, laws=["causal by perturbation"]).laws["causal by perturbation"]
    assert (verdict.status, verdict.blame) == ("fail", "transformer.h.1.attn")


def test_a_mask_that_is_ignored_breaks_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = theirs("gpt2")
    forward = type(model).forward

    def deaf(
        self: Any, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **rest: Any
    ) -> Any:
        return forward(self, input_ids, position_ids=position_ids, **rest)

    monkeypatch.setattr(type(model), "forward", deaf)
    assert certify(model, laws=["padding changes nothing"]).laws["padding changes nothing"].status == "fail"


def test_rows_that_began_at_different_places_are_continued_from_what_was_kept() -> None:
    subject = adapt(theirs("gpt2").eval())
    state = subject.init_state(2, 10)
    ids = torch.tensor([[5, 6, 7], [0, 0, 8]])
    answer = subject(ids, Positions(torch.tensor([[0, 1, 2], [-1, -1, 0]])), state)
    follow = subject(torch.tensor([[9], [9]]), None, subject.commit(answer.state)).logits
    alone = subject(torch.tensor([[8, 9]])).logits
    assert torch.allclose(follow[1], alone[0, 1:], atol=1e-6)
