"""Run folders to one self-contained HTML file: no network, no second file, at most 500 kB plus 20 kB a run.

The page is ``report.html`` with its style, its scripts, the vendored chart script and the data put in by plain string
replacement. A content security policy allows exactly these two scripts, by their hashes, and nothing from anywhere else:
even a mistake in escaping could not run a sample.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from . import budget, contest_page, evidence, page
from .contests import is_contest, positions, read_contest, runs_of
from .escaping import embed, text
from .runs import RunLike, RunRecord, labels, read_runs
from .series import curves
from .shell import check_out, fill, policy, resource, version, write
from .tables import Table, table
from .words import summary

Contest: TypeAlias = tuple[Mapping[str, Any], Mapping[Path, str]]
"""What a comparison found, and the entrant of each of its run folders."""


def write_report(run_folders: Sequence[RunLike] | RunLike, out: Path | str) -> Path:
    """Write the report of one or several runs to ``out`` (an HTML file; its folder is made) and return its path. The folder
    of a comparison stands for all its runs, and its verdict comes first.

    Raises RunError where a folder is not a readable run, or ``out`` cannot be a file.
    """
    given = run_folders if isinstance(run_folders, Sequence) and not isinstance(run_folders, str) else [run_folders]
    runs, contests = with_contests(given)
    out = check_out(out)
    write(out, render(runs, contests))
    return out


def with_contests(given: Sequence[RunLike]) -> tuple[list[RunRecord], list[Contest]]:
    """Runs, those of comparisons in their place, and the comparisons themselves."""
    folders: list[RunLike] = []
    contests: list[Contest] = []
    for each in given:
        if isinstance(each, RunRecord) or not is_contest(each):
            folders.append(each)
            continue
        result = read_contest(each)
        members = runs_of(each, result)
        folders += [folder for _, folder in members]
        contests.append((result, {folder.resolve(): name for name, folder in members}))
    return read_runs(folders), contests


def render(runs: Sequence[RunRecord], contests: Sequence[Contest] = ()) -> str:
    """The whole page as text. Runs with unusually much text get tighter bounds until the page keeps its size limit."""
    most = budget.limit(len(runs))
    for squeeze in (1.0, 0.6, 0.3, 0.15):
        content = _render(runs, contests, budget.fair(len(runs), squeeze))
        if len(content.encode()) <= most:
            break
    return content


def _render(runs: Sequence[RunRecord], contests: Sequence[Contest], bounds: budget.Budget) -> str:
    names, content = labels(runs), table(runs)
    vendor_script, script = _vendored(), "".join(map(resource, _SCRIPTS))
    looks = page.looks(_groups(runs, contests))
    data = {
        "looks": looks,
        "runs": [
            {"name": name, **curves(run, bounds), **_read_by(run, contests)}
            for run, name in zip(runs, names, strict=True)
        ],
    }
    fields = {
        "policy": policy(vendor_script, script),
        "style": resource("vendor/uPlot.min.css") + resource("report.css") + page.look_style(looks),
        "vendor_script": vendor_script,
        "script": script,
        "data": embed(data),
        "binning": _binning(runs, bounds),
        **_written(runs, names, content, bounds),
        **_of_contests(runs, contests),
    }
    return fill(resource("report.html"), fields)


def _groups(runs: Sequence[RunRecord], contests: Sequence[Contest]) -> list[int]:
    """Which runs share a colour: the trainings of one entrant; every other run has its own."""
    keys = [
        next(((at, members[where]) for at, (_, members) in enumerate(contests) if where in members), (-1, str(where)))
        for where in (run.path.resolve() for run in runs)
    ]
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [order[key] for key in keys]


def _read_by(run: RunRecord, contests: Sequence[Contest]) -> dict[str, Any]:
    """Loss by place on the documents of a comparison, which all its runs read, in place of the run's own evaluation."""
    for result, members in contests:
        name = members.get(run.path.resolve())
        if name is not None and result["entrants"][name].get("by_position"):
            return {"position": {"step": run.steps, **positions(result, name)}}
    return {}


def _of_contests(runs: Sequence[RunRecord], contests: Sequence[Contest]) -> dict[str, str]:
    """What a page about comparisons has more, and what it says in place of a ranking of single trainings."""
    entrants = sum(len(result["ranking"]) for result, _ in contests)
    covered = {folder for _, members in contests for folder in members} >= {run.path.resolve() for run in runs}
    seeds = "from several seeds each" if len(runs) > entrants else "once each"
    said = f"{entrants} entrants, trained {seeds}: {len(runs)} trainings in all."
    instead = {"title": f"{entrants} entrants compared", "summary": page.paragraphs([said])} if covered else {}
    return {
        **instead,
        "contests": "\n".join(contest_page.section(result, number) for number, (result, _) in enumerate(contests)),
        "contest_link": '<a href="#contest-0">Comparison</a>\n    ' if contests else "",
        "results_heading": "Trainings" if contests else "Results",
    }


def _written(runs: Sequence[RunRecord], names: Sequence[str], content: Table, bounds: budget.Budget) -> dict[str, str]:
    """The parts of the page that are text and tables."""
    return {
        "title": text(page.title(names)),
        "summary": page.paragraphs(summary(runs, content.rows)),
        "tiles": page.tiles(runs, content.rows),
        "picker": page.picker(names),
        "results": page.results(content, names),
        "meanings": page.glossary(content),
        "baselines": page.baselines(content),
        "chance": _CHANCE if len(runs) > 1 else "",
        "alone": "alone" if len(runs) == 1 else "together",
        "samples": evidence.samples(runs, names, bounds),
        "certificates": evidence.certificates(runs, names),
        "recipes": evidence.settings([run.recipe for run in runs], names, bounds),
        "environments": evidence.settings([run.environment for run in runs], names, bounds),
        "events": evidence.events(runs, names, bounds),
        "written": text(f"{datetime.datetime.now().astimezone():%d %B %Y, %H:%M %Z}"),
        "version": text(version()),
    }


_CHANCE = (
    '<p class="note">Bold: the best number in its column. Each row is one training, so a small difference may be chance. '
    "Click a heading to sort.</p>"
)


_SCRIPTS = ("numbers.js", "lines.js", "charts.js", "report.js")


def _binning(runs: Sequence[RunRecord], bounds: budget.Budget) -> str:
    longest = max(len(run.train) for run in runs)
    if longest <= bounds.points:
        return "Every recorded training step is drawn."
    return (
        f"The longest run recorded {longest:,} training steps; curves are drawn from at most {bounds.points:,} bins of "
        "consecutive steps. Loss, throughput and gradient norm show the mean of each bin, the shaded band runs from its "
        "smallest to its largest value, and the learning rate is that of its last step. "
        "A bin with a value that is not a number is left out, as a gap."
    )


def _vendored() -> str:
    """The chart script under its licence, which asks to be in every copy."""
    return f"/*\n{resource('vendor/LICENSE')}*/\n{resource('vendor/uPlot.iife.min.js')}"
