"""Weights in one file or in shards, in a folder of their own or beside other files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import formers
from formers.errors import ConfigError
from formers.hub.files import byte_size
from formers.hub.saving import save_beside
from formers.text import train_tokenizer
from tests.hub.models import small

INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model*.safetensors"))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_shards_there_and_back_are_bit_identical(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = small(name).to(dtype)
    folder = formers.save(model, tmp_path / "m", max_shard_size="9KB")
    count = len(shards(folder))
    assert count > 2
    assert shards(folder) == [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    assert same(model.state_dict(), formers.load(folder).state_dict())
    again = formers.save(formers.load(folder), tmp_path / "again", max_shard_size="9KB")
    assert all((again / file).read_bytes() == (folder / file).read_bytes() for file in [*shards(folder), INDEX])


def test_no_shard_is_beyond_the_size_but_one_of_a_single_tensor(tmp_path: Path) -> None:
    folder = formers.save(small("gpt2"), tmp_path / "m", max_shard_size=12_000)
    sizes = [[tensor.nbytes for tensor in load_file(folder / file).values()] for file in shards(folder)]
    assert all(sum(each) <= 12_000 or len(each) == 1 for each in sizes)
    assert any(sum(each) > 12_000 for each in sizes)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(map(sum, sizes))
    homes = {name: file for file in shards(folder) for name in load_file(folder / file)}
    assert index["weight_map"] == homes


def test_transformers_opens_our_shards(tmp_path: Path) -> None:
    model = small("gpt2")
    folder = formers.save(model, tmp_path / "m", max_shard_size="20KB")
    theirs, said = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    ours, index = (json.loads((at / INDEX).read_text()) for at in (folder, tmp_path / "theirs"))
    assert ours["weight_map"].keys() == index["weight_map"].keys()
    assert ours["metadata"] == index["metadata"]


def test_a_folder_of_shards_is_replaced_by_one_file_and_back(tmp_path: Path) -> None:
    for size, is_one in (("9KB", False), ("1MB", True), ("9KB", False)):
        folder = formers.save(small("gpt2"), tmp_path / "m", max_shard_size=size)
        assert (shards(folder) == ["model.safetensors"]) == is_one
        assert (folder / INDEX).exists() != is_one


@pytest.mark.parametrize(
    ("size", "number"),
    [(1000, 1000), ("1000", 1000), ("2KB", 2000), ("1.5 MB", 1_500_000), ("5GiB", 5 << 30), ("7g", 7_000_000_000)],
)
def test_a_size_is_read_as_people_write_it(size: int | str, number: int) -> None:
    assert byte_size(size) == number


@pytest.mark.parametrize("size", ["", "much", "-5MB", 0, "0GB", "5 apples", "1e9"])
def test_what_is_no_size_is_refused(size: int | str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(size))):
        formers.save(small("gpt2"), tmp_path / "m", max_shard_size=size)
    assert not (tmp_path / "m").exists()


def test_beside_other_files_weights_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoint-5").mkdir()
    for size in ("9KB", "1MB", "20KB"):
        model = small("gpt2", seed=len(size))
        save_beside(model, tmp_path, max_shard_size=size)
        assert same(model.state_dict(), formers.load(tmp_path).state_dict())
        assert (len(shards(tmp_path)) == 1) == (size == "1MB")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}
    assert modes == {(tmp_path / "thesis.tex").stat().st_mode & 0o777}


def test_its_tokenizer_cuts_to_the_positions_of_the_model_where_it_is_told_to(tmp_path: Path) -> None:
    words = train_tokenizer("wordpiece", "the theatre ran, the actors ran", 30)
    model = formers.build("bert", preset="nano", vocab_size=words.vocab_size, max_length=7)
    theirs = transformers.AutoTokenizer.from_pretrained(formers.save(model, tmp_path / "m", tokenizer=words))
    assert theirs.model_max_length == 7
    assert len(theirs("the " * 20, truncation=True)["input_ids"]) == 7
    endless = formers.build("t5", preset="nano", vocab_size=words.vocab_size)
    theirs = transformers.AutoTokenizer.from_pretrained(formers.save(endless, tmp_path / "t", tokenizer=words))
    assert len(theirs("the " * 20, truncation=True)["input_ids"]) == 22
