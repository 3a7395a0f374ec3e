from __future__ import annotations

import copy
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import formers
from formers.errors import ConfigError, TargetError
from formers.hub import diff, resolve
from tests.hub.defects import exact_gelu, exchange_norms, missing_scale, why
from tests.hub.models import small

# --- no difference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_equal_models_have_no_difference(name: str) -> None:
    report = diff(small(name), small(name))
    assert report.same
    assert report.causes == ()
    assert min(kind.pairs for kind in (report.weights, report.activations, report.logits, report.gradients)) > 0


def test_the_models_and_the_callers_random_numbers_are_left_as_they_were() -> None:
    a, b = small("gpt2").train(), small("gpt2")
    missing_scale(b)
    before = copy.deepcopy(b.state_dict()), torch.get_rng_state()
    diff(a, b)
    assert a.training
    assert a.tokens.weight.dtype == torch.float32
    assert a.tokens.weight.grad is None
    assert b.trunk.blocks[0]["attention"].score.scale == 1.0
    assert all(torch.equal(before[0][name], tensor) for name, tensor in b.state_dict().items())
    assert torch.equal(before[1], torch.get_rng_state())


def test_rotary_positions_from_another_start_are_equivalent() -> None:
    class Late(type(small("llama"))):
        def run(self, input_ids: Any, positions: Any, state: Any) -> Any:
            place = positions.index + 1
            return super().run(input_ids, dataclasses.replace(positions, place=place, start=None), state)

    a, b = small("llama"), small("llama")
    b.__class__ = Late
    report = diff(a, b)
    assert why(report) == ["equivalent"]
    assert report.activations.first is not None
    assert report.activations.first.name == "trunk.blocks.0.attention.turn"


# --- checkpoints ------------------------------------------------------------------------------------------------------------


def test_the_first_weight_that_differs_is_named_and_the_code_acquitted() -> None:
    a, b = small("gpt2"), small("gpt2")
    with torch.no_grad():
        b.trunk.blocks[1]["feed_forward"].expand.weight[3, 5] += 1e-3
    report = diff(a, b)
    assert (report.weights.differ, report.logits.differ) == (1, 1)
    assert report.weights.first is not None
    assert report.weights.first.name == "trunk.blocks.1.feed_forward.expand.weight"
    assert report.weights.first.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert why(report) == ["weights"]
    assert report.causes[0].complete


def transpose_stored(model: Any) -> None:
    weight = model.trunk.blocks[1]["attention"].mix.linear.weight
    weight.data = weight.data.T.contiguous()


def zero_stored_bias(model: Any) -> None:
    model.trunk.blocks[1]["attention"].mix.linear.bias.data.zero_()


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (transpose_stored, "transposed", "transpose of A's"),
        (zero_stored_bias, "bias", "is all zero in B"),
        (exchange_norms, "swapped", "in each other's place"),
    ],
)
def test_a_checkpoint_that_was_converted_wrongly_is_explained(change: Any, kind: str, says: str) -> None:
    a, b = small("gpt2"), small("gpt2")
    change(b)
    report = diff(a, b)
    assert why(report)[0] == kind
    assert says in report.causes[0].text
    assert why(report)[-1] == "weights"


def test_settings_that_differ_are_listed() -> None:
    report = diff(small("gpt2"), small("gpt2", activation="gelu", eps=1e-6))
    assert report.settings == {"activation": ("gelu_tanh", "gelu"), "eps": (1e-5, 1e-6)}
    assert sorted(why(report)) == ["epsilon", "gelu"]


def test_models_of_different_sizes_are_compared_as_far_as_they_go() -> None:
    a, b = small("gpt2"), small("gpt2", d_ff=59, num_layers=1)
    stored = {
        name: tensor for name, tensor in a.state_dict().items() if "expand" not in name and "contract" not in name
    }
    b.load_state_dict({name: tensor for name, tensor in stored.items() if ".1." not in name}, strict=False)
    report = diff(a, b)
    assert report.weights.first is not None
    assert report.weights.first.name == "trunk.blocks.0.feed_forward.expand.weight"
    assert report.weights.first.where == "(53, 26) in A, (59, 26) in B"
    assert report.activations.first is not None
    assert report.activations.first.name == "trunk.blocks.0.feed_forward.expand"
    assert "trunk.norms.1.attention.weight" in report.weights.only_a
    assert not report.same


# --- fresh models, the user's own, transformers ------------------------------------------------------------------------------

PLAIN = """
import math, torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(26), nn.LayerNorm(26)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = Conv1D(26, 78), Conv1D(26, 26)
        self.mlp.c_fc, self.mlp.c_proj = Conv1D(26, 53), Conv1D(53, 26)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (z.view(b, t, 2, 13).transpose(1, 2) for z in self.attn.c_attn(self.ln_1(x)).split(26, -1))
        score = q @ k.transpose(-1, -2) SCALE
        score = score.masked_fill(~torch.ones(t, t).tril().bool(), -torch.inf)
        x = x + self.attn.c_proj((score.softmax(-1) @ v).transpose(1, 2).reshape(b, t, 26))
        return x + self.mlp.c_proj(nn.functional.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="FORM"))

class Conv1D(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(rows, columns)), nn.Parameter(torch.zeros(columns))

    def forward(self, x):
        return x @ self.weight + self.bias

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        t = self.transformer = nn.Module()
        t.wte, t.wpe, t.h = nn.Embedding(263, 26), nn.Embedding(37, 26), nn.ModuleList([Block(), Block()])
        t.ln_f = nn.LayerNorm(26)

    def forward(self, input_ids):
        t = self.transformer
        x = t.wte(input_ids) + t.wpe(torch.arange(input_ids.shape[1]))
        for block in t.h:
            x = block(x)
        return t.ln_f(x) @ t.wte.weight.T

def model():
    return Own()
"""


def own(tmp_path: Path, scale: str = "/ math.sqrt(13)", form: str = "tanh") -> str:
    path = tmp_path / "own.py"
    path.write_text(PLAIN.replace("SCALE", scale).replace("FORM", form))
    return f"{path}:model"


def test_a_users_own_gpt2_in_plain_torch_is_compared_with_ours(tmp_path: Path) -> None:
    report = diff(small("gpt2"), own(tmp_path))
    assert report.same
    assert report.shared
    assert (report.weights.pairs, report.activations.pairs) == (28, 16)


@pytest.mark.parametrize(
    ("scale", "form", "kind", "says"),
    [
        ("", "tanh", "scale", "A has 0.2774, B 1 (no scale)"),
        ("/ 13", "tanh", "scale", "B 1/d_head"),
        ("/ math.sqrt(13)", "none", "gelu", "A has gelu_tanh, B gelu"),
    ],
)
def test_a_defect_in_plain_torch_is_found_by_changing_ours(
    scale: str, form: str, kind: str, says: str, tmp_path: Path
) -> None:
    report = diff(small("gpt2"), own(tmp_path, scale, form))
    assert why(report) == [kind]
    assert says in report.causes[0].text
    other_way = diff(own(tmp_path, scale, form), small("gpt2"), share=True)
    assert why(other_way) == [kind]


def test_two_fresh_models_are_given_the_same_random_weights(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("from formers.models import registry\ndef model(): return registry.configure('gpt2', 'nano')\n")
    report = diff("gpt2.nano", f"{path}:model", seed=1)
    assert report.same
    assert report.shared
    assert not diff("gpt2.nano", resolve("gpt2.nano", seed=1), share=False).same


def test_a_parameter_that_only_one_model_has_is_named(tmp_path: Path) -> None:
    target = own(tmp_path)
    path = Path(target.rpartition(":")[0])
    text = path.read_text().replace("t.ln_f = nn.LayerNorm(26)", "t.ln_f = nn.LayerNorm(26, bias=False)")
    path.write_text(text)
    report = diff(small("gpt2"), target)
    assert report.weights.only_a == ("trunk.final_norm.bias",)
    assert why(report) == ["bias"]
    assert report.causes[0].text == "B has no trunk.final_norm.bias"
    back = diff(target, small("gpt2"), share=True)
    assert back.weights.only_b == ("trunk.final_norm.bias",)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_our_model_equals_transformers_on_its_own_folder(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = formers.save(small(name), tmp_path / "m")
    for a, b in ((str(folder), f"transformers:{folder}"), (f"transformers:{folder}", str(folder))):
        report = diff(a, b)
        assert report.same
        assert report.weights.pairs == len(dict(small(name).named_parameters()))
        assert report.activations.pairs > 10


def test_a_defect_against_transformers_is_named_in_both_models_names(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = small("gpt2")
    folder = formers.save(model, tmp_path / "m")
    exact_gelu(model)
    report = diff(model, f"transformers:{folder}")
    assert report.activations.first is not None
    assert report.activations.first.name == "trunk.blocks.0.feed_forward.contract | transformer.h.0.mlp.c_proj"
    assert why(report) == ["gelu"]


# --- the report, and bad input ------------------------------------------------------------------------------------------------


def test_the_report_is_json_and_reads_well() -> None:
    a, b = small("gpt2"), small("gpt2", d_ff=59, eps=1e-6)
    report = diff(a, b)
    assert json.loads(json.dumps(report.to_dict()))["same"] is False
    console = Console(width=160, record=True, file=io.StringIO())
    exact_gelu(b := small("gpt2"))
    for each in (report, diff(a, b), diff(a, a)):
        console.print(each)
    text = console.export_text()
    for part in (
        "setting d_ff: 53 in A, 59 in B",
        "trunk.blocks.0.feed_forward.expand still agrees",
        "likely cause: activation: A has gelu_tanh, B gelu",
        "no difference",
    ):
        assert part in text


class Broken(nn.Module):
    def __init__(self, out: Any) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3), out

    def forward(self, input_ids: Tensor) -> Any:
        return self.out(self.table(input_ids))


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (lambda x: x @ torch.ones(5), r"cannot be run on input_ids \(2, 31\): "),
        (lambda x: None, "the model returns NoneType(.|\n)*logits"),
        (lambda x: x[0], r"the model returns a tensor \(31, 3\)"),
    ],
)
def test_a_model_that_gives_no_logits_is_one_clear_error(out: Any, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        diff(Broken(out), Broken(out))


def test_input_ids_that_fit_no_vocabulary_are_refused() -> None:
    model = small("gpt2")
    with pytest.raises(ConfigError, match=r"up to 263(.|\n)*ids from 0 to 262"):
        diff(model, model, input_ids=torch.tensor([[263, 0]]))
    with pytest.raises(ConfigError, match=r"integers \[batch, seq\]"):
        diff(model, model, input_ids=torch.zeros(3))
    with pytest.raises(ConfigError, match="does not say how many ids it knows"):
        diff(nn.Linear(2, 2), model)
    assert diff(model, model, input_ids=torch.tensor([[1, 2, 3]])).input_shape == (1, 3)
