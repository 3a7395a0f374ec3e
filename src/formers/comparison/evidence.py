"""What stands behind the numbers, as HTML: samples, certificates, settings, events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .budget import Budget
from .escaping import clip, text
from .page import NAME_BYTES, swatch
from .runs import Row, RunRecord
from .words import certificate_words, fails, whole

MOST_SETTINGS = 150
_MARKS = {"pass": "✓", "fail": "✗"}


def samples(runs: Sequence[RunRecord], names: Sequence[str], budget: Budget) -> str:
    """A column of text a run: how it wrote at first, and what it wrote last."""
    blocks = [
        _samples_of(run, i, names[i] if len(runs) > 1 else "", budget) for i, run in enumerate(runs) if run.samples
    ]
    if not blocks:
        return '<p class="nothing">No run recorded a sample.</p>'
    columns = "one" if len(runs) == 1 else "two" if len(runs) in (2, 4) else "three"
    return f'<div class="samples {columns}">{"".join(blocks)}</div>'


def _samples_of(run: RunRecord, index: int, name: str, budget: Budget) -> str:
    chosen = chosen_samples(run.samples, budget.samples)
    most = budget.sample_bytes // len(chosen)
    figures = "".join(_sample(row, most) for row in chosen)
    rest = len(run.samples) - len(chosen)
    more = f'<p class="note">{whole(rest)} more are in the run\'s samples.txt.</p>' if rest else ""
    heading = f"<h3>{_label(index, name)}</h3>" if name else ""
    return f'<article data-run="{index}">{heading}{figures}{more}</article>'


def chosen_samples(rows: Sequence[Row], most: int) -> list[Row]:
    """The samples of the last step that has any, and before them the earliest one, to see what training changed."""
    last = [row for row in rows if row.get("step") == rows[-1].get("step")]
    if len(last) == len(rows):
        return last[:most]
    early = next((row for row in rows if row.get("prompt") == last[0].get("prompt")), rows[0])
    return [early, *last[: most - 1]] if early not in last else last[:most]


def _sample(row: Row, most: int) -> str:
    prompt, written = str(row.get("prompt", "")), str(row.get("text", ""))
    written = written.removeprefix(prompt)
    shown = f"<b>{clip(prompt, most // 4)}</b>{clip(written, most)}"
    return f"<figure><figcaption>Step {text(row.get('step', '?'))}</figcaption><pre>{shown}</pre></figure>"


def certificates(runs: Sequence[RunRecord], names: Sequence[str]) -> str:
    """A folded table a run, open where a law fails and on a page about one run."""
    return "".join(_certificate(run, i, names[i], alone=len(runs) == 1) for i, run in enumerate(runs))


def _certificate(run: RunRecord, index: int, name: str, *, alone: bool) -> str:
    label = "" if alone else _label(index, name)
    if run.certificate is None:
        none = "No certificate was made for this run (<code>formers certify</code> makes one)."
        return f'<p class="nothing" data-run="{index}">{label}{none}</p>'
    laws = sorted(
        run.certificate["laws"], key=lambda law: ("fail", "pass").index(_status(law)) if _status(law) in _MARKS else 2
    )
    words, kind = certificate_words(run.certificate), "fail" if fails(run.certificate) else "pass"
    head = "".join(f"<th scope=col{c}>{h}</th>" for h, c in _LAW_COLUMNS)
    body = "".join(_law(law) for law in laws[:60])
    return (
        f'<details data-run="{index}"{" open" if alone or kind == "fail" else ""}><summary>{label}'
        f'<span class="mark {kind}">{_MARKS[kind]} {text(words)}</span></summary>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


_LAW_COLUMNS = (
    ("Law", ""),
    ("Result", ""),
    ("Largest violation", ' class="n"'),
    ("Tolerance", ' class="n"'),
    ("First to blame", ""),
    ("Detail", ""),
)


def _status(law: Row) -> str:
    return str(law.get("status", "unknown"))


def _law(law: Row) -> str:
    status = _status(law)
    mark = f"{_MARKS.get(status, '')} {text(status)}".strip()
    kind = status if status in _MARKS else "none"
    return (
        f'<tr><th scope="row">{clip(law["name"], 80)}</th><td><span class="mark {kind}">{mark}</span></td>'
        f'<td class="n">{_small(law.get("violation"))}</td><td class="n">{_small(law.get("tolerance"))}</td>'
        f"<td>{clip(law.get('blame') or '', 100)}</td><td>{clip(law.get('detail') or '', 200)}</td></tr>"
    )


def _small(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, (int, float)) else ""


def settings(documents: Sequence[Row], names: Sequence[str], budget: Budget) -> str:
    """Nested settings as one table, a setting a line; for several runs what differs first, and what is the same once."""
    flat = [dict(flattened(document)) for document in documents]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    if not keys:
        return '<p class="nothing">Nothing was recorded.</p>'
    differs = [key for key in keys if len({one.get(key, "") for one in flat}) > 1]
    same = [key for key in keys if key not in set(differs)]
    left_out = max(0, len(keys) - MOST_SETTINGS)
    note = f'<p class="note">{left_out} more settings are in the run folder.</p>' if left_out else ""
    head = _settings_head(names)
    body = _different(differs[:MOST_SETTINGS], flat, budget) + _same(same[: MOST_SETTINGS - len(differs)], flat, budget)
    return f'<div class="wide"><table class="settings">{head}{body}</table></div>{note}'


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value as text) of every leaf."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from flattened(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner)


def _settings_head(names: Sequence[str]) -> str:
    if len(names) == 1:
        return ""
    cells = "".join(f'<th scope="col" data-run="{i}">{_label(i, name)}</th>' for i, name in enumerate(names))
    return f'<thead><tr><th scope="col">Setting</th>{cells}</tr></thead>'


def _different(keys: Sequence[str], flat: Sequence[Mapping[str, str]], budget: Budget) -> str:
    if not keys:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{clip(key, NAME_BYTES)}</th>'
        + "".join(
            f'<td data-run="{i}">{clip(one.get(key, ""), budget.setting_bytes)}</td>' for i, one in enumerate(flat)
        )
        + "</tr>"
        for key in keys
    )
    return f"<tbody>{_group('What differs', len(flat))}{rows}</tbody>"


def _same(keys: Sequence[str], flat: Sequence[Mapping[str, str]], budget: Budget) -> str:
    span = f' colspan="{len(flat)}"' if len(flat) > 1 else ""
    rows = "".join(
        f'<tr><th scope="row">{clip(key, NAME_BYTES)}</th>'
        f"<td{span}>{clip(flat[0].get(key, ''), budget.setting_bytes)}</td></tr>"
        for key in keys
    )
    return f"<tbody>{_group('The same in all', len(flat)) if len(flat) > 1 and keys else ''}{rows}</tbody>"


def _group(words: str, num_runs: int) -> str:
    return f'<tr class="group"><th scope="rowgroup" colspan="{num_runs + 1}">{words}</th></tr>'


def events(runs: Sequence[RunRecord], names: Sequence[str], budget: Budget) -> str:
    """Errors and warnings first, then the newest of the rest; each run keeps its order."""
    rows = "".join(_events_of(run, i, "" if len(runs) == 1 else names[i], budget.events) for i, run in enumerate(runs))
    if not rows:
        return '<p class="nothing">No events were recorded.</p>'
    run_head = "" if len(runs) == 1 else "<th scope=col>Run</th>"
    head = f"<tr>{run_head}<th scope=col class=n>Step</th><th scope=col>Level</th><th scope=col>Message</th></tr>"
    return f'<div class="wide"><table class="events"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _events_of(run: RunRecord, index: int, name: str, most: int) -> str:
    rank = {"error": 0, "warning": 1}
    by_weight = sorted(enumerate(run.events), key=lambda pair: (rank.get(str(pair[1].get("level")), 2), -pair[0]))
    kept = [row for _, row in sorted(by_weight[:most])]
    notes = [{"level": "note", "step": "", "message": note} for note in run.notes]
    left_out = len(run.events) - len(kept)
    if left_out:
        notes.append({"level": "note", "step": "", "message": f"{left_out} more events are in metrics.jsonl."})
    return "".join(_event(row, index, name) for row in [*kept, *notes])


def _event(row: Row, index: int, name: str) -> str:
    level = clip(row.get("level", "info"), 20)
    kind = {"error": "fail", "warning": "warn"}.get(level, "none")
    run = f'<th scope="row">{_label(index, name)}</th>' if name else ""
    return (
        f'<tr data-run="{index}">{run}<td class="n">{clip(row.get("step", ""), 20)}</td>'
        f'<td><span class="mark {kind}">{level}</span></td><td>{clip(row.get("message", ""), 400)}</td></tr>'
    )


def _label(index: int, name: str) -> str:
    return f'<span class="run">{swatch(index)}{clip(name, NAME_BYTES)}</span> '
