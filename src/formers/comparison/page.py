"""The page's own HTML: head, summary, run picker and the table of results. Every foreign string goes through ``text``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .escaping import clip, text
from .runs import Row, RunRecord
from .tables import Column, Table
from .words import DASH, certificate_words, duration, fails, number, percent, short, show

NAME_BYTES = 80

COLOURS = 7
"""report.css defines --run-0 to --run-6 for light and for dark pages."""

DASHES = ((), (9, 4), (2, 3), (10, 3, 2, 3))
"""After seven runs the colours come again, with the next dash."""


def looks(groups: Sequence[int]) -> list[dict[str, Any]]:
    """Colour and dash of each run, for the charts: a colour for each group of runs, and a dash for each run of a group."""
    seen: dict[int, int] = {}
    found = []
    for group in groups:
        number = seen.get(group, 0)
        seen[group] = number + 1
        dash = DASHES[(group // COLOURS + number) % len(DASHES)]
        found.append({"colour": group % COLOURS, "dash": list(dash)})
    return found


def look_style(found: Sequence[dict[str, Any]]) -> str:
    """The same for the little lines in tables."""
    return "".join(
        f".look-{i} {{ stroke: var(--run-{look['colour']}); stroke-dasharray: {' '.join(map(str, look['dash'])) or 'none'} }}\n"
        for i, look in enumerate(found)
    )


def title(names: Sequence[str]) -> str:
    """The page's heading, as plain text."""
    return f"Training report: {names[0]}" if len(names) == 1 else f"{len(names)} trainings compared"


def paragraphs(sentences: Sequence[str]) -> str:
    return "\n".join(f"<p>{text(sentence)}</p>" for sentence in sentences)


def tiles(runs: Sequence[RunRecord], rows: Sequence[Row]) -> str:
    """The numbers that matter most, large, for a page about one run; nothing for several (the table has them)."""
    if len(runs) > 1:
        return ""
    run, row = runs[0], rows[0]
    found = [
        _tile("Bits per byte", row["bits_per_byte"], number, _against(row)),
        _tile("Validation loss", row["validation_loss"], number, "nats per token"),
        _tile("Accuracy", row["accuracy"], percent, "tokens guessed right"),
        _tile("Parameters", run.parameters, short, str(run.recipe.get("architecture", ""))),
        _tile("Training time", row["seconds"], duration, f"{short(row['tokens'])} tokens" if row["tokens"] else ""),
        _tile("Throughput", row["tokens_per_second"], short, "tokens per second, median"),
        _certificate_tile(run),
    ]
    return f'<dl class="tiles">{"".join(found)}</dl>'


def _tile(name: str, value: Any, form: Any, note: str) -> str:
    if value is None:
        return ""
    return f"<div><dt>{text(name)}</dt><dd>{text(form(value))}</dd><dd class=note>{text(note)}</dd></div>"


def _against(row: Row) -> str:
    gzip = row["gzip_bits_per_byte"]
    return f"gzip -9 needs {number(gzip)}" if gzip is not None else "validation text"


def _certificate_tile(run: RunRecord) -> str:
    if run.certificate is None:
        return ""
    words, kind = certificate_words(run.certificate), "fail" if fails(run.certificate) else "pass"
    shown = "fails" if kind == "fail" else "passes"
    return f'<div class="{kind}"><dt>Certificate</dt><dd>{shown}</dd><dd class=note>{text(words)}</dd></div>'


def swatch(index: int) -> str:
    """The little line in a run's colour that ties tables to charts."""
    return f'<svg class="swatch look-{index}" viewBox="0 0 24 8" aria-hidden="true"><path d="M0 4H24"/></svg>'


def picker(names: Sequence[str]) -> str:
    """Checkboxes that show and hide runs everywhere on the page; nothing for one run."""
    if len(names) == 1:
        return ""
    boxes = "".join(
        f'<label class="chip"><input type="checkbox" checked data-pick="{i}">'
        f"{swatch(i)}<span>{clip(name, NAME_BYTES)}</span></label>"
        for i, name in enumerate(names)
    )
    return (
        '<fieldset class="picker" id="picker"><legend>Runs shown</legend>'
        f'<div class="chips">{boxes}</div>'
        f'<div class="all">{_FILTER}<button type="button" data-pick-all="1">All</button>'
        '<button type="button" data-pick-all="">None</button></div></fieldset>'
    )


_FILTER = (
    '<input type="search" data-pick-filter placeholder="only names with ..." '
    'aria-label="Only runs whose names hold a word">'
)

_BASELINES = ("gzip_bits_per_byte", "unigram_bits_per_byte")


def baselines(table: Table) -> str:
    """What the runs' validation text costs without a model; a sentence, since it is mostly the same for all."""
    said = []
    for key, what in zip(_BASELINES, ("gzip -9", "counting single tokens (unigram)"), strict=True):
        values = sorted({number(row[key]) for row in table.rows if row[key] is not None})
        if values:
            said.append(f"{what} needs {values[0] if len(values) == 1 else f'{values[0]} to {values[-1]}'}")
    return (
        f'<p class="note">For comparison, on the same text {text(" and ".join(said))} bits per byte.</p>'
        if said
        else ""
    )


def results(table: Table, names: Sequence[str]) -> str:
    """The table of runs, sortable by every column."""
    columns = [column for column in table.used() if column.key not in ("name", *_BASELINES)]
    head = "".join(_heading(column) for column in (table.columns[0], *columns))
    best = {column.key: table.best(column) for column in columns}
    shown = [clip(name, NAME_BYTES) for name in names]
    body = "".join(
        f'<tr data-run="{i}"><th scope="row" data-value="{shown[i]}">{swatch(i)}{shown[i]}</th>'
        + "".join(_cell(column, row[column.key], i in best[column.key]) for column in columns)
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    return (
        '<div class="wide"><table class="sortable" id="results">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def entrants(table: Table, identity: str) -> str:
    """A sortable table of anything but runs: its rows have no curves of their own."""
    columns = table.used()
    best = {column.key: table.best(column) for column in columns}
    body = "".join(
        "<tr>" + "".join(_cell(column, row[column.key], i in best[column.key]) for column in columns) + "</tr>"
        for i, row in enumerate(table.rows)
    )
    head = "".join(_heading(column) for column in columns)
    return (
        f'<div class="wide"><table class="sortable" id="{identity}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(column: Column) -> str:
    arrow = '<span class="arrow" aria-hidden="true"></span>'
    better = f", {'lower' if column.better == 'low' else 'higher'} is better" if column.better else ""
    kind = ' class="n"' if column.kind != "text" else ""
    return (
        f'<th scope="col"{kind} data-sort="{column.better}"><button type="button" title="{text(column.meaning + better)}">'
        f"{text(column.heading)}{arrow}</button></th>"
    )


def _cell(column: Column, value: Any, best: bool) -> str:
    shown = clip(show(value, column.kind), NAME_BYTES)
    if column.kind == "text":
        return f'<td data-value="{shown}">{_status(shown) if column.key in ("status", "certificate") else shown}</td>'
    sort = "" if value is None or shown == DASH or shown == "not finite" else f"{value:.12g}"
    return f'<td class="n" data-value="{sort}">{f"<b>{shown}</b>" if best else shown}</td>'


def _status(shown: str) -> str:
    kind = "pass" if shown == "finished" or shown.endswith("hold") else "fail" if shown.startswith("fail") else "none"
    return f'<span class="mark {kind}">{shown}</span>'


def glossary(table: Table) -> str:
    """What each column means, for readers without a mouse."""
    rows = "".join(f"<dt>{text(c.heading)}</dt><dd>{text(c.meaning)}</dd>" for c in table.used() if c.meaning)
    return (
        f'<details class="meanings"><summary>What the columns mean</summary><dl class="glossary">{rows}</dl></details>'
    )
