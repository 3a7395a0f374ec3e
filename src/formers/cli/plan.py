"""`formers plan`: memory and time of a training before it begins; of a run, prediction against fact."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.cli import train_options
from formers.cli.console import emit, facts, stdout, table
from formers.cli.parse import Flag, parse
from formers.cli.show import size
from formers.errors import ConfigError
from formers.files import plain
from formers.recipes import DataSettings, TrainSettings

if TYPE_CHECKING:
    from formers.experiments.plan import Fact, Plan

HELP = ("-h", "--help")


@dataclass(frozen=True)
class Options:
    """What it would take to train a recipe on this machine: memory, time of a step, what would fit."""

    data: Path | None = None
    """A shard folder, whose vocabulary the model will have."""
    json: Flag = False
    """Print the result as JSON on stdout."""
    text: DataSettings = field(default_factory=DataSettings)
    """Settings of the text (the recipe's `data`)."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Settings of the loop."""


@dataclass(frozen=True)
class RunOptions:
    """What a run took, beside what would have been predicted."""

    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    name, rest = train_options.split(arguments)
    if name is None:
        if any(word in HELP for word in rest):
            parse(Options, rest, "plan RECIPE")  # prints the help and ends
        raise ConfigError("no recipe and no run is named", "formers plan RECIPE [options], or formers plan RUN")
    if (Path(name) / "recipe.json").is_file():
        return _run(Path(name), rest)
    from formers import recipes

    default = recipes.get(name)
    options, recipe = train_options.of_recipe(Options, rest, f"plan {name}", default)
    from formers.experiments.plan import plan

    found = plan(recipe, vocab_size=_vocabulary(options, default.model, recipe.model))
    return _report(found, None, options.json)


def _vocabulary(options: Options, default: Any, asked: Any) -> int | None:
    """The model's vocabulary where it was asked for, or the one of the shards that were named."""
    if asked.vocab_size != default.vocab_size:
        return asked.vocab_size
    if options.data is None:
        return None
    from formers.data import open_shards

    return open_shards(options.data).vocab_size


def _run(folder: Path, rest: list[str]) -> None:
    """Prediction against fact."""
    options = parse(RunOptions, rest, f"plan {folder}")
    from formers import recipes
    from formers.comparison import read_run
    from formers.experiments.plan import fact, plan
    from formers.training.precision import Numerics

    record, recipe = read_run(folder), recipes.read(folder)
    known = {item.name for item in dataclasses.fields(Numerics)} - {"notes"}
    stored = {name: record.environment[name] for name in known if name in record.environment}
    numerics = Numerics(**stored) if stored.keys() == known else None
    found = plan(recipe, vocab_size=recipe.model.vocab_size, numerics=numerics)
    return _report(found, fact(record.environment, record.train, found.tokens), options.json)


def _report(found: Plan, was: Fact | None, as_json: bool) -> None:
    from formers.experiments.plan import alternatives, most_rows

    rows, others = most_rows(found), [] if found.fits else alternatives(found)
    if as_json:
        return emit(_as_json(found, rows, others, was))
    console = stdout()
    console.print(facts(_facts(found, rows)))
    if was is not None:
        console.print()
        console.print(facts(_against(found, was)))
    if others:
        console.print()
        console.print(f"{size(found.peak)} where {size(found.have)} may be taken. What changes that:")
        grid = table("change", "peak", "", right=(1,))
        for words, other in others:
            grid.add_row(words, size(other.peak), "fits" if other.fits else "")
        console.print(grid)
    return None


def _facts(found: Plan, rows: int) -> list[tuple[str, str]]:
    train, numerics = found.recipe.train, found.numerics
    compiled, fits = "compiled" if numerics.compile else "not compiled", "fits" if found.fits else "does NOT fit"
    how = f"{numerics.device}, {numerics.precision}, {compiled}, {numerics.threads} threads"
    pairs = [
        ("step", f"{train.batch_size} x {train.seq_len} tokens in {train.accumulate} micro-batches; {how}"),
        *((name, size(value)) for name, value in found.parts().items() if value),
        ("peak memory", f"{size(found.peak)}; {size(found.have)} may be taken here: it {fits}"),
        ("largest micro-batch", f"{rows} rows of {train.seq_len} tokens" if rows else "not one row fits"),
        ("time", f"about {found.seconds:.2g} s a step, {found.tokens / found.seconds:,.0f} tokens a second"),
    ]
    if train.steps_limited:
        from formers.training.estimates import duration

        pairs.append(
            ("", f"{train.total_steps:,} steps: about {duration(found.seconds * train.total_steps)}, evaluations aside")
        )
    return pairs


def _against(found: Plan, was: Fact) -> list[tuple[str, str]]:
    pairs = []
    if was.peak is not None:
        pairs.append(("peak memory, in fact", f"{size(was.peak)}: predicted / fact {found.peak / was.peak:.2f}"))
    if was.seconds is not None:
        pairs.append(("a step, in fact", f"{was.seconds:.3g} s: predicted / fact {found.seconds / was.seconds:.2f}"))
    return pairs or [("in fact", "the run did not write down what it took")]


def _as_json(found: Plan, rows: int, others: list[tuple[str, Plan]], was: Fact | None) -> dict[str, Any]:
    return {
        "recipe": found.recipe.name,
        "numerics": plain(found.numerics),
        "bytes": found.parts(),
        "checkpoint_bytes": found.footprint.checkpoint,
        "peak_bytes": found.peak,
        "may_take_bytes": found.have,
        "fits": found.fits,
        "largest_micro_batch": rows,
        "seconds_a_step": found.seconds,
        "tokens_a_step": found.tokens,
        "parameters": found.footprint.parameters,
        "changes": [{"options": words, "peak_bytes": other.peak, "fits": other.fits} for words, other in others],
        "fact": None if was is None else {"peak_bytes": was.peak, "seconds_a_step": was.seconds},
    }
