"""Small things to train: shards in memory, a GPT-2 of thousands of parameters, settings of a few steps."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

import formers
from formers.data import Sequential, Streams, Windows
from formers.data.shards import Shards
from formers.text import ByteTokenizer
from formers.training.job import Job
from formers.training.settings import TrainSettings
from formers.training.setup import model_tensors

BATCH, SEQ = 8, 24
WORDS = "the quick brown fox jumps over a lazy dog and runs home to sleep until morning comes".split()


def shards(seed: int = 0, documents: int = 40) -> Shards:
    """Documents of 1 to 40 words as bytes, every fourth for validation."""
    tokenizer, rng = ByteTokenizer(), random.Random(seed)
    tokens: list[int] = []
    rows = []
    for number in range(documents):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 10)))
        ids = [*tokenizer.encode(text), tokenizer.end_of_text]
        rows.append((len(tokens), len(ids), len(text.encode()), int(number % 4 == 3)))
        tokens += ids
    meta = {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_kind": "byte",
        "tokenizer_fingerprint": tokenizer.fingerprint,
    }
    return Shards(Path("memory"), meta, np.array(tokens, "<u2"), np.array(rows, np.int64).reshape(-1, 4), tokenizer)


def windows(**changes: Any) -> Windows:
    return Windows(shards(), **{"batch_size": BATCH, "seq_len": SEQ, **changes})


def streams(**changes: Any) -> Streams:
    return Streams(shards(), **{"batch_size": BATCH, "seq_len": SEQ, **changes})


def validation(**changes: Any) -> Sequential:
    return Sequential(shards(), **{"batch_size": BATCH, "seq_len": SEQ, "stride": SEQ, **changes})


def gpt2(seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.0, **changes: Any) -> Any:
    sizes = {"vocab_size": 257, "d_model": 24, "num_layers": 2, "num_heads": 2, "max_length": 128}
    drops = {"dropout": dropout, "attention_dropout": dropout, "embedding_dropout": dropout}
    return formers.build("gpt2", seed=seed, **{**sizes, **drops, **changes}).to(dtype)


def settings(**changes: Any) -> TrainSettings:
    quick = {
        "steps": 6,
        "batch_size": BATCH,
        "seq_len": SEQ,
        "warmup": 2,
        "lr": 3e-3,
        "precision": "float32",
        "compile": "off",
        "device": "cpu",
        "eval_every": 0,
        "checkpoint_every": 0,
    }
    return TrainSettings(**{**quick, **changes})


def job(model: Any = None, train_view: Any = None, out: Path = Path("unused"), **changes: Any) -> Job:
    """A job for what is tested below `train`."""
    given = {
        "model": model or gpt2(),
        "settings": settings(),
        "train_view": windows() if train_view is None else train_view,
        "validation_view": None,
        "out": out,
        "recipe": {},
        "resume": False,
        "save_model": None,
        "sample": None,
        "baselines": None,
        "on_event": None,
        "progress": False,
        "resume_command": "resume",
        "fresh": True,
    }
    return Job(**{**given, **changes})


def digest(model: torch.nn.Module) -> str:
    """One string for all bits of all weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(model_tensors(model).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()
