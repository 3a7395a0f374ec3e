"""Architectures that Hugging Face has no class for: our settings and our tensor names, everywhere a model goes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

import formers
from formers.config import to_dict
from formers.errors import ConfigError, WeightsError
from formers.hub.differences import randomise
from formers.models import gpt2, registry
from tests.hub.models import small, tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 263,
    "num_layers": 2,
    "max_length": 37,
    "d_ff": 53,
    "d_model": 26,
    "num_heads": 2,
}


@dataclass(frozen=True)
class OddConfig(gpt2.GPT2Config):
    architecture: ClassVar[str] = "odd"

    oddness: float = 0.5


class Odd(gpt2.GPT2):
    """A decoder of ours alone. Its module has neither `weights` nor `activations`, which only references need."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("formers_odd_for_tests")
    vars(module).update(CONFIG=OddConfig, MODEL=Odd, PRESETS={"nano": SIZES}, FOREIGN=None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = registry.Spec("odd", module.__name__, "none", 2026, "for tests", "none")
    monkeypatch.setattr(registry, "_SPECS", (*registry._SPECS, spec))


def odd(seed: int = 3, **changes: Any) -> Any:
    model = formers.build("odd", "nano", **changes)
    randomise(model, seed)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return formers.save(odd(oddness=0.25), tmp_path / "odd", tokenizer=tokenizer())


def edit(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["formers"] |= changes
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_saved_and_loaded_it_is_bit_identical(tie: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = odd(tie=tie).to(dtype)
    again = formers.load(formers.save(model, tmp_path / "m"))
    assert (type(again), again.config, again.training) == (Odd, model.config, False)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in again.state_dict().items())
    assert (again.head.linear.weight is again.tokens.weight) == tie


def test_config_json_holds_our_settings_under_our_name(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == "formers-odd"
    assert settings["formers"]["architecture"] == "odd"
    assert settings["formers"]["config"] == to_dict(odd(oddness=0.25).config)


def test_transformers_refuses_the_folder_rather_than_guessing(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="formers-odd"):
        transformers.AutoConfig.from_pretrained(folder)


def test_settings_that_are_unknown_or_ill_typed_are_one_error(folder: Path) -> None:
    edit(folder, config=to_dict(odd().config) | {"odness": 1.0, "d_model": "wide"})
    with pytest.raises(ConfigError, match=r"unknown setting 'odness' \(did you mean 'oddness'.*d_model is 'wide'"):
        formers.load(folder)


def test_an_architecture_that_this_version_does_not_know_is_refused(folder: Path) -> None:
    edit(folder, architecture="odder", config={})
    with pytest.raises(formers.FormersError, match="odd"):
        formers.load(folder)


def test_a_config_that_names_no_model_is_told_ours_too(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="formers-odd"):
        formers.load(folder)
    (folder / "config.json").write_text('{"model_type": "formers-od"}')
    with pytest.raises(ConfigError, match="no settings under 'formers'"):
        formers.load(folder)


def test_tensors_that_do_not_fit_are_one_error(folder: Path) -> None:
    edit(folder, config=to_dict(odd(num_layers=3, d_ff=59).config))
    with pytest.raises(WeightsError, match=r"(?s)missing trunk.blocks.2.*is \(53"):
        formers.load(folder)


def test_a_run_and_its_checkpoint_are_targets(folder: Path, tmp_path: Path) -> None:
    model, run = odd(), tmp_path / "run"
    formers.save(model, run / "model")
    recipe = {"name": "odd.nano", "architecture": "odd", "model": to_dict(model.config)}
    (run / "recipe.json").write_text(json.dumps(recipe))
    step = run / "checkpoints" / "step-1"
    step.mkdir(parents=True)
    (step / "checkpoint.json").write_text("{}")
    (step / "model.safetensors").write_bytes((run / "model" / "model.safetensors").read_bytes())
    for target in (run, step):
        assert type(formers.load(target)) is Odd
        assert formers.load(target, oddness=0.9).config.oddness == 0.9


def test_diff_names_what_differs_between_two_of_one_kind(folder: Path) -> None:
    other = odd(oddness=0.25)
    assert formers.diff(str(folder), other).same
    with torch.no_grad():
        other.trunk.blocks[1]["feed_forward"].contract.weight[0, 0] += 1
    report = formers.diff(str(folder), other)
    assert report.weights.first is not None
    assert report.activations.first is not None
    assert report.weights.first.a == "trunk.blocks.1.feed_forward.contract.weight"
    assert report.activations.first.a == "trunk.blocks.1.feed_forward.contract"


@pytest.mark.parametrize("swapped", [False, True])
def test_diff_with_another_architecture_goes_by_equal_names(swapped: bool) -> None:
    pair = [odd(), small("gpt2")]
    report = formers.diff(*(pair[::-1] if swapped else pair))
    assert report.activations.pairs > 0
    assert report.same  # drawn alike


def test_the_laws_build_it_anew_as_they_do_any_other() -> None:
    report = formers.certify(odd(), laws=["save and load exact", "first loss near ln V"], fresh=False)
    assert report.laws["save and load exact"].status == "pass"
    assert "built anew" in report.laws["save and load exact"].detail


# --- settings changed while loading --------------------------------------------------------------------------------------


def test_settings_that_no_weight_depends_on_are_changed_while_loading(folder: Path) -> None:
    assert formers.load(folder, oddness=0.75).config == odd(oddness=0.75).config
    assert formers.load(folder).config.oddness == 0.25


def test_the_folder_of_a_reference_takes_changes_too(tmp_path: Path) -> None:
    folder = formers.save(small("gpt2"), tmp_path / "gpt2")
    assert formers.load(folder, dropout=0.5).config.dropout == 0.5


def test_changes_that_the_weights_do_not_fit_or_nobody_knows_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit the model"):
        formers.load(folder, d_ff=59)
    with pytest.raises(ConfigError, match=r"unknown setting 'odness' \(did you mean 'oddness'"):
        formers.load(folder, odness=1.0)


def test_a_model_of_the_users_own_code_is_changed_in_its_code(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import formers\ndef model(seed=0): return formers.build('odd', 'nano')\n")
    with pytest.raises(ConfigError, match="change the code"):
        formers.hub.resolve(f"{tmp_path}/own.py:model", changes={"oddness": 1.0})
