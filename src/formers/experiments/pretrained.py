"""The small models that come with the package, made: ``python -m formers.experiments.pretrained``, or ``make pretrained``.

A GPT-2 and a memory mosaic of as many parameters read the same rows of the source of Python's standard library in the same
order, with the same settings. Weights go into the package as bf16, with recipe, environment and log as the training wrote
them; so does the text that neither has read, once for both. Stopped or killed, the same command goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from formers import pretrained, recipes
from formers.data import Shards, build, open_shards, unigram_counts
from formers.data.plan import VALIDATION
from formers.data.shards import BYTES, ShardWriter, is_shard_folder
from formers.data.sources import STDLIB
from formers.errors import DataError, FormersError, RunError
from formers.experiments import matching
from formers.experiments.contest import Contestant, train_all
from formers.experiments.text import prepare
from formers.files import whole_folder, write_atomic, write_json
from formers.hub import load, save
from formers.hub.targets import read_recipe
from formers.recipes import Recipe, with_seed, with_vocabulary
from formers.training.records import ENVIRONMENT, METRICS, MODEL, RECIPE, SAMPLES, read_json

Say = Callable[[str], None]

TEXT = "stdlib"
"""The folder of the held-out documents, beside the models."""

MADE_LIKE = {"gpt2-stdlib": "gpt2.tiny", "memory_mosaics-stdlib": "memory_mosaics.tiny"}
"""Each model and the recipe it is made by; the first says how large all are."""

VOCABULARY, HELD_OUT, TOLERANCE = 2048, 0.0175, 0.01
"""Tokens; the share of the documents that no model reads; by which share of its parameters one may be larger than another."""

ROWS, LENGTH, EVALUATIONS = 8, 256, 5

KEPT = ("formers", "python", "torch", "cpu", "cores", "device", "precision", "compile", "threads", "started", "resumed")
"""What environment.json keeps: how and with what it was computed, and nothing else of the machine."""


@dataclass(frozen=True)
class Making:
    """Train the small models that come with the package and put them into it. Stopped, the same command goes on."""

    tokens: int = 3_000_000
    """That each model reads."""
    threads: int = 1
    """CPU threads of a training."""
    compile: Literal["auto", "on", "off"] = "off"
    """Whether the trainings are compiled."""
    seed: int = 0
    """Of weights and rows."""
    out: Path = Path("runs/pretrained")
    """Where text, runs and checkpoints stand meanwhile."""
    into: Path = pretrained.HOME
    """Where the models go."""
    licence: Path | None = None
    """Of the text; by default LICENSE.txt of Python's library."""

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (ROWS * LENGTH))


def make(making: Making, say: Say = print) -> str | None:
    """Text, trainings, package. The signal that stopped it, or None. Raises FormersError for what cannot be made."""
    licence, shards = making.licence or _licence(), text(making)
    contestants = [Contestant(name, recipe) for name, recipe in recipes_of(making).items()]
    stopped = train_all(
        contestants,
        shards,
        making.out,
        on_event=None if sys.stderr.isatty() else _teller(say),
        before=lambda contestant: say(f"training {contestant.name}"),
        resume_command="the same command",
    )
    if stopped is None:
        install(making, shards, licence)
        for name in MADE_LIKE:
            found = pretrained.facts(name, making.into)
            say(
                f"{making.into / name}: {found.bytes:,} bytes, {found.scored:.4f} bits per byte (gzip -9 {found.gzip:.4f})"
            )
    return stopped


def _teller(say: Say) -> Callable[[dict[str, Any]], None]:
    """Progress for a log file: events, evaluations, and a step every ten seconds."""
    shown = float("-inf")

    def tell(row: dict[str, Any]) -> None:
        nonlocal shown
        if row["kind"] == "event":
            say(row["message"])
        elif row["kind"] == "eval":
            say(f"step {row['step']}: held out {row['bits_per_byte']:.4f} bits per byte")
        elif row["kind"] == "train" and time.monotonic() - shown >= 10:
            shown = time.monotonic()
            say(f"step {row['step']}: loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens a second")

    return tell


# --- what is trained ------------------------------------------------------------------------------------------------------


def text(making: Making) -> Shards:
    """The text, built once. Raises DataError where a held-out document was made on this machine and names its folders."""
    folder = making.out / "text"
    if not is_shard_folder(folder):
        build((STDLIB,), folder, vocab_size=VOCABULARY, validation=HELD_OUT)
    shards = open_shards(folder)
    made_here = {path.read_text("utf-8") for path in _library().glob("_sysconfigdata*.py")}
    if made_here & {shards.text(int(row)) for row in shards.rows("validation")}:
        raise DataError("_sysconfigdata, which names folders of this machine, is held out", "another share held out")
    return shards


def recipes_of(making: Making) -> dict[str, Recipe[Any]]:
    """The recipes of all models, with the text that stands in making.out. Raises ConfigError where sizes cannot be matched."""
    found = {}
    for name, like in MADE_LIKE.items():
        recipe, shards = prepare(with_seed(recipes.get(like), making.seed), folder=making.out / "text")
        model = with_vocabulary(recipe.model, shards.vocab_size)
        found[name] = dataclasses.replace(recipe, name=name, model=model, train=_loop(making, recipe.train))
    size = matching.parameters(next(iter(found.values())))
    return matching.match_all(found, size, matching.parameters, what="parameters", tolerance=TOLERANCE)[0]


def _loop(making: Making, train: recipes.TrainSettings) -> recipes.TrainSettings:
    """The recipe's settings for so many tokens, with a rate that falls to nothing by the end."""
    return dataclasses.replace(
        train,
        steps=making.steps,
        batch_size=ROWS,
        seq_len=LENGTH,
        schedule="linear",
        min_lr_ratio=0.0,
        warmup=min(train.warmup, max(1, making.steps // 5)),
        compile=making.compile,
        threads=making.threads,
        eval_every=-(-making.steps // EVALUATIONS),
        eval_batches=0,
        checkpoint_every=50,
    )


# --- what goes into the package -------------------------------------------------------------------------------------------


def install(making: Making, shards: Shards, licence: Path) -> None:
    """Put models and held-out text where they go: all of it, or, where anything is wrong, nothing.

    Raises RunError where a folder is larger than `pretrained.LIMIT`.
    """
    with contextlib.ExitStack() as stack:
        aside = {name: stack.enter_context(whole_folder(making.into / name)) for name in (TEXT, *MADE_LIKE)}
        facts = _facts(shards)
        write_text(aside[TEXT], shards, facts, licence)
        for name in MADE_LIKE:
            write_model(aside[name], making.out / name, shards, facts, making)
        large = [f"{name} has {pretrained.size(aside[name]):,} bytes" for name in aside]
        if any(pretrained.size(folder) > pretrained.LIMIT for folder in aside.values()):
            raise RunError(
                "; ".join(large), f"at most {pretrained.LIMIT:,} each", "train on fewer --tokens: the log is shorter"
            )


def write_model(folder: Path, run: Path, shards: Shards, facts: dict[str, Any], making: Making) -> None:
    """A run as it goes into the package: weights in bf16, the text beside it, nothing of the machine's folders."""
    recipe, environment = read_recipe(run), read_json(run / ENVIRONMENT)
    recipe["shards"] |= {"folder": f"../{TEXT}"}
    recipe["shards"].pop("text", None)  # tells all of the text, of which what was held out goes with it
    recipe["data"]["sources"] = facts["sources"]
    write_json(folder / RECIPE, recipe)
    write_json(folder / ENVIRONMENT, {name: environment[name] for name in KEPT if name in environment})
    lines = (run / METRICS).read_text("utf-8").splitlines(keepends=True)
    write_atomic(folder / METRICS, "".join(line for line in lines if str(making.out) not in line).encode())
    shutil.copyfile(run / SAMPLES, folder / SAMPLES)
    save(load(run, dtype=torch.bfloat16), folder / MODEL, tokenizer=shards.tokenizer)
    write_atomic(folder / "README.md", _about_model(run.name, folder, facts, making).encode())


def write_text(folder: Path, shards: Shards, facts: dict[str, Any], licence: Path) -> None:
    """The held-out documents as shards of their own, whose meta.json counts and describes all of the text."""
    end = shards.tokenizer.end_of_text
    with ShardWriter(folder, shards.tokenizer) as writer:
        for row in map(int, shards.rows("validation")):
            ids = shards.document_tokens(row).tolist()
            writer.add(ids if end is None else ids[:-1], int(shards.documents[row, BYTES]), VALIDATION)
        meta = writer.finish(facts)
    shutil.copyfile(licence, folder / "LICENSE")
    write_atomic(folder / "README.md", _about_text(meta).encode())


def _facts(shards: Shards) -> dict[str, Any]:
    """What meta.json says of the whole text, and of the part of it that is left out."""
    digest = hashlib.sha256()
    for row in shards.rows("train"):
        digest.update(shards.text_bytes(int(row)))
    left_out = {"sha256": digest.hexdigest(), "token_counts": unigram_counts(shards).tolist()}
    sources = [Path(str(source)).name for source in shards.meta["sources"]]
    return {
        **shards.meta,
        "sources": sources,
        "skipped_files": [Path(name).name for name in shards.meta["skipped_files"]],
        "text": f"the standard library of Python {platform.python_version()}"
        if sources == [STDLIB]
        else ", ".join(sources),
        "left_out": {"train": left_out},
    }


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _licence() -> Path:
    """The licence beside Python's library. Raises DataError where a distribution has put it elsewhere."""
    found = _library() / "LICENSE.txt"
    if not found.is_file():
        raise DataError(f"there is no {found}", "the licence of Python's library", "name it: --licence FILE")
    return found


# --- what is said of it ---------------------------------------------------------------------------------------------------


def _about_text(meta: dict[str, Any]) -> str:
    here, read = (f"{meta['documents'][s]:,} files, {meta['bytes'][s]:,} bytes" for s in ("validation", "train"))
    return f"""# Held-out text

{here} of {meta["text"]}, as tokens of a byte-level BPE of {meta["vocab_size"]:,}:
the files that no model here has read, held out by a hash of what is in them.

The other {read}, were read from in training and are not here. `meta.json` has their sha256 (of
the texts one after another) and how often each token stands in them.

The text is under the Python Software Foundation's licence ([LICENSE](LICENSE)); files with a notice of their own carry it at
their top. Made by `make pretrained`.
"""


def _about_model(name: str, folder: Path, meta: dict[str, Any], making: Making) -> str:
    """Every figure from the folder's own files."""
    recipe, environment = read_recipe(folder), read_json(folder / ENVIRONMENT)
    rows = [json.loads(line) for line in (folder / METRICS).read_text("utf-8").splitlines()]
    trained, last = ([row for row in rows if row["kind"] == kind][-1] for kind in ("train", "eval"))
    return f"""# {name}

The recipe `{MADE_LIKE[name]}` with {recipe["parameters"]:,} parameters, trained on {trained["tokens"]:,} tokens of
{meta["text"]}.

| | |
|---|---|
| bits per byte of the held-out text | {last["bits_per_byte"]:.4f} (gzip -9 {last["baselines"]["gzip_bits_per_byte"]:.4f}, \
token frequencies {last["baselines"]["unigram_bits_per_byte"]:.4f}) |
| perplexity, accuracy of the next token | {last["perplexity"]:.2f}, {100 * last["accuracy"]:.1f} % |
| text | {meta["documents"]["train"]:,} files of {meta["bytes"]["train"]:,} bytes, {meta["tokens"]["train"]:,} tokens; \
held out {meta["documents"]["validation"]:,} of {meta["bytes"]["validation"]:,} bytes |
| sha256 of that text | {meta["left_out"]["train"]["sha256"]} |
| training | {trained["step"]:,} steps of {ROWS} x {LENGTH} tokens in {trained["seconds"] / 60:.1f} minutes by the clock, \
{environment["threads"]} thread, {environment["precision"]}; seed {recipe["seed"]} |
| command | `python -m formers.experiments.pretrained --tokens {making.tokens} --threads {making.threads} \
--compile {making.compile} --seed {making.seed}` |

`recipe.json`, `environment.json` and `metrics.jsonl` (every step and evaluation) are what the training wrote. The weights are
its own, rounded to bf16.

The weights are under the licence of formers. The text is the Python Software Foundation's, under its licence, of which
[../{TEXT}/LICENSE](../{TEXT}/LICENSE) is a copy; what the model writes may repeat it.
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; 130 where a signal stopped it, 2 where it cannot be made."""
    making = tyro.cli(Making, args=arguments)
    try:
        return 0 if make(making, lambda line: print(line, flush=True)) is None else 130
    except FormersError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
