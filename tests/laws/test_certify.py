"""What certify says of models that are right, of models it knows nothing about, and how it says it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import formers
from formers.errors import ConfigError, TargetError
from formers.laws import LAWS, Case, Verdict, certify, show
from tests.laws.subjects import Plain, gpt2, leak_one_token, llama, transformer_xl

ALWAYS = {
    "causal by perturbation",
    "causal by gradient",
    "rows independent",
    "finite in bf16",
    "every parameter gets a gradient",
}


@pytest.mark.parametrize("build", [gpt2, llama])
def test_the_built_in_models_keep_every_law(build: Any) -> None:
    report = formers.certify(build())
    assert report.ok, report.failed
    silent = {v.name for v in report.laws.values() if v.status != "pass"}
    assert silent == {"the tokenizer fits", "segments equal whole"}


@pytest.mark.parametrize("changes", [{}, {"remember": "keys", "norm": "pre", "untie": True}])
def test_a_model_in_segments_keeps_theirs_too(changes: dict[str, Any]) -> None:
    report = formers.certify(transformer_xl(**changes), length=19)
    assert report.ok, report.failed
    assert {v.name for v in report.laws.values() if v.status != "pass"} == {"the tokenizer fits"}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_laws_hold_for_other_random_inputs_too(seed: int) -> None:
    assert certify(llama(num_kv_heads=1, attention_bias=True, tie=False), seed=seed).ok


def test_of_any_module_the_minimum_is_tried_and_what_it_lacks_is_no_pass() -> None:
    report = certify(Plain())
    assert report.ok
    assert {name for name in ALWAYS if report.laws[name].status == "pass"} == ALWAYS
    padding = report.laws["padding changes nothing"]
    assert (padding.status, padding.violation) == ("not applicable", None)
    assert padding.detail == "no padding: its forward takes input_ids alone"
    assert report.laws["first loss near ln V"].detail.startswith("trained weights")


def test_a_module_that_is_said_to_be_fresh_is_asked_for_its_first_loss() -> None:
    assert certify(Plain(), laws=["first loss near ln V"], fresh=True).laws["first loss near ln V"].status == "pass"


def test_the_model_is_left_as_it_was() -> None:
    model = gpt2().train()
    model.trunk.blocks[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_before, threads = torch.get_rng_state(), torch.get_num_threads()
    certify(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(random_before, torch.get_rng_state())
    assert torch.get_default_dtype() is torch.float32
    assert torch.get_num_threads() == threads


def test_one_seed_gives_one_report_whichever_laws_are_tried() -> None:
    model = gpt2()
    leak_one_token(model)
    some = ["causal by perturbation", "causal by gradient", "padding changes nothing", "save and load exact"]
    whole, again = certify(model, seed=5, laws=some), certify(model, seed=5, laws=some)
    alone = certify(model, seed=5, laws=["causal_by-gradient"])
    assert whole.to_dict() == again.to_dict()
    assert alone.laws["causal by gradient"].to_dict() == whole.laws["causal by gradient"].to_dict()
    assert certify(model, seed=6, laws=some).to_dict() != whole.to_dict()


def test_a_bidirectional_model_is_asked_for_no_causality() -> None:
    class Both(Plain):
        causal = False

        def forward(self, input_ids: Tensor) -> Tensor:
            return super().forward(input_ids) + super().forward(input_ids.flip(1)).flip(1)

    report = certify(Both())
    assert report.ok
    assert report.laws["causal by perturbation"].status == "not applicable"
    assert "bidirectional" in report.laws["causal by gradient"].detail


def test_an_exception_is_named_with_its_reason() -> None:
    model = gpt2()
    leak_one_token(model)
    model.law_exceptions = {"causal by perturbation": "hashing decides who sees whom"}
    verdict = certify(model, laws=["causal by perturbation"]).laws["causal by perturbation"]
    assert (verdict.status, verdict.detail) == (
        "not applicable",
        "the model excepts itself: hashing decides who sees whom",
    )


@pytest.mark.parametrize("exceptions", [{"causal by perturbatoin": "a reason"}, {"rows independent": " "}])
def test_an_exception_from_no_law_or_without_a_reason_is_refused(exceptions: dict[str, str]) -> None:
    model = gpt2()
    model.law_exceptions = exceptions
    with pytest.raises(ConfigError, match="law_exceptions of GPT2"):
        certify(model)


def test_a_misspelled_law_gets_a_suggestion() -> None:
    with pytest.raises(TargetError, match="did you mean 'rows independent'"):
        certify(Plain(), laws=["rows independant"])


class Wrong(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.weight, self.output = nn.Parameter(torch.ones(1)), output

    def forward(self, input_ids: Tensor) -> Any:
        return self.output(input_ids)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda ids: {"hidden": 1}, "a tensor of logits"),
        (lambda ids: torch.zeros(2, 7), "floating logits"),
        (lambda ids: torch.zeros(*ids.shape, 1), "a vocabulary of 1"),
    ],
)
def test_what_is_no_language_model_is_refused(output: Any, message: str) -> None:
    with pytest.raises(formers.FormersError, match=message):
        certify(Wrong(output))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TargetError, match=r"wanted: a torch.nn.Module"):
        certify("gpt2")  # type: ignore[arg-type]


def test_logits_may_be_an_attribute_and_the_width_tells_the_vocabulary() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Wrapping(Plain):
        def forward(self, input_ids: Tensor) -> Any:
            return Output(super().forward(input_ids))

    assert certify(Wrapping(vocab_size=11)).ok


class OfTorch(Plain):
    """Torch's own layers, whose dropout is an argument of a fused function."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        del self.past
        self.mixer = mixer

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        if isinstance(self.mixer, nn.GRU):
            return self.out(self.norm(self.mixer(x)[0]))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.out(self.norm(self.mixer(x, src_mask=mask, is_causal=True)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.TransformerEncoderLayer(26, 2, 53, dropout=0.2, batch_first=True),
        lambda: nn.GRU(26, 26, 2, dropout=0.2, batch_first=True),
    ],
)
def test_layers_of_torch_keep_every_law_that_applies_to_them(make: Any) -> None:
    report = certify(OfTorch(make()))
    assert report.ok, report.failed


def test_a_text_may_run_along_the_first_axis_inside() -> None:
    class TimeFirst(OfTorch):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embedding(input_ids.T)
            return self.out(self.norm(self.mixer(x)[0])).transpose(0, 1)

    report = certify(TimeFirst(nn.GRU(26, 26)))
    assert report.ok, report.failed
    assert report.laws["causal by gradient"].status == "pass"


def test_a_model_that_cannot_run_in_float64_is_tried_in_float32_and_it_is_said() -> None:
    class Narrow(Plain):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embedding(input_ids)
            mixed = torch.ones(x.shape[1], x.shape[1], dtype=torch.float32).tril() @ x
            return self.out(self.norm(x + mixed / 31))

    report = certify(Narrow(), laws=["causal by perturbation", "rows independent"])
    assert report.ok
    assert any("does not run in float64" in note for note in report.notes)


def test_a_model_that_computes_in_float32_inside_is_given_its_rounding_and_it_is_said() -> None:
    model = llama()
    norm = model.trunk.final_norm
    model.trunk.final_norm = nn.Sequential(norm, _Rounded())
    report = certify(model, laws=["step by step equals whole"])
    verdict = report.laws["step by step equals whole"]
    assert (verdict.status, verdict.tolerance) == ("pass", 5e-6)
    assert any("computes in float32 inside" in note for note in report.notes)


class _Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float32).to(x.dtype)


def test_parameters_that_may_not_be_shaken_are_left_alone() -> None:
    class Steep(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.decay = nn.Parameter(torch.full((26,), 0.125))

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embedding(input_ids)
            return self.out(self.norm(x + self.past(x) + (self.decay - 0.125).abs() * 1e308 * 1e308))

    report = certify(Steep(), laws=["causal by perturbation"])
    assert any("not finite" in note for note in report.notes)


def test_texts_are_prime_and_reach_beyond_windows() -> None:
    from formers.parts.masks import Causal, Window

    model = gpt2(max_length=211)
    assert Case.of(model).trial.length == 31
    model.trunk.blocks[1]["attention"].score.mask = Causal() & Window(120)
    assert Case.of(model).trial.length == 127
    assert Case.of(gpt2(max_length=11)).trial.length == 11
    assert Case.of(gpt2(d_ff=31)).trial.length == 37


def test_verdicts_come_one_by_one_for_a_caller_that_shows_progress() -> None:
    seen: list[Verdict] = []
    report = certify(Plain(), progress=seen.append)
    assert seen == list(report.laws.values())
    assert [v.name for v in seen] == list(LAWS)
    assert next(Case.of(Plain()).verdicts()).name == next(iter(LAWS))


def test_the_certificate_is_json_of_the_agreed_form() -> None:
    model = gpt2()
    leak_one_token(model)
    stored = json.loads(
        json.dumps(certify(model, target="mine", laws=["causal by perturbation"]).to_dict(), allow_nan=False)
    )
    assert (stored["target"], stored["ok"]) == ("mine", False)
    first = stored["laws"][0]
    assert set(first) == {"name", "status", "violation", "tolerance", "blame", "detail"}
    assert (first["status"], first["tolerance"], first["blame"]) == ("fail", 0.0, "trunk.blocks.1.attention")


def test_the_table_shows_law_verdict_and_blame() -> None:
    model = gpt2()
    leak_one_token(model)
    console = Console(width=140, record=True, file=io.StringIO())
    show(certify(model, laws=["causal by perturbation", "rows independent", "the tokenizer fits"]), console)
    text = console.export_text()
    assert "BROKEN" in text
    assert "trunk.blocks.1.attention: changing token" in text
    assert "1 laws hold, 1 broken, 1 not applicable" in text
