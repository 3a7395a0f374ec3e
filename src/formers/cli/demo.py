"""`formers demo`: a tournament, from text to report, in under eight minutes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.cli.console import emit, facts, speaker, table
from formers.cli.parse import Flag, parse

if TYPE_CHECKING:
    from rich.console import Console

    from formers.experiments.compare import Plan
    from formers.experiments.demo import Writing
    from formers.laws.report import Report

MINUTES = 1.9
"""Of each training: with everything else the demo stays within seven and a quarter on two cores."""

STAGES = 6


@dataclass(frozen=True)
class Options:
    """A tournament on real text: a GPT-2, a memorizing transformer and a memory mosaic are certified, brought to as many
    parameters and trained for as many minutes each; all read the same documents, and a verdict says what can be told. Then
    the first of them writes, and a report is there to open in the browser.

    Takes about seven minutes on two cores. Ctrl-C is fine: the same command goes on where it stopped.
    """

    minutes: float = MINUTES
    """Of each training, evaluations included; everything else takes about one and a half."""
    seeds: int = 1
    """Trainings of each: from two on, what the architecture does can be told from what the seed does. --seeds 3 after a demo of
    one trains only what is missing."""
    out: Path = Path("runs/demo")
    """Its folder; a demo that ended there is replaced, an interrupted one gone on with."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "demo")
    from formers.experiments import demo

    settings = demo.settings(options.minutes, options.seeds)
    goes_on = demo.find(options.out, minutes=options.minutes, seeds=options.seeds)
    stage = Stages(speaker(options.json))
    plan = _text(stage, options, settings)
    if not goes_on:
        demo.begin(options.out, minutes=options.minutes)
    certificates = _certify(stage, plan)
    costs = _train(stage, options, plan)
    if costs is None:
        return 130  # the training has said how to go on
    _keep(options.out, plan, certificates)
    result = _read(stage, options, plan, costs)
    writing = _write(stage, options, plan, result["ranking"][0])
    report = _report(stage, options, result)
    ok = all(certificate.ok for certificate in certificates.values())
    found = _found(options, certificates, result, writing) | {"seconds": stage.seconds}
    demo.end(options.out, minutes=options.minutes, seeds=options.seeds, found=found)
    if options.json:
        emit({**found, "folder": options.out, "report": report, "comparison": result})
    return 0 if ok else 1


class Stages:
    """Numbers the stages and keeps the time."""

    def __init__(self, console: Console) -> None:
        self.console, self.began, self.number = console, time.monotonic(), 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __call__(self, title: str) -> None:
        self.number += 1
        self.console.print(f"\n{self.number}/{STAGES}  {title}", style="bold", markup=False)


def _text(stage: Stages, options: Options, settings: Any) -> Plan:
    from formers.experiments import demo
    from formers.experiments.compare import make_plan

    stage("Text: the source of Python's own library, cut into kinds of tokens learnt from it")
    plan = make_plan(demo.entries(), settings, quiet=options.json)
    shards, meta = plan.shards, plan.shards.meta
    counts = ", ".join(f"{meta['tokens'][s]:,} tokens {s} ({meta['bytes'][s] / 1e6:.1f} MB)" for s in meta["tokens"])
    line = "for index, value in enumerate(values):"
    pieces = " | ".join(shards.tokenizer.display(line))
    stage.console.print(
        facts(
            [
                ("shards", str(shards.folder)),
                ("size", counts),
                ("tokens", f"{shards.vocab_size:,} kinds; a line: {pieces}"),
            ]
        )
    )
    return plan


def _certify(stage: Stages, plan: Plan) -> dict[str, Report]:
    from formers.experiments import demo
    from formers.laws.report import show

    stage("Certificates: the laws that language models must obey, tried on these")
    found = {}
    for entrant in plan.entrants:
        with stage.console.status(f"trying the laws on {entrant.label} ..."):
            found[entrant.label] = demo.certificate(entrant.recipe)
    stage.console.print(_laws(found))
    for report in found.values():
        show(report, stage.console) if not report.ok else stage.console.print(report.summary(), markup=False)
    return found


def _laws(found: Mapping[str, Report]) -> Any:
    """A line a law, a column a model."""
    from rich.text import Text

    from formers.laws.report import MARKS

    drawn = table("law", *found)
    for law in dict.fromkeys(name for report in found.values() for name in report.laws):
        marks = [MARKS[r.laws[law].status] if law in r.laws else ("", "") for r in found.values()]
        drawn.add_row(law, *(Text(mark, style) for mark, style in marks))
    return drawn


def _train(stage: Stages, options: Options, plan: Plan) -> dict[str, Any] | None:
    """What a step of each costs; None where a signal stopped the training."""
    from formers.cli.live import Live
    from formers.experiments import compare

    trainings = len(plan.contestants)
    stage(f"Training: {trainings} models of one size, {options.minutes:g} minutes each")
    for line in (*(match.words() for match in plan.matches), *plan.notes):
        stage.console.print(line, markup=False)
    with stage.console.status("measuring a step of each ..."):
        costs = compare.estimate(plan, options.out)
    live = Live(stage.console)
    stopped = compare.train(
        plan,
        options.out,
        on_event=live.show,
        progress=live.is_terminal,
        before=lambda contestant: stage.console.print(f"\n{contestant.name}", style="bold", markup=False),
    )
    return None if stopped else costs


def _keep(out: Path, plan: Plan, certificates: Mapping[str, Report]) -> None:
    """Every run has the certificate of its model."""
    from formers.files import write_json

    for entrant in plan.entrants:
        for contestant in entrant.contestants:
            write_json(contestant.at(out) / "certificate.json", certificates[entrant.label].to_dict())


SHOWN = ("name", "bits_per_byte", "behind", "top1", "parameters", "tokens", "seconds", "tokens_per_second")


def _read(stage: Stages, options: Options, plan: Plan, costs: dict[str, Any]) -> dict[str, Any]:
    from formers.cli.compare import results
    from formers.comparison.contests import contest_table

    stage(f"Reading: the same {len(plan.documents)} documents, which none was trained on, with each")
    with stage.console.status("reading ...") as status:
        result = results(plan, options.out, costs, say=status.update)
    stage.console.print(contest_table(result).part(*SHOWN))
    gzip = result["documents"]["gzip_bits_per_byte"]
    stage.console.print(f"\ngzip -9 needs {gzip:.3f} bits per byte of the same documents.", markup=False)
    stage.console.print(f"\n{result['verdict']}", style="bold", markup=False)
    if options.seeds == 1:
        more = 2 * len(plan.entrants) * options.minutes
        stage.console.print(
            "These are three trainings, not yet three architectures: formers demo --seeds 3 adds two more of each, in about "
            f"{more:.0f} minutes. What is held equal, and when it can be told: docs/compare.md.",
            markup=False,
        )
    return result


def _write(stage: Stages, options: Options, plan: Plan, first: str) -> Writing:
    from formers.experiments import demo
    from formers.hub import targets

    stage(f"Writing: {demo.NUM_SAMPLES} samples of {first} that begin with {demo.PROMPT!r}")
    contestant = next(entrant for entrant in plan.entrants if entrant.label == first).contestants[0]
    with stage.console.status("writing ..."):
        writing = demo.write(targets.load(contestant.at(options.out)), plan.shards)
    stage.console.print(writing.model.example.rstrip(), style="cyan", markup=False)
    stage.console.print(f"\n{_verdict(writing)}", markup=False)
    return writing


def _verdict(writing: Writing) -> str:
    good, of = writing.model.good, len(writing.model.texts)
    return (
        f"{good} of {of} samples pass Python's tokenize up to their last whole line; "
        f"of {of} drawn by token frequency, {writing.unigram.good}."
    )


def _report(stage: Stages, options: Options, result: dict[str, Any]) -> Path:
    from formers.cli.compare import keep

    stage("Report")
    report = keep(result, options.out)
    run = options.out / result["entrants"][result["ranking"][0]]["runs"][0]
    stage.console.print(f"{report} (open it in any browser)", markup=False, style="bold", soft_wrap=True)
    stage.console.print(f"All of it took {stage.seconds / 60:.1f} minutes. Next: formers generate {run} 'class '")
    return report


def _found(
    options: Options, certificates: Mapping[str, Report], result: Mapping[str, Any], writing: Writing
) -> dict[str, Any]:
    """What the demo found, beside the comparison."""
    return {
        "minutes": options.minutes,
        "seeds": options.seeds,
        "certificates": {name: certificate.to_dict() for name, certificate in certificates.items()},
        "writer": result["ranking"][0],
        "samples": len(writing.model.texts),
        "tokenizable": writing.model.good,
        "tokenizable_unigram": writing.unigram.good,
        "texts": list(writing.model.texts),
    }
