"""Run folders made for the tests: the format of a training, with curves of the usual shape and no training at all."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def train_rows(steps: int, *, tokens_a_step: int = 4096, seed: int = 0, floor: float = 2.2) -> Rows:
    """Training rows with a falling, noisy loss, warm-up and cosine, and now and then a slow step."""
    generator = random.Random(seed)
    rows, seconds = [], 0.0
    for step in range(1, steps + 1):
        took = 0.45 * generator.uniform(0.95, 1.1) * (3.0 if generator.random() < 0.01 else 1.0)
        seconds += took
        rows.append(
            {
                "kind": "train",
                "step": step,
                "tokens": step * tokens_a_step,
                "seconds": round(seconds, 4),
                "loss": floor + 6.2 * (1 + step / 12) ** -0.62 + generator.gauss(0, 0.05),
                "lr": 6e-4 * min(step / max(1, steps // 10), 0.55 + 0.45 * math.cos(math.pi * step / steps)),
                "grad_norm": 0.5 + 3 * (1 + step / 10) ** -0.7 + generator.expovariate(9),
                "tokens_per_second": tokens_a_step / took,
            }
        )
    return rows


def eval_row(train: dict[str, Any], *, floor: float = 2.35, bytes_a_token: float = 3.1) -> dict[str, Any]:
    """A validation row after the step of ``train``, with loss by position and the baselines."""
    step = train["step"]
    loss = floor + 6.2 * (1 + step / 12) ** -0.62
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    return {
        "kind": "eval",
        "step": step,
        "tokens": train["tokens"],
        "seconds": train["seconds"],
        "split": "validation",
        "loss": loss,
        "bits_per_byte": loss / math.log(2) / bytes_a_token,
        "perplexity": math.exp(loss),
        "accuracy": 0.62 - 0.07 * loss,
        "by_position": [
            {"start": a, "end": b, "loss": loss + 2.2 / (1 + a) ** 0.5 - 0.15, "count": (b - a) * 40}
            for a, b in itertools.pairwise(edges)
        ],
        "baselines": {"gzip_bits_per_byte": 2.31, "unigram_bits_per_byte": 3.97},
    }


def sample_rows(step: int) -> Rows:
    loop = '(self, name):\n    """Return the name of the file."""\n    if name is None:\n        return self._name\n'
    return [
        {"kind": "sample", "step": step, "prompt": "def read", "text": loop * 2},
        {
            "kind": "sample",
            "step": step,
            "prompt": "import ",
            "text": "os\nimport sys\n\nclass Error(Exception):\n    pass\n",
        },
    ]


def recipe_of(name: str = "gpt2.tiny", steps: int = 300, **model: Any) -> dict[str, Any]:
    sizes = {"d_model": 128, "num_layers": 4, "num_heads": 4, "vocab_size": 4096, "max_length": 512, **model}
    return {
        "name": name,
        "architecture": name.partition(".")[0],
        "model": sizes,
        "data": {"source": "stdlib", "seq_len": 512, "batch_size": 8, "view": "packed"},
        "train": {
            "steps": steps,
            "lr": 6e-4,
            "schedule": "cosine",
            "warmup": 30,
            "clip": 1.0,
            "optimizer": {"betas": [0.9, 0.95]},
        },
        "parameters": 1_384_960,
        "seed": 0,
    }


ENVIRONMENT = {
    "formers": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0",
    "platform": "Linux x86_64",
    "cpu": "a processor with <angle> brackets & more",
    "cores": 2,
    "threads": 2,
    "device": "cpu",
    "precision": "bf16",
    "compile": False,
    "started": "2025-01-31T12:00:00+00:00",
}

CERTIFICATE = {
    "target": "gpt2",
    "ok": True,
    "laws": [
        {
            "name": "causal by perturbation",
            "status": "pass",
            "violation": 0.0,
            "tolerance": 0.0,
            "blame": None,
            "detail": "64 cuts",
        },
        {
            "name": "step by step equals whole",
            "status": "pass",
            "violation": 3e-12,
            "tolerance": 1e-9,
            "blame": None,
            "detail": "",
        },
        {
            "name": "documents stay apart",
            "status": "not applicable",
            "violation": None,
            "tolerance": None,
            "blame": None,
            "detail": "takes no positions",
        },
    ],
}

LEAKING = {
    "target": "gpt2",
    "ok": False,
    "laws": [
        {"name": "finite in bf16", "status": "pass", "violation": 0.0, "tolerance": 0.0, "blame": None, "detail": ""},
        {
            "name": "causal by gradient",
            "status": "fail",
            "violation": 0.31,
            "tolerance": 0.0,
            "blame": "trunk.blocks.0.attention",
            "detail": "position 7 sees 8",
        },
    ],
}


def metrics_of(steps: int, *, every: int = 25, seed: int = 0, floor: float = 2.2) -> Rows:
    """A whole training: rows of every kind in the order in which a loop writes them."""
    rows: Rows = [{"kind": "event", "step": 0, "level": "info", "message": "started"}]
    for row in train_rows(steps, seed=seed, floor=floor):
        rows.append(row)
        if row["step"] % every == 0 or row["step"] == steps:
            rows.append(eval_row(row, floor=floor + 0.15))
            rows.extend(sample_rows(row["step"]))
    return rows


def write_run(
    folder: Path,
    rows: Rows | None = None,
    *,
    recipe: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    certificate: dict[str, Any] | None = None,
    tail: str = "",
) -> Path:
    """Write a run folder; ``tail`` is put behind the last line of the metrics as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(recipe or recipe_of()))
    (folder / "environment.json").write_text(json.dumps(environment or ENVIRONMENT))
    if rows is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    if certificate is not None:
        (folder / "certificate.json").write_text(json.dumps(certificate))
    return folder
