"""Small models with a head for each task, in folders that transformers opens too, and texts of many lengths."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.text import Tokenizer, train_tokenizer

TEXT = """Ada Lovelace met Charles Babbage in London. They spoke of engines, numbers and poetry; she wrote about them.
The river Thames flows through Oxford, Reading and London, past Windsor, to the North Sea. It isn't long.
Engines count, poets sing. Naïve cafés open early in Paris, and the engineers of Zürich drink coffee there.
Who met whom? What did they write? Where does the river flow? When do the cafés open?
"""
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 53, "max_length": 64, "init_std": 0.5}
HEADS: dict[str, dict[str, Any]] = {
    "masked_token": {},
    "pretraining": {},
    "token": {"num_labels": len(LABELS), "labels": LABELS},
    "sequence": {"num_labels": 3, "labels": ("bad", "so so", "good")},
    "pair": {},
    "span": {},
    "pooler": {},
}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_head": 7, "d_ff": 53, "init_factor": 3.0}


def words(count: int, longest: int, *, shortest: int = 1, seed: int = 0) -> list[str]:
    """Texts of the words of TEXT, of many lengths."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(TEXT.split(), k=draw.randint(shortest, longest))) for _ in range(count)]


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "wordpiece":
        return train_tokenizer("wordpiece", TEXT, 149, lower=False)
    return train_tokenizer(kind, TEXT, {"unigram": 101, "bpe": 307}[kind])


@pytest.fixture(scope="session")
def wordpiece() -> Tokenizer:
    return tokenizer_of("wordpiece")


@pytest.fixture(scope="session")
def unigram() -> Tokenizer:
    return tokenizer_of("unigram")


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return tokenizer_of("bpe")


Make = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return model_folders(tmp_path_factory.mktemp("models"))


def model_folders(root: Path) -> Make:
    """`folder(name)`: of a BERT with the head `name`, of a "t5" with a Unigram vocabulary, of a "gpt2"."""

    def make(name: str) -> Path:
        if not (root / name).is_dir():
            model, tokenizer = build(name)
            formers.save(model, root / name, tokenizer=tokenizer)
        return root / name

    return make


def build(name: str) -> tuple[Any, Tokenizer]:
    """A model in float32 and its tokenizer."""
    if name == "t5":
        unigram = tokenizer_of("unigram")
        pad, end = unigram.special_tokens["<pad>"], unigram.role("end")
        model = formers.build(
            "t5", **T5, vocab_size=101, tie=False, scale_head=False, start_token=pad, end_token=end, seed=2
        )
        with torch.no_grad():
            model.head.linear.weight[end] *= 2.0  # that some texts end before they must
        return model, unigram
    if name == "gpt2":
        sizes = {key: SIZES[key] for key in ("d_model", "num_layers", "num_heads", "max_length")}
        return formers.build("gpt2", **sizes, vocab_size=307, init_std=0.5, seed=3), tokenizer_of("bpe")
    model = formers.build("bert", **SIZES, vocab_size=149, head=name, **HEADS[name], seed=1)
    return model, tokenizer_of("wordpiece")


@pytest.fixture(scope="session")
def pipe(folder: Make) -> Callable[..., Any]:
    """`pipe(task, name, **options)` in float64, where equal means equal."""

    def make(task: str, name: str, *, dtype: Any = torch.float64, **options: Any) -> Any:
        return formers.pipeline(task, folder(name), dtype=dtype, **options)

    return make
