"""The folder of a comparison, made for the tests without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from formers.comparison.ranking import Entry, rank
from formers.files import plain

from .runfolders import metrics_of, recipe_of, write_run

DOCUMENTS = 12


def write_contest(folder: Path, names: tuple[str, ...] = ("first", "second", "third"), seeds: int = 3) -> Path:
    """Entrants that are 0.2 bits per byte apart, each with so many seeds."""
    rng, weights = np.random.default_rng(0), np.full(DOCUMENTS, 1000.0)
    entries = []
    for number, name in enumerate(names):
        entries.append(
            Entry(name, 2 + 0.2 * number + rng.normal(0, 0.01, (seeds, 1)) + rng.normal(0, 0.02, (1, DOCUMENTS)))
        )
        for seed in range(seeds):
            recipe = {**recipe_of(name), "seed": seed, "operations_per_token": 1_000_000 * (number + 1)}
            run = folder / f"{name}.seed-{seed}"
            write_run(run, metrics_of(60, seed=seed, floor=2 + 0.2 * number), recipe=recipe)
    found = rank(entries, weights)
    result: dict[str, Any] = {
        "verdict": found.verdict,
        "ranking": list(found.names),
        "entrants": {name: _entrant(name, found, seeds) for name in found.names},
        "pairs": plain(found.pairs),
        "at": {"tokens": 245760, "seconds": 27.0, "operations": 2.4e11},
        "matching": [{"words": f"{name}: 1,384,960 parameters (+0.00%), as it is"} for name in names],
        "notes": ["All read windows of 8 rows of 512 tokens a step, the same rows in the same order for each seed."],
        "documents": {"read": DOCUMENTS, "bytes": 12000},
        "texts": {
            "prompts": ["def read"],
            "samples": {name: ["(self):\n    return <script>alert(1)</script>"] for name in names},
            "predictions": {
                name: [
                    {"true": "read", "predicted": " write\n", "chance": 0.25, "rank": 3},
                    {"true": "(", "predicted": "(", "chance": 0.9, "rank": 0},
                ]
                for name in names
            },
        },
    }
    (folder / "compare.json").write_text(json.dumps(result))
    return folder


def _entrant(name: str, found: Any, seeds: int) -> dict[str, Any]:
    first = found.names[0]
    pair = None if name == first else found.pair(name, first)
    return {
        "bits_per_byte": found.means[name],
        "of_seeds": [found.means[name]] * seeds,
        "behind_best": None if pair is None else plain(pair.difference),
        "told_from_best": None if pair is None else pair.told,
        "top1": 0.3,
        "top5": 0.55,
        "by_position": [{"start": s, "loss": 3 - 0.1 * i, "count": 100} for i, s in enumerate((0, 16, 32, 64, 128))],
        "parameters": 1_384_960,
        "operations_per_token": 1_000_000 * (found.names.index(name) + 1),
        "peak_bytes": 250_000_000,
        "steps": 60,
        "tokens": 245760,
        "seconds": 30.0,
        "tokens_per_second": 9000,
        "at_equal": {"tokens": 2.9, "seconds": 3.0, "operations": 3.1},
        "tokenizer": "bpe of 4,096",
        "reading": "windows of 512",
        "joined": False,
        "seeds": list(range(seeds)),
        "runs": [f"{name}.seed-{seed}" for seed in range(seeds)],
    }
