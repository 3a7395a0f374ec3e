"""A contest: models trained on the same text, then read on the same whole documents; what each costs stands beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from formers.data import Shards
from formers.errors import DataError
from formers.experiments.claims import Interval
from formers.experiments.reading import change, read
from formers.experiments.run import Run
from formers.files import write_atomic
from formers.hub import save, targets
from formers.inspection.anatomy import cost
from formers.recipes import Recipe

TRAIN = 3
"""A backward costs two forwards; a look-up has none (Kaplan et al., 2001.08361, section 2.1)."""


@dataclass(frozen=True)
class Contestant:
    """name: as the tables have it. after: the contestant whose weights it begins with; what it has more starts fresh."""

    name: str
    recipe: Recipe[Any]
    after: str | None = None


@dataclass(frozen=True)
class Reading:
    """A way to read the same documents: whole, or cut into texts of `longest` tokens, each read on its own."""

    name: str
    longest: int | None = None


WHOLE = Reading("whole")

LONG, FILL = 1 << 20, 4096
"""Tokens of a text that would fill every memory; and every cache."""


def train_all(
    contestants: Sequence[Contestant], shards: Shards, out: Path, *, progress: bool | None = None
) -> str | None:
    """Train each into out/NAME; what is trained stays, what was stopped goes on. The signal that stopped it, or None."""
    for contestant in contestants:
        folder = out / contestant.name
        if (folder / "model").is_dir():
            continue
        init = None if contestant.after is None else _begun(contestant, out, shards)
        run = Run(contestant.recipe, shards, folder, resume=(folder / "recipe.json").is_file(), init=init)
        stopped = run.start(progress=progress, resume_command="the same command").interrupted
        if stopped:
            return stopped
    return None


def _begun(contestant: Contestant, out: Path, shards: Shards) -> str:
    """A folder of the contestant's model with the weights of the one it comes after."""
    folder = out / f"{contestant.name}-begins"
    if not folder.is_dir():
        model = contestant.recipe.build(vocab_size=shards.vocab_size)
        before = targets.load(out / str(contestant.after)).state_dict()
        missing, unknown = model.load_state_dict(before, strict=False)
        if unknown or len(missing) == len(model.state_dict()):
            raise DataError(f"{contestant.name} cannot begin with the weights of {contestant.after}", "like models")
        save(model, folder, tokenizer=shards.tokenizer)
    return str(folder)


def read_all(
    contestants: Iterable[Contestant],
    shards: Shards,
    documents: Sequence[int],
    out: Path,
    *,
    readings: Sequence[Reading] = (WHOLE,),
    rows: int = 4,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """A row for each contestant, reading and document. Rows that stand in out/scores.jsonl are not measured again."""
    file = out / "scores.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(row["contestant"], row["reading"], row["document"]) for row in found}
    for contestant in contestants:
        for reading in readings:
            todo = [d for d in documents if (contestant.name, reading.name, d) not in done]
            model = targets.load(out / contestant.name, dtype=torch.float32) if todo else None
            for first in range(0, len(todo), rows):
                group = todo[first : first + rows]
                assert model is not None
                scored = _read(model, shards, group, reading)
                found += [{"contestant": contestant.name, "reading": reading.name, **row} for row in scored]
                write_atomic(file, "".join(json.dumps(row) + "\n" for row in found).encode())
                say(f"{contestant.name}, {reading.name}: {first + len(group)} of {len(todo)} documents")
    return found


def _read(model: nn.Module, shards: Shards, documents: Sequence[int], reading: Reading) -> list[dict[str, Any]]:
    facts = [{"document": int(d), "bytes": int(shards.documents[d, 2])} for d in documents]
    texts = [shards.document_tokens(d) for d in documents]
    if reading.longest is None:
        return [a | b for a, b in zip(facts, read(model, texts), strict=True)]
    rows = []
    for fact, text in zip(facts, texts, strict=True):
        step = reading.longest
        parts = read(model, [text[at : at + step + 1] for at in range(0, len(text) - 1, step)])
        total = {name: sum(part[name] for part in parts) for name in ("tokens", "loss", "right")}
        rows.append(fact | total | {"by_position": []})
    return rows


def of(rows: Sequence[dict[str, Any]], contestant: str, reading: Reading = WHOLE) -> list[dict[str, Any]]:
    """The rows of a contestant."""
    return [row for row in rows if (row["contestant"], row["reading"]) == (contestant, reading.name)]


def against(rows: Sequence[dict[str, Any]], contestant: str, other: str, reading: Reading = WHOLE) -> Interval | None:
    """What the contestant has more in bits per byte than the other, document by document."""
    return change(of(rows, other, reading), of(rows, contestant, reading))


# --- what it costs ------------------------------------------------------------------------------------------------------


def costs(model: Any, length: int) -> dict[str, int]:
    """Parameters, bytes of a row's state when all is full, and operations of a training token (forward and backward of
    the products that are really made, and the exact look-ups, which only go forward).

    length  tokens a call; one is counted behind so many that caches are full
    """
    ids = torch.zeros(1, FILL, dtype=torch.long)
    with torch.no_grad():
        state = model.eval()(ids, state=model.init_state(1, LONG)).state.commit()
    with FlopCounterMode(display=False) as counter:
        model(ids[:, :length], state=state)
    looked_up = sum(held.look_up_per_token for held in cost(model).memories)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "state_bytes": state.nbytes,
        "operations": TRAIN * counter.get_total_flops() // length + looked_up,
    }


def seconds_a_token(run: Path) -> float:
    """The median over a training's steps, on the machine that it ran on."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        speeds = sorted(row["tokens_per_second"] for row in map(json.loads, lines) if row["kind"] == "train")
    return 1 / speeds[len(speeds) // 2]
