"""Recipes: found by name without torch, to JSON and back, and built as they say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from formers import recipes
from formers.errors import ConfigError, RunError, TargetError
from formers.models.gpt2 import GPT2Config
from formers.recipes import DataSettings, Recipe, TrainSettings, with_seed


def test_names_cost_no_torch():
    code = "import sys; from formers import recipes; assert 'gpt2.tiny' in recipes.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_named_as_it_is_called_and_fits_itself(name: str):
    recipe = recipes.get(name)
    assert recipe.name == name
    assert recipe.architecture == name.partition(".")[0]
    if recipe.model.max_length is not None:
        assert recipe.train.seq_len <= recipe.model.max_length
    if recipe.train.carry_state and not recipe.from_init:
        learnt_from_the_next = {"block_recurrent": "block_length", "melodi": "segment_length"}
        size = getattr(recipe.model, learnt_from_the_next.get(recipe.architecture, "segment_length"))
        assert recipe.train.seq_len % size == 0
        assert (recipe.train.seq_len > size) == (recipe.architecture in learnt_from_the_next)
    if recipe.data.tokenizer == "bpe":
        assert recipe.model.vocab_size == recipe.data.vocab_size


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_goes_to_json_and_back(name: str):
    recipe = recipes.get(name)
    stored = json.loads(json.dumps(recipe.to_json()))
    assert Recipe.from_json(stored, type(recipe.model)) == recipe


@pytest.mark.parametrize("name", recipes.names())
def test_no_setting_is_left_out_of_what_is_stored(name: str):
    """A class attribute without an annotation looks like a setting, works like one, and is not stored."""
    recipe = recipes.get(name)
    for settings in (recipe, recipe.model, recipe.data, recipe.train):
        stored = {field.name for field in dataclasses.fields(settings)}
        plain = (bool, int, float, str, tuple)
        own = {n for kind in type(settings).__mro__[:-1] for n, v in vars(kind).items() if isinstance(v, plain)}
        told = {n for kind in type(settings).__mro__[:-1] for n in getattr(kind, "__annotations__", {})}
        assert {n for n in own if not n.startswith("_")} <= stored | told


@pytest.mark.parametrize(("typed", "meant"), [("gpt2.tniy", "gpt2.tiny"), ("lama.nano", "llama.nano")])
def test_an_unknown_name_gets_a_suggestion(typed: str, meant: str):
    with pytest.raises(TargetError, match=f"did you mean '{meant}'"):
        recipes.get(typed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"stepz": 3}}, "did you mean 'steps'"),
        ({"train": {"steps": "many"}}, "wanted int"),
        ({"data": {"view": "window"}}, "'windows'"),
        ({"model": {"num_layer": 3}}, "did you mean 'num_layers'"),
    ],
)
def test_a_misspelled_or_ill_typed_field_is_refused_with_a_suggestion(change: dict, said: str):
    stored = recipes.get("gpt2.nano").to_json()
    for part, values in change.items():
        stored[part] = stored[part] | values
    with pytest.raises(ConfigError, match=said):
        Recipe.from_json(stored, GPT2Config)


@pytest.mark.parametrize(
    "settings",
    [
        {"sources": ()},
        {"validation": 0.0},
        {"validation": 1.0},
        {"view": "sideways"},
        {"view": "streams", "longest": 0},
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(settings: dict):
    with pytest.raises(ConfigError):
        DataSettings(**settings)


def test_a_state_is_carried_only_where_rows_go_on():
    with pytest.raises(ConfigError, match="streams"):
        Recipe("x", GPT2Config(), DataSettings(view="windows"), TrainSettings(carry_state=True))
    Recipe("x", GPT2Config(), DataSettings(view="streams"), TrainSettings(carry_state=True))


def test_a_seed_moves_all_but_the_split():
    recipe = with_seed(recipes.get("gpt2.nano"), 7)
    assert (recipe.seed, recipe.data.seed, recipe.train.seed, recipe.data.split_seed) == (7, 7, 7, 0)


def test_a_model_is_drawn_from_the_recipes_seed_with_the_tokenizers_vocabulary():
    recipe = recipes.get("gpt2.nano")
    first, again = (recipe.build(vocab_size=100).state_dict() for _ in range(2))
    other = dataclasses.replace(recipe, seed=1).build(vocab_size=100).state_dict()
    assert first["tokens.weight"].shape[0] == 100
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])


OWN = """
from dataclasses import dataclass
import torch
from formers.recipes import Recipe

@dataclass(frozen=True)
class Config:
    vocab_size: int = 11
    def build(self, seed=0):
        torch.manual_seed(seed)
        return torch.nn.Linear(3, self.vocab_size)

def recipe():
    return Recipe("own", Config())
"""


def test_a_function_of_ones_own_is_a_recipe_like_any_other(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN)
    target = f"{tmp_path}/own.py:recipe"
    recipe = recipes.get(target)
    assert recipe.code == target
    assert recipe.architecture == "Config"
    assert recipe.build(vocab_size=5).out_features == 5


def test_a_run_of_ones_own_code_is_read_back_only_when_the_code_is_named(tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN)
    target = f"{tmp_path}/own.py:recipe"
    (tmp_path / "recipe.json").write_text(json.dumps(recipes.get(target).to_json()))
    with pytest.raises(TargetError, match="when you name it"):
        recipes.read(tmp_path)
    assert recipes.read(tmp_path, code=target).model.vocab_size == 11


@pytest.mark.parametrize("content", [None, "", "{", "3"])
def test_a_folder_without_a_whole_recipe_is_no_run(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(RunError, match=r"recipe\.json"):
        recipes.read(tmp_path)
