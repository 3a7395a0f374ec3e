"""Every law is tried against a defect that it must catch, and must name. A law that catches nothing proves nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from formers.laws import LAWS, Verdict, certify
from tests.laws import subjects as seeded
from tests.laws.subjects import Past, Plain, gpt2, llama, transformer_xl

ATTENTION = "trunk.blocks.1.attention"
NORM = "trunk.final_norm"

DEFECTS: list[tuple[str, Any, str | None]] = [
    ("causal by perturbation", seeded.leak_one_token, ATTENTION),
    ("causal by gradient", seeded.leak_one_token, ATTENTION),
    ("causal by gradient", seeded.wrap_final_norm(seeded.Straight), None),
    ("no weight on the future", seeded.leak_one_token, ATTENTION),
    ("rows independent", seeded.mix_rows, NORM),
    ("rows independent", seeded.mix_rows_in_training, NORM),
    ("padding changes nothing", seeded.see_padding, ATTENTION),
    ("padding changes nothing", seeded.take_places_from_the_shape, "places"),
    ("documents stay apart", seeded.let_documents_see_each_other, ATTENTION),
    ("documents stay apart", seeded.take_places_from_the_shape, "places"),
    ("step by step equals whole", seeded.remember_too_little, ATTENTION),
    ("step by step equals whole", seeded.take_places_from_the_shape, "places"),
    ("a state stays as it is until commit", seeded.write_in_place, ATTENTION),
    ("a state stays as it is until commit", seeded.commit_what_stands_there, None),
    ("a superseded state raises", seeded.forgive_stale_states, None),
    ("a row that is reset begins anew", seeded.cling_to_what_was_read, ATTENTION),
    ("training differs only by dropout", seeded.wrap_final_norm(seeded.AlwaysDropping), NORM),
    ("training differs only by dropout", seeded.wrap_final_norm(seeded.HandMadeDropout), NORM),
    ("training differs only by dropout", seeded.wrap_final_norm(seeded.LouderInTraining), NORM),
    ("every parameter gets a gradient", seeded.leave_a_parameter_out, NORM),
    ("every parameter gets a gradient", seeded.learn_a_loose_tensor, NORM),
    ("finite in bf16", seeded.wrap_final_norm(seeded.Overflowing), NORM),
    ("recomputation gives the same gradients", seeded.wrap_inner_norm(seeded.OwnDice), None),
    ("save and load exact", seeded.learn_a_loose_tensor, NORM),
]


def verdict(model: nn.Module, law: str, *, length: int = 19, tokenizer: Any = None) -> Verdict:
    return certify(model, laws=[law], length=length, tokenizer=tokenizer).laws[law]


@pytest.mark.parametrize(("law", "seed", "blame"), DEFECTS, ids=[f"{d[0]}-{i}" for i, d in enumerate(DEFECTS)])
def test_the_law_catches_the_defect_and_names_the_module(law: str, seed: Any, blame: str | None) -> None:
    model = gpt2()
    assert verdict(model, law).status == "pass"
    seed(model)
    found = verdict(model, law)
    assert (found.status, found.detail != "") == ("fail", True)
    if blame is not None:
        assert found.blame == blame


IN_SEGMENTS: list[tuple[str, Any]] = [
    ("causal by perturbation", seeded.leak_one_token_of_segments),
    ("causal by gradient", seeded.leak_one_token_of_segments),
    ("segments equal whole", seeded.leak_one_token_of_segments),
    ("segments equal whole", seeded.see_too_little_of_the_memory),
    ("segments equal whole", seeded.keep_too_little_for_the_third_segment),
]


@pytest.mark.parametrize("remember", ["inputs", "keys"])
@pytest.mark.parametrize(("law", "seed"), IN_SEGMENTS, ids=[f"{d[0]}-{i}" for i, d in enumerate(IN_SEGMENTS)])
def test_of_a_model_in_segments_the_attention_is_named(law: str, seed: Any, remember: str) -> None:
    model = transformer_xl(remember=remember)
    assert verdict(model, law).status == "pass"
    seed(model)
    found = verdict(model, law)
    assert (found.status, found.blame) == ("fail", ATTENTION)


def test_too_little_seen_of_the_memory_is_the_same_in_every_cut_and_only_the_law_of_segments_tells() -> None:
    model = transformer_xl()
    seeded.see_too_little_of_the_memory(model)
    assert verdict(model, "step by step equals whole").status == "pass"
    assert verdict(model, "segments equal whole").status == "fail"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (gpt2(), "its config has no segment_length"),
        (transformer_xl(memory_length=4), "its memory of 4 tokens covers no segment of 5"),
        (transformer_xl(segment_length=601, memory_length=601), "no law tries more than 600"),
    ],
)
def test_the_law_of_segments_says_where_it_has_nothing_to_say(model: nn.Module, reason: str) -> None:
    found = verdict(model, "segments equal whole")
    assert (found.status, reason in found.detail) == ("not applicable", True)


def test_every_law_has_a_defect_that_it_catches() -> None:
    caught_below = {"first loss near ln V", "the tokenizer fits", *(law for law, _ in IN_SEGMENTS)}
    assert {law for law, _, _ in DEFECTS} | caught_below == set(LAWS)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_mask_that_leaks_one_token_is_named_whichever_layer_it_is_in(build: Any, layer: int) -> None:
    model = build()
    seeded.leak_one_token(model, layer)
    report = certify(model, laws=["causal by perturbation", "causal by gradient"])
    assert [v.blame for v in report.failed] == [f"trunk.blocks.{layer}.attention"] * 2
    assert "moves the logits at position" in report.failed[0].detail


def test_a_leak_of_gradient_alone_is_seen_by_gradient_and_not_by_perturbation() -> None:
    model = gpt2()
    seeded.wrap_final_norm(seeded.Straight)(model)
    report = certify(model, laws=["causal by perturbation", "causal by gradient"])
    assert [v.name for v in report.failed] == ["causal by gradient"]


def test_a_leak_in_a_module_of_the_readers_own_is_named() -> None:
    model = Plain()
    model.past = Past(26, ahead=1)
    report = certify(model)
    assert {v.name: v.blame for v in report.failed} == {"causal by perturbation": "past", "causal by gradient": "past"}


def test_a_leak_between_modules_is_the_fault_of_the_module_that_calls_them() -> None:
    class Peeking(Plain):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embedding(input_ids)
            return self.out(self.norm(x + self.past(x) + x.roll(-1, 1)))

    assert verdict(Peeking(), "causal by perturbation").blame == "Peeking"


def test_zeros_in_a_fresh_model_hide_no_leak() -> None:
    model = gpt2()
    seeded.leak_one_token(model)
    for block in model.trunk.blocks:
        nn.init.zeros_(block["attention"].mix.linear.weight)
    assert verdict(model, "causal by perturbation").blame == ATTENTION


def test_a_model_that_does_not_read_its_input_breaks_the_laws_rather_than_keeping_them() -> None:
    class Deaf(Plain):
        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids * 0)

    report = certify(Deaf(), laws=["causal by perturbation", "causal by gradient", "rows independent"])
    assert len(report.failed) >= 2
    assert "does not read its input" in report.laws["causal by perturbation"].detail


def test_honest_dropout_breaks_no_law() -> None:
    model = gpt2()
    seeded.wrap_final_norm(seeded.HonestDropout)(model)
    assert certify(model).ok


def test_batch_norm_breaks_rows_and_modes() -> None:
    class Batched(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.batch_norm = nn.BatchNorm1d(26)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embedding(input_ids)
            return self.out(self.norm(self.batch_norm((x + self.past(x)).mT).mT))

    model = Batched()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = certify(model, laws=["rows independent", "training differs only by dropout", "causal by perturbation"])
    assert {v.name: v.blame for v in report.failed} == {
        "rows independent": "batch_norm",
        "training differs only by dropout": "batch_norm",
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_first_loss_far_from_ln_v_is_caught_and_the_loud_module_named() -> None:
    found = verdict(gpt2(init_std=2.0), "first loss near ln V")
    assert found.status == "fail"
    assert found.violation is not None
    assert found.violation > 1.0
    assert found.blame == "places.table" or (found.blame or "").startswith(("tokens", "trunk", "head"))


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_caught() -> None:
    class Tokenizer:
        special_tokens: ClassVar[dict[str, int]] = {"<|endoftext|>": 97}

        def __init__(self, vocab_size: int) -> None:
            self.vocab_size = vocab_size

        def encode(self, text: str) -> list[int]:
            return [ord(character) % self.vocab_size for character in text]

    found = verdict(gpt2(), "the tokenizer fits", tokenizer=Tokenizer(98))
    assert (found.status, found.violation) == ("fail", 1.0)
    assert verdict(gpt2(vocab_size=98), "the tokenizer fits", tokenizer=Tokenizer(98)).status == "pass"


def test_numbers_that_are_drawn_when_a_model_is_made_are_missed_on_loading() -> None:
    from formers.models.gpt2 import GPT2, GPT2Config

    class Drawing(GPT2):
        def __init__(self, config: GPT2Config, *, seed: int = 0) -> None:
            super().__init__(config, seed=seed)
            self.head = nn.Sequential(self.head, seeded.DrawnAnew(seed))

    found = verdict(Drawing(GPT2Config(**seeded.SIZES)), "save and load exact")
    assert (found.status, found.blame) == ("fail", "head.1")


def test_what_a_forward_raises_is_the_verdict() -> None:
    class Fussy(Plain):
        def forward(self, input_ids: Tensor) -> Tensor:
            if input_ids.shape[0] == 3:
                raise RuntimeError("three rows are one too many")
            return super().forward(input_ids)

    found = verdict(Fussy(), "rows independent")
    assert (found.status, "three rows are one too many" in found.detail) == ("fail", True)
