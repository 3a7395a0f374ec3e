"""A contest: models trained on the same text, then read on the same documents; what each costs stands beside it.

What `formers compare` and `formers experiment memory` have in common. Whatever is done stays: a contest that was stopped,
or killed, goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from formers import recipes
from formers.config import to_dict
from formers.data import Shards, open_shards
from formers.errors import DataError, RunError
from formers.experiments.claims import Interval
from formers.experiments.ranks import read_windows
from formers.experiments.reading import Scores, change, damaged, origin, read
from formers.experiments.run import Run, changed_since
from formers.files import plain
from formers.hub import save, targets, user_code
from formers.inspection.anatomy import cost
from formers.parts.recollection import MemoryNode
from formers.parts.states import State
from formers.recipes import Recipe, with_vocabulary
from formers.training.precision import choose_device

TRAIN = 3
"""A backward costs two forwards; a look-up has none (Kaplan et al., 2001.08361, section 2.1)."""


@dataclass(frozen=True)
class Reading:
    """A way to read the same documents: whole; cut into texts of `longest` tokens, each read on its own; or through windows
    of `window` tokens that begin every half window and score what the one before did not."""

    name: str
    longest: int | None = None
    window: int | None = None


WHOLE = Reading("whole")

LONG, FILL = 1 << 20, 4096
"""Tokens of a text that would fill every memory; and every cache."""


@dataclass(frozen=True)
class Contestant:
    """name: as the tables have it.

    after    the contestant whose weights it begins with; what it has more starts fresh
    shards   its own, where its tokenizer is not that of the others; the same documents
    folder   of a run that ended before the contest
    reading  its own way to read, in place of the contest's
    facts    what its recipe.json holds beside the recipe
    """

    name: str
    recipe: Recipe[Any]
    after: str | None = None
    shards: Shards | None = None
    folder: Path | None = None
    reading: Reading | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def at(self, out: Path) -> Path:
        """Its run folder."""
        return self.folder or out / self.name


def train_all(
    contestants: Sequence[Contestant],
    shards: Shards,
    out: Path,
    *,
    progress: bool | None = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    before: Callable[[Contestant], None] = lambda contestant: None,
    resume_command: str = "the same command",
) -> str | None:
    """Train each into out/NAME; what is trained stays, what was stopped goes on. The signal that stopped it, or None.

    Raises RunError where out/NAME holds a run of another recipe, or of text or code that has changed since.
    """
    for contestant in contestants:  # all of them before the first is trained
        own = contestant.shards or shards
        check_contestant(contestant, contestant.at(out), own.vocab_size, own)
    for contestant in contestants:
        folder = contestant.at(out)
        if (folder / "model").is_dir():
            continue
        before(contestant)
        init = None if contestant.after is None else _begun(contestant, out, shards)
        resume = (folder / "recipe.json").is_file()
        run = Run(
            contestant.recipe, contestant.shards or shards, folder, resume=resume, init=init, facts=contestant.facts
        )
        stopped = run.start(progress=progress, on_event=on_event, resume_command=resume_command).interrupted
        if stopped:
            return stopped
    return None


def check_contestant(contestant: Contestant, folder: Path, vocab_size: int, shards: Shards | None = None) -> None:
    """Whether the run that is there, if one is, is of this recipe, and was begun with the text and code that are there now.
    Raises RunError."""
    if contestant.folder is None and (changed := changed_since(folder, shards, contestant.recipe.code)):
        raise RunError(
            f"{changed} changed since {folder} was begun",
            "the same text and code for all that is compared",
            f"name another --out, or remove {folder} to train it again",
        )
    if (folder / "model").is_dir():
        check_recipe(contestant, folder, vocab_size)


def check_recipe(contestant: Contestant, folder: Path, vocab_size: int) -> None:
    """Whether a run that is there already is the one that is asked for. Raises RunError that lists what differs."""
    if contestant.folder is not None:
        return
    wanted, found = contestant.recipe, recipes.read(folder, code=contestant.recipe.code)
    pairs = {
        "model": (to_dict(with_vocabulary(wanted.model, vocab_size)), to_dict(found.model)),
        "data": (to_dict(wanted.data), to_dict(found.data)),
        "train": (wanted.train.of_the_weights(), found.train.of_the_weights()),
        "": ({"seed": wanted.seed}, {"seed": found.seed}),
    }
    different = [
        f"{part}.{name}".lstrip(".") + f" is {theirs.get(name)!r}, wanted {ours.get(name)!r}"
        for part, (ours, theirs) in pairs.items()
        for name in sorted(ours.keys() | theirs.keys())
        if plain(ours.get(name)) != plain(theirs.get(name))
    ]
    if different:
        raise RunError(
            f"{folder} holds a run of another recipe: {'; '.join(different)}", "the same recipe", "name another --out"
        )


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
    """A row for each contestant, reading and document. Rows that stand in out/scores.jsonl are not measured again.

    documents  of `shards`; a contestant with shards of its own reads the same texts

    Raises DataError where a contestant's shards have not these texts.
    """
    scores = Scores(out)
    for contestant in contestants:
        for reading in readings if contestant.reading is None else [contestant.reading]:
            of = {"contestant": contestant.name, "reading": reading.name}
            made = origin(contestant.at(out), shards) | _code(contestant)
            todo = scores.missing(documents, of, made)
            model = None if not todo else _load(contestant, out)
            for first in range(0, len(todo), rows):
                group = todo[first : first + rows]
                assert model is not None
                scored = _read(model, shards, group, reading, contestant.shards or shards)
                scores.add(scored, of | made)
                say(f"{contestant.name}, {reading.name}: {first + len(group)} of {len(todo)} documents")
    return scores.rows


def _code(contestant: Contestant) -> dict[str, str]:
    """What tells the user's own code, which the scores come of too."""
    code = contestant.recipe.code
    return {} if code is None else {"code": user_code.record(code)["sha256"][:16]}


def _load(contestant: Contestant, out: Path) -> nn.Module:
    model = targets.load(contestant.at(out), dtype=torch.float32, code=contestant.recipe.code)
    return model.to(choose_device("auto"))


def _read(
    model: nn.Module, shards: Shards, documents: Sequence[int], reading: Reading, own: Shards
) -> list[dict[str, Any]]:
    """The rows of some documents of `shards`, read as `own` cuts them into tokens."""
    mine = documents if own.folder == shards.folder else [same_documents(shards, own)[d] for d in documents]
    texts = [own.document_tokens(d) for d in mine]
    facts = [
        {"document": int(d), "bytes": int(shards.documents[d, 2]), "scored_bytes": int(own.token_bytes[text[1:]].sum())}
        for d, text in zip(documents, texts, strict=True)
    ]
    device = str(next(model.parameters()).device)
    if reading.window is not None:
        scored = read_windows(model, texts, reading.window, device=device)
    elif reading.longest is None:
        scored = read(model, texts, device=device)
    else:
        scored = [_in_pieces(model, text, reading.longest, device) for text in texts]
    return [a | b for a, b in zip(facts, scored, strict=True)]


def _in_pieces(model: nn.Module, text: np.ndarray, step: int, device: str) -> dict[str, Any]:
    parts = read(model, [text[at : at + step + 1] for at in range(0, len(text) - 1, step)], device=device)
    return {name: sum(part[name] for part in parts) for name in ("tokens", "loss", "right", "top5")} | {
        "by_position": []
    }


def read_kept(file: Path) -> dict[str, Any]:
    """What was measured before; nothing where there is no such file. Raises RunError for a damaged one."""
    try:
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise damaged(file, error) from None


@lru_cache(maxsize=8)
def _keys(folder: Path) -> dict[bytes, int]:
    """Which validation document of a shard folder has which text."""
    shards = open_shards(folder)
    return {hashlib.sha256(shards.text_bytes(int(d))).digest(): int(d) for d in shards.rows("validation")}


def same_documents(shards: Shards, own: Shards) -> dict[int, int]:
    """Validation document of `shards` -> the one of `own` with the same text. Raises DataError where one has none."""
    ours, theirs = _keys(shards.folder), _keys(own.folder)
    missing = ours.keys() - theirs.keys()
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(ours)} validation documents of {shards.folder} are not in {own.folder}",
            "shards of the same text, with the same documents held out",
        )
    return {document: theirs[key] for key, document in ours.items()}


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
    looked_up = sum(held.look_up_per_token for held in cost(model).memories)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "state_bytes": state.nbytes,
        "operations": _training(model, ids[:, :length], state=_without_entries(state)) + looked_up,
    }


def _without_entries(state: State) -> State:
    """The same caches, and memories in which there is nothing to look up: look-ups are counted by themselves, forward alone."""
    for node in itertools.chain(*state.nodes):
        if isinstance(node, MemoryNode):
            node.memory = node.memory.reset(torch.ones_like(node.memory.written, dtype=torch.bool))
    return state


def operations(model: Any, length: int, *, carried: bool) -> int:
    """Operations of a training token: of `costs` where rows are carried on, else of rows of `length` tokens by themselves."""
    if carried:
        return costs(model, length)["operations"]
    return _training(model.eval(), torch.zeros(1, length, dtype=torch.long))


def _training(model: Any, ids: Tensor, **given: Any) -> int:
    """Three forwards, a token. Torch counts every product but those inside its attention kernel for CPUs."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={kernel: _attention}) as counter:
        model(ids, **given)
    return TRAIN * counter.get_total_flops() // ids.shape[1]


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and the weighted sums of values, from shapes [batch, heads, tokens, d_head]."""
    batch, heads, tokens, d_head = query
    return 2 * batch * heads * tokens * key[2] * (d_head + value[3])


def seconds_a_token(run: Path) -> float:
    """The median over a training's steps, on the machine that it ran on."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        speeds = sorted(row["tokens_per_second"] for row in map(json.loads, lines) if row["kind"] == "train")
    return 1 / speeds[len(speeds) // 2]
