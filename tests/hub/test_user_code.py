from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.errors import TargetError
from formers.hub import resolve, user_code

OWN = """
from dataclasses import dataclass
import torch
from torch import nn
import beside

class Bigram(nn.Module):
    def __init__(self, vocab=11):
        super().__init__()
        self.table = nn.Embedding(vocab, vocab)

    def forward(self, input_ids):
        return self.table(input_ids)

@dataclass(frozen=True)
class Config:
    vocab_size: int = 11
    def build(self, seed=0):
        model = Bigram(self.vocab_size)
        model.config = self
        return model

class Recipe:
    model = Config(13)

def module(): return Bigram()
def config(): return Config()
def recipe(): return Recipe()
def built_in():
    from formers.models import registry
    return registry.configure("gpt2", "nano", num_layers=1)
def number(): return 7
def wants(size, *, depth, width=3): return Bigram()
def fails():
    table = {}
    return table["missing"]  # this very line
def leaves(): raise SystemExit(3)
THING = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("VALUE = 1\n")
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.mark.parametrize("name", ["module", "config", "recipe", "built_in", "Bigram"])
def test_a_function_may_return_a_module_a_config_or_a_recipe(name: str, own: Path) -> None:
    found = resolve(f"{own}:{name}", seed=5)
    assert (found.kind, found.fresh, found.tokenizer, found.recipe) == ("code", True, None, None)
    out = found.model(torch.tensor([[1, 2, 3]]))
    assert getattr(out, "logits", out).shape[:2] == (1, 3)


def test_the_seed_draws_the_weights_and_leaves_the_callers_random_numbers_alone(own: Path) -> None:
    before = torch.get_rng_state()
    a, b, c = (resolve(f"{own}:module", seed=seed).model.table.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_stored_settings_take_the_place_of_a_configs_own(own: Path) -> None:
    code = f"{own}:config"
    model: Any = user_code.rebuild("a folder", code, None, {"vocab_size": 17})
    assert model.table.weight.shape == (17, 17)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("own.py:modul", "has no function 'modul'(.|\n)*did you mean 'module'"),
        ("own.py:zzz", "it has Bigram, Config, Recipe, module"),
        ("own.py", "does not say which function(.|\n)*own.py:Bigram"),
        ("own.py:THING", "THING of .* is a int"),
        ("own.py:number", r"number gives int \(7\)(.|\n)*config with build"),
        ("own.py:wants", "needs size, depth"),
        ("own.py:leaves", "stopped with SystemExit: 3"),
        ("won.py:module", "there is no file .*won.py(.|\n)*did you mean 'own.py'"),
        ("nowhere/own.py:module", "there is no file"),
    ],
)
def test_what_is_wrong_with_a_target_is_one_clear_error(target: str, says: str, own: Path) -> None:
    with pytest.raises(TargetError, match=says):
        resolve(f"{own.parent / target}")


def test_an_error_inside_the_function_shows_the_users_line(own: Path) -> None:
    line = OWN.splitlines().index('    return table["missing"]  # this very line') + 1
    with pytest.raises(TargetError, match=f"KeyError: 'missing'\n.*own.py:{line}: return table.*this very line"):
        resolve(f"{own}:fails")


def test_an_error_at_import_shows_the_users_line(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("import torch\n\nvalue = undefined_name\n")
    with pytest.raises(TargetError, match=r"NameError.*\n.*own.py:3: value = undefined_name"):
        resolve(f"{path}:model")
    path.write_text("def model(:\n    pass\n")
    with pytest.raises(TargetError, match=r"SyntaxError.*\n.*own.py:1: def model"):
        resolve(f"{path}:model")


def test_a_changed_file_is_read_anew(own: Path) -> None:
    assert resolve(f"{own}:module").model.table.num_embeddings == 11
    own.write_text(OWN.replace("vocab=11", "vocab=1009"))
    assert resolve(f"{own}:module").model.table.num_embeddings == 1009


# --- what was made by code of the user's ----------------------------------------------------------------------------------


def test_a_folder_never_brings_code_of_its_own(own: Path, tmp_path: Path) -> None:
    code = f"{own}:config"
    model = resolve(code, seed=3).model
    folder = formers.save(model, tmp_path / "saved", code=user_code.record(code))
    with pytest.raises(TargetError, match=f"add --code {code}, or in Python formers.load(.|\n)*code='{code}'"):
        formers.load(folder)
    again = formers.load(folder, code=code)
    assert torch.equal(again.table.weight, model.table.weight)


def test_code_that_has_changed_since_is_warned_of(own: Path, tmp_path: Path) -> None:
    code = f"{own}:config"
    folder = formers.save(resolve(code).model, tmp_path / "saved", code=user_code.record(code))
    own.write_text(OWN + "\n# changed\n")
    with pytest.warns(UserWarning, match="has changed since"):
        formers.load(folder, code=code)


def test_a_subclass_of_a_built_in_model_is_not_saved_as_the_built_in_one(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from formers.models.gpt2 import GPT2, GPT2Config\n"
        "class Mine(GPT2): pass\n"
        "def model(): return Mine(GPT2Config(vocab_size=7, d_model=8, num_heads=2, num_layers=1, max_length=5))\n"
    )
    model = resolve(f"{path}:model").model
    folder = formers.save(model, tmp_path / "saved")
    with pytest.raises(TargetError, match="was made by code of yours"):
        formers.load(folder)
    again = formers.load(folder, code=f"{path}:model")
    assert type(again).__name__ == "Mine"
    assert again.head.linear.weight is again.tokens.weight
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_weights_that_do_not_fit_the_users_model_are_listed(own: Path, tmp_path: Path) -> None:
    folder = formers.save(resolve(f"{own}:module").model, tmp_path / "saved")
    own.write_text(OWN.replace("vocab=11", "vocab=5").replace("self.table", "self.rows"))
    with pytest.raises(ValueError, match=r"missing rows.weight(.|\n)*unknown table.weight"):
        formers.load(folder, code=f"{own}:module")
    own.write_text(OWN.replace("vocab=11", "vocab=5"))
    with pytest.raises(ValueError, match=r"table.weight is \(11, 11\), the model's is \(5, 5\)"):
        formers.load(folder, code=f"{own}:module")
