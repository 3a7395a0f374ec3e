"""The text of a training: what is recorded of it, and how it is evaluated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from formers import data, recipes
from formers.experiments.run import free_folder
from formers.experiments.text import Baselines, as_built, prepare, validation_view


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("text")
    for n in range(30):
        (root / f"{n}.txt").write_text("".join(f"line {n} {m}\n" for m in range(5 + 3 * n)))
    data.build(sorted(root.glob("*.txt")), root / "shards", tokenizer="byte", validation=0.2, seed=3, quiet=True)
    return root


def test_a_recipe_records_what_its_shards_were_really_built_with(folder: Path):
    recipe, shards = prepare(recipes.get("gpt2.nano"), folder=folder / "shards")
    assert recipe.data.tokenizer == "byte"
    assert recipe.data.vocab_size is None
    assert (recipe.data.validation, recipe.data.split_seed) == (0.2, 3)
    assert len(recipe.data.sources) == 30
    assert as_built(recipe, shards) == recipe


def test_files_are_built_once_and_cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORMERS_CACHE", str(tmp_path))
    recipe = recipes.get("gpt2.nano")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, tokenizer="byte", vocab_size=None))
    first, second = (prepare(recipe, files=[str(folder / "7.txt")], quiet=True)[1].folder for _ in range(2))
    assert first == second
    assert first.is_relative_to(tmp_path)


@pytest.mark.parametrize("carried", [False, True])
def test_an_evaluation_scores_every_token_once_in_whatever_order(folder: Path, carried: bool):
    shards = data.open_shards(folder / "shards")
    view = validation_view(shards, batch_size=3, seq_len=16, carried=carried)
    batches = [view.batch(step) for step in range(len(view))]
    scored = np.concatenate([np.sort(batch.targets[batch.targets >= 0]) for batch in batches])
    rows = shards.rows("validation")
    expected = np.concatenate([shards.document_tokens(int(row))[1:] for row in rows])
    assert np.array_equal(np.sort(scored), np.sort(expected))
    assert sum(batch.bytes for batch in batches) == sum(
        int(shards.token_bytes[shards.document_tokens(int(r))[1:]].sum()) for r in rows
    )


def test_the_first_batches_of_an_evaluation_are_spread_over_all_documents(folder: Path):
    shards = data.open_shards(folder / "shards")
    view = validation_view(shards, batch_size=2, seq_len=16, carried=False)
    again = validation_view(shards, batch_size=2, seq_len=16, carried=False)
    first = [view.batch(step).document.max() for step in range(len(view))]
    assert first == [again.batch(step).document.max() for step in range(len(view))]
    assert first != sorted(first)


def test_baselines_are_those_of_the_same_bytes(folder: Path):
    shards = data.open_shards(folder / "shards")
    assert Baselines(shards).values == {
        "gzip_bits_per_byte": data.gzip_bits_per_byte(shards),
        "unigram_bits_per_byte": data.unigram_bits_per_byte(shards),
    }


def test_the_next_folder_is_free_and_safe_to_name(tmp_path: Path):
    assert free_folder("gpt2.tiny", tmp_path) == tmp_path / "gpt2.tiny-1"
    (tmp_path / "gpt2.tiny-1").mkdir()
    assert free_folder("gpt2.tiny", tmp_path) == tmp_path / "gpt2.tiny-2"
    assert free_folder("../a b/c", tmp_path).parent == tmp_path
