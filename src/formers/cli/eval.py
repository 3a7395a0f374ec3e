"""`formers eval`: a trained model on validation text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import emit, facts, remark, stderr, stdout, table
from formers.cli.live import EVERY_SECONDS
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import ConfigError, DataError, TargetError
from formers.hub import targets

NAMES = {
    "gzip_bits_per_byte": "gzip -9, same bytes",
    "unigram_bits_per_byte": "unigram, same bytes",
    "unigram_loss": "unigram, same tokens",
}


@dataclass(frozen=True)
class Options:
    """Bits per byte, perplexity and accuracy on the whole validation split, and the loss by position in the document. Of a
    model that fills gaps: loss and accuracy of what is masked, the same for every evaluation."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, or a checkpoint folder together with --data."""
    data: Path | None = None
    """Another shard folder than the run's own; it needs the same tokenizer."""
    batches: int = 0
    """Only so many batches; 0: all."""
    text: str | None = None
    """In place of the split: each token of this text, the likeliest in its place, the true one's probability and rank."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones, such as memory_length=1600. Its weights must still fit."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "eval")
    targets.parse(options.run)
    from formers.experiments.evaluation import evaluate_model, shards_for

    found = targets.resolve(options.run, code=options.code, changes=changed_settings(options.set))
    remark(found.note)
    if options.text is not None:
        return _read(found, options.text, options)
    shards = shards_for(found, options.data)
    with _following() as progress:
        row = evaluate_model(found, shards, batches=options.batches, progress=progress)
    if options.json:
        return emit({"target": options.run, "data": shards.folder, **row})
    stdout().print(facts(_lines(row, str(shards.folder))))
    stdout().print()
    stdout().print(_by_position(row["by_position"]))
    return None


@contextlib.contextmanager
def _following() -> Iterator[Callable[[int, int], None]]:
    """What is told of batches done is shown on stderr: as a bar with the time that remains on a terminal, elsewhere as a line
    now and then."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console, last = stderr(), time.monotonic()
    columns = (TextColumn("evaluating {task.fields[done]}"), BarColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=None, done="...")

        def progress(done: int, many: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=many, done=f"batch {done:,} of {many:,}")
            if not console.is_terminal and time.monotonic() - last >= EVERY_SECONDS:
                last = time.monotonic()
                console.print(f"evaluated {done:,} of {many:,} batches", markup=False)

        yield progress


def _read(found: targets.Resolved, text: str, options: Options) -> None:
    """True beside predicted tokens of a text."""
    from formers.experiments.evaluation import objective_of
    from formers.experiments.outcome import predictions

    if (learnt := objective_of(found)) != "next_token":
        raise ConfigError(f"{found.name} learns {learnt}", "a model that predicts the next token", "leave --text out")
    if found.tokenizer is None:
        raise TargetError(f"{found.name} has no tokenizer", "a run, or a model folder with a tokenizer.json")
    length = len(found.tokenizer.encode(text))
    limit = getattr(getattr(found.model, "config", None), "max_length", None) or length
    if length < 2:
        raise DataError(f"{text!r} is {length} token{'s' * (length != 1)}", "two or more: the first is not predicted")
    remark(f"the first {limit:,} of {length:,} tokens, for which the model has positions" if limit < length else "")
    rows = predictions(found.model, found.tokenizer, text, most=min(length, limit))
    if options.json:
        return emit({"target": options.run, "text": text, "tokens": rows})
    content = table("True", "Likeliest", "Probability of the true one", "Rank", right=(2, 3))
    for row in rows:
        content.add_row(repr(row["true"]), repr(row["predicted"]), f"{row['chance']:.4f}", f"{row['rank'] + 1:,}")
    stdout().print(content)
    return None


def _lines(row: dict[str, Any], folder: str) -> list[tuple[str, str]]:
    text = ("text", f"{folder}, validation: {row['tokens']:,} tokens scored")
    baselines = [(f"  {NAMES.get(name, name)}", _number(value)) for name, value in sorted(row["baselines"].items())]
    loss = ("loss", f"{row['loss']:.4f} nats a token")
    perplexity = ("perplexity", f"{row['perplexity']:,.2f}")
    if row["objective"] == "next_token":
        hits = f"{100 * row['accuracy']:.2f} % of the next tokens were the likeliest"
        looked = [("look-ups", f"{100 * row['recall']:.1f} % of the nearest were found")] if "recall" in row else []
        return [
            text,
            ("bits per byte", _number(row["bits_per_byte"])),
            *baselines,
            loss,
            perplexity,
            ("accuracy", hits),
            *looked,
        ]
    asked = row["objective"].replace("_", " ")
    hits = f"{100 * row['accuracy']:.2f} % of the tokens asked for were the likeliest"
    pairs = [(name.replace("_", " "), f"{row[name]:.4f}") for name in ("pair_loss", "pair_accuracy") if name in row]
    return [text, ("objective", asked), loss, *baselines, perplexity, ("accuracy", hits), *pairs]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


def _by_position(buckets: list[dict[str, Any]]) -> Any:
    content = table("Position in the document", "Loss", "Tokens", right=(1, 2))
    for bucket in buckets:
        content.add_row(
            f"{bucket['start']:,} to {bucket['end'] - 1:,}", f"{bucket['loss']:.3f}", f"{bucket['count']:,}"
        )
    return content
