"""A text that is quick to learn, and recipes of thousands of parameters, for tests of comparisons."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from formers.data import Shards, build, open_shards
from formers.experiments.budget import Budget
from formers.experiments.compare import CompareSettings
from formers.models import registry
from formers.recipes import DataSettings, Recipe, TrainSettings

WORDS = "the quick brown fox jumps over a lazy dog and runs home to sleep until morning comes".split()
QUICK = {"precision": "float32", "compile": "off", "device": "cpu", "checkpoint_every": 5}


def texts(count: int = 40, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(20, 60))) for _ in range(count)]


def shards(folder: Path, tokenizer: str = "byte", *, documents: list[str] | None = None, **more: Any) -> Shards:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents or texts()))
    out = folder / f"shards-{tokenizer}"
    build([file], out, tokenizer=tokenizer, validation=0.3, cut=False, quiet=True, **more)
    return open_shards(out)


def recipe(name: str = "small", architecture: str = "gpt2", *, lr: float = 1e-2, **model: Any) -> Recipe[Any]:
    sizes = {"d_model": 16, "num_layers": 1, "num_heads": 2, "max_length": 64, **model}
    if architecture == "gpt2":
        sizes |= {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    config = registry.configure(architecture, **{k: v for k, v in sizes.items() if v is not None})
    train = TrainSettings(batch_size=8, seq_len=32, lr=lr, warmup=5, schedule="constant")
    return Recipe(name=name, model=config, data=DataSettings(tokenizer="byte"), train=train)


def settings(kind: str = "steps", amount: float = 10, **changes: Any) -> CompareSettings:
    plain = CompareSettings(budget=Budget(kind, amount), seeds=2, documents=8, evaluations=2, train=dict(QUICK))
    return dataclasses.replace(plain, **changes)
