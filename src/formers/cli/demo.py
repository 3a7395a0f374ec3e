"""`formers demo`: everything once, in six minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.cli.console import emit, facts, speaker
from formers.cli.parse import Flag, parse

if TYPE_CHECKING:
    from rich.console import Console

    from formers.data import Shards
    from formers.experiments.demo import Writing
    from formers.laws.report import Report
    from formers.training import RunResult


@dataclass(frozen=True)
class Options:
    """Text to tokens, a certified and trained GPT-2, its score, its writing, and a report to open in the browser.

    Takes about six minutes on two cores. Ctrl-C is fine: the same command goes on where it stopped.
    """

    minutes: float = 3.5
    """Of training."""
    out: Path = Path("runs/demo")
    """The run folder; a demo that stands there is replaced, an interrupted one gone on with."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "demo")
    from formers.experiments import demo

    stage = Stages(speaker(options.json))
    resume = demo.find(options.out)
    shards, recipe = _text(stage, options)
    certificate = _certify(stage, recipe)
    result = _train(stage, options, recipe, shards, resume)
    if result.interrupted is not None:
        return 130  # the training has said how to go on
    _keep(options.out, certificate)
    writing = _write(stage, result, shards)
    report = _report(stage, options.out)
    if options.json:
        emit(_result(result, certificate, writing, report, stage.seconds))
    return 0 if certificate.ok else 1


class Stages:
    """Numbers the stages and keeps the time."""

    def __init__(self, console: Console) -> None:
        self.console, self.began, self.number = console, time.monotonic(), 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __call__(self, title: str) -> None:
        self.number += 1
        self.console.print(f"\n{self.number}/5  {title}", style="bold", markup=False)


def _text(stage: Stages, options: Options) -> tuple[Shards, Any]:
    from formers.experiments import demo
    from formers.experiments.text import prepare

    stage("Text: the source of Python's own library, cut into 4,096 kinds of tokens learnt from it")
    recipe, shards = prepare(demo.recipe(options.minutes), quiet=options.json)
    meta = shards.meta
    counts = ", ".join(f"{meta['tokens'][s]:,} tokens {s} ({meta['bytes'][s] / 1e6:.1f} MB)" for s in meta["tokens"])
    line = "for index, value in enumerate(values):"
    pieces = " | ".join(shards.tokenizer.display(line))
    stage.console.print(facts([("shards", str(shards.folder)), ("size", counts), ("a line", pieces)]))
    return shards, recipe


def _certify(stage: Stages, recipe: Any) -> Report:
    from formers.laws import certify
    from formers.laws.report import show

    stage("Certificate: the laws that a GPT-2 must obey, tried on this one")
    with stage.console.status("trying the laws ..."):
        report = certify(recipe.build(), fresh=True, target="gpt2.tiny")
    show(report, stage.console)
    return report


def _train(stage: Stages, options: Options, recipe: Any, shards: Shards, resume: bool) -> RunResult:
    from formers.cli.live import Live
    from formers.experiments.run import Run

    stage(f"Training: {options.minutes:g} minutes, then all validation text")
    live = Live(stage.console)
    run = Run(recipe, shards, options.out, resume=resume)
    result = run.start(on_event=live.show, progress=live.is_terminal, resume_command="formers demo")
    if result.evaluation is not None and result.interrupted is None:
        baselines = result.evaluation["baselines"]
        stage.console.print(
            facts(
                [
                    ("validation", f"{result.evaluation['bits_per_byte']:.3f} bits per byte"),
                    ("gzip -9", f"{baselines['gzip_bits_per_byte']:.3f} on the same bytes"),
                    ("unigram", f"{baselines['unigram_bits_per_byte']:.3f}: tokens by their frequency alone"),
                    ("done", f"{result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:,.0f} s"),
                ]
            )
        )
    return result


def _keep(out: Path, certificate: Report) -> None:
    from formers.files import write_json

    write_json(out / "certificate.json", certificate.to_dict())


def _write(stage: Stages, result: RunResult, shards: Shards) -> Writing:
    from formers.experiments import demo

    stage(f"Writing: {demo.NUM_SAMPLES} samples that begin with {demo.PROMPT!r}")
    with stage.console.status("writing ..."):
        writing = demo.write(result.model, shards)
    stage.console.print(writing.model.example.rstrip(), style="cyan", markup=False)
    stage.console.print(f"\n{_verdict(writing)}", markup=False)
    return writing


def _verdict(writing: Writing) -> str:
    good, of = writing.model.good, len(writing.model.texts)
    return (
        f"{good} of {of} samples pass Python's tokenize up to their last whole line; "
        f"of {of} drawn by token frequency, {writing.unigram.good}."
    )


def _report(stage: Stages, out: Path) -> Path:
    from formers.comparison import table, write_report

    stage("Report")
    report = write_report([out], out / "report.html")
    stage.console.print(table([out]))
    stage.console.print(f"\n{report} (open it in any browser)", markup=False, style="bold")
    stage.console.print(f"All of it took {stage.seconds / 60:.1f} minutes. Next: formers generate {out} 'class '")
    return report


def _result(result: RunResult, certificate: Report, writing: Writing, report: Path, seconds: float) -> dict[str, Any]:
    return {
        "run": result.out,
        "report": report,
        "seconds": seconds,
        "steps": result.steps,
        "evaluation": result.evaluation,
        "certificate": certificate.to_dict(),
        "samples": len(writing.model.texts),
        "tokenizable": writing.model.good,
        "tokenizable_unigram": writing.unigram.good,
        "texts": writing.model.texts,
    }
