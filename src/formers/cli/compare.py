"""`formers compare`: recipes at the same budget on the same text, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from formers.cli.console import emit, speaker, stdout
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import ConfigError

if TYPE_CHECKING:
    from formers.experiments.compare import CompareSettings, Plan


@dataclass(frozen=True)
class Options:
    """Train recipes from several seeds on the same rows of the same text at the same budget, read the same documents with each,
    and say which wins, by how much, and where it cannot be told.

    Writes compare.json, compare.csv, report.html and a run folder for each training. Ctrl-C is fine: the same command goes on
    where it stopped, and what is trained is not trained again.
    """

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE...")]
    """Recipes (gpt2.tiny, file.py:function), runs that ended before (several seeds with commas between), or the folder of an
    earlier comparison. LABEL=RECIPE gives a label, RECIPE@2M a model of so many parameters whatever the others have."""
    budget: tuple[str, ...] = ()
    """One of tokens=4M, minutes=10, flops=1e14, bytes=12MB, steps=300; and parameters=2M for the size of all."""
    seeds: int = 3
    """Trainings of each recipe."""
    match: Literal["parameters", "operations", "nothing"] = "parameters"
    """What all models are brought to have as much of, by their widths and depths: as much as the first."""
    tolerance: float = 0.01
    """How far from it a model may be."""
    data: Path | None = None
    """A shard folder in place of the first recipe's text."""
    batch_size: int | None = None
    """Rows of an update; the first recipe's where none."""
    seq_len: int | None = None
    """Tokens a row; the first recipe's where none."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = field(default=())
    """Settings of every training in place of its recipe's, such as lr=0.001."""
    task: str | None = None
    """A task that is made as it is read, in place of text: induction, recall, copying, brackets, automata, moons."""
    own_tokenizers: Flag = False
    """Every recipe keeps its own tokenizer."""
    documents: int = 40
    """Validation documents that are read."""
    longest: int = 65_536
    """Bytes that such a document has at most."""
    text: str | None = None
    """True beside predicted tokens of the beginning of this text; of a document where none."""
    code: str | None = None
    """file.py:function, for runs of a model of your own."""
    seed: int = 0
    """Of the first training."""
    dry_run: Flag = False
    """Say what would be done and how long it takes, and train nothing."""
    out: Path = Path("runs/compare")
    """Where runs and results go; what stands there is gone on with."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "compare")
    if not options.recipes:
        raise ConfigError(
            "no recipe is named", "formers compare RECIPE... --budget tokens=4M", "formers models lists them"
        )
    settings = _settings(options)
    from formers.experiments import compare
    from formers.experiments.entrants import entries

    talk = speaker(options.json)
    if options.task is not None:
        return _task(options, settings, talk)
    plan = compare.make_plan(entries(options.recipes), settings, data=options.data, quiet=options.json)
    _check_text(plan, options.text)
    for line in (*(match.words() for match in plan.matches), *plan.notes):
        talk.print(line, markup=False)
    with talk.status("measuring ..."):
        costs = compare.estimate(plan, options.out)
    seconds = compare.seconds_left(plan, options.out, costs)
    talk.print(_time(plan, seconds, costs), markup=False)
    if options.dry_run:
        if options.json:
            emit({"seconds": seconds, "matching": plan.matches, "notes": plan.notes, "costs": costs})
        return 0
    if compare.train(plan, options.out, progress=False if options.json else None, before=_announce(talk)):
        return 130  # the training has said how to go on
    return _finish(options, plan, costs, talk)


def _check_text(plan: Plan, text: str | None) -> None:
    """What a tokenizer cannot express is said before hours of training."""
    for entrant in plan.entrants if text is not None else ():
        (entrant.contestants[0].shards or plan.shards).tokenizer.encode(str(text))


def _settings(options: Options) -> CompareSettings:
    from formers.experiments import budget
    from formers.experiments.compare import CompareSettings

    return CompareSettings(
        budget=budget.parse(options.budget) if options.budget else None,
        seeds=options.seeds,
        match=options.match,
        tolerance=options.tolerance,
        batch_size=options.batch_size,
        seq_len=options.seq_len,
        documents=options.documents,
        longest=options.longest,
        own_tokenizers=options.own_tokenizers,
        code=options.code,
        seed=options.seed,
        train=changed_settings(options.set),
    )


def _time(plan: Plan, seconds: float, costs: dict[str, dict[str, Any]]) -> str:
    from formers.comparison.words import duration

    trainings = sum(len(e.contestants) for e in plan.entrants if not e.joined)
    each = ", ".join(
        f"{label} {1e6 * cost['seconds'] / cost['tokens']:.0f} us a token" for label, cost in costs.items()
    )
    return f"{trainings} trainings, {len(plan.documents)} documents to read: about {duration(seconds)} to go ({each})"


def _announce(talk: Any) -> Any:
    return lambda contestant: talk.print(f"training {contestant.name}", markup=False)


def _finish(options: Options, plan: Plan, costs: dict[str, Any], talk: Any) -> int:
    with talk.status("reading ..."):
        result = results(plan, options.out, costs, text=options.text, say=lambda text: talk.print(text, markup=False))
    return _write(options, result)


def results(
    plan: Plan, out: Path, costs: dict[str, Any], *, text: str | None = None, say: Callable[[str], None]
) -> dict[str, Any]:
    """What compare.json is to hold, once all are trained: the documents are read, and texts written."""
    from formers.experiments import compare, outcome

    rows = compare.read(plan, out, say=say)
    return outcome.summarise(plan, rows, out, costs) | {"texts": outcome.texts(plan, out, text)}


TEXT_ALONE = ("data", "seq_len", "own_tokenizers", "documents", "longest", "text", "code")
"""Options that mean nothing to a task."""


def _check_task(options: Options) -> None:
    """Refuse what a task would pass over."""
    given = [f.name for f in fields(options) if f.name in TEXT_ALONE and getattr(options, f.name) != f.default]
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(
            f"{names} with --task {options.task}, which makes its rows itself", "a task or text", "leave them out"
        )


def _task(options: Options, settings: CompareSettings, talk: Any) -> int:
    from formers.experiments import task_contest
    from formers.experiments.entrants import entries, unique

    _check_task(options)
    plan = task_contest.make_plan(unique(entries(options.recipes)), str(options.task), settings)
    for match in plan.matches:
        talk.print(match.words(), markup=False)
    talk.print(f"{len(plan.contestants)} trainings on {plan.task.name}: {plan.task.summary}", markup=False)
    if options.dry_run:
        if options.json:
            emit({"task": plan.task.name, "trainings": len(plan.contestants), "matching": plan.matches})
        return 0
    progress = False if options.json else None
    if task_contest.run_all(plan, options.out, progress=progress, say=lambda text: talk.print(text, markup=False)):
        return 130
    return _write(options, task_contest.summarise(plan, options.out))


def _write(options: Options, result: dict[str, Any]) -> int:
    """Files, and what the terminal shows."""
    from formers.comparison.contests import contest_table

    report = keep(result, options.out)
    if options.json:
        emit({**result, "folder": options.out, "report": report})
        return 0
    stdout().print(contest_table(result))
    stdout().print(f"\n{result['verdict']}", markup=False)
    stdout().print(
        f"\nwritten: {report} (open it in any browser), compare.json and compare.csv beside it", markup=False
    )
    return 0


def keep(result: dict[str, Any], out: Path) -> Path:
    """Write compare.json, compare.csv and the report into `out`; the report's path."""
    from formers.comparison import write_report
    from formers.comparison.contests import contest_table
    from formers.experiments.entrants import RESULT
    from formers.files import write_atomic, write_json

    write_json(out / RESULT, result)
    write_atomic(out / "compare.csv", contest_table(result).csv().encode())
    return write_report([out], out / "report.html")
