"""A comparison as a section of the report: the verdict, the entrants, every pair, texts side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .contests import contest_table
from .escaping import clip, text
from .page import NAME_BYTES, entrants, glossary
from .words import duration, short

SAMPLE_BYTES, MOST_TOKENS = 700, 48


def section(result: Mapping[str, Any], number: int) -> str:
    """All of it, with ids that end in `number`."""
    content = contest_table(result)
    parts = [
        f'<section id="contest-{number}"><h2>Comparison</h2>',
        f'<p class="verdict">{text(result["verdict"])}</p>',
        _read(result),
        entrants(content.part("name", *QUALITY), f"entrants-{number}"),
        entrants(content.part("name", *PRICE), f"costs-{number}"),
        f'<p class="note">{text(_levels(result))} Click a heading to sort.</p>',
        glossary(content),
        _pairs(result),
        _fairness(result),
        _samples(result),
        _predictions(result),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


QUALITY = (
    *("bits_per_byte", "accuracy", "chance", "behind", "told", "top1", "top5"),
    *("loss_at_tokens", "loss_at_seconds", "loss_at_operations"),
)
PRICE = (
    *("parameters", "operations_per_token", "tokens", "seconds", "tokens_per_second", "peak_megabytes"),
    *("seeds", "tokenizer", "reading"),
)
"""Columns of the two tables: how well, and for how much."""


def _read(result: Mapping[str, Any]) -> str:
    documents = result.get("documents") or {}
    if not documents:
        return ""
    gzip = documents.get("gzip_bits_per_byte")
    compressed = "" if gzip is None else f" gzip -9 needs {gzip:.3f} bits for each byte of them."
    return (
        f'<p class="note">All read the same {documents["read"]} validation documents ({short(documents["bytes"])} bytes).'
        f"{compressed} Intervals are of 95%, over documents and seeds; whether two are told apart is decided for all pairs "
        "together (Holm).</p>"
    )


def _levels(result: Mapping[str, Any]) -> str:
    """Where training losses are compared."""
    at = result.get("at") or {}
    if not all(isinstance(at.get(axis), (int, float)) for axis in ("tokens", "seconds", "operations")):
        return ""
    return (
        f"Training losses are compared after {short(at['tokens'])} tokens, {duration(at['seconds'])} and "
        f"{short(at['operations'])} operations, which all trainings reached."
    )


def _pairs(result: Mapping[str, Any]) -> str:
    """Who is better than whom, by how much."""
    rows = "".join(
        f"<tr><th scope=row>{clip(pair['better'], NAME_BYTES)}</th><td>{clip(pair['worse'], NAME_BYTES)}</td>"
        f'<td class="n">{pair["difference"]["mean"]:+.4f}</td>'
        f'<td class="n">{pair["difference"]["low"]:+.4f} to {pair["difference"]["high"]:+.4f}</td>'
        f'<td class="n">{pair["p"]:.2g}</td>'
        f'<td class="{"told" if pair["told"] else "level"}">{"better" if pair["told"] else "cannot tell"}</td></tr>'
        for pair in result["pairs"]
    )
    if not rows:
        return ""
    head = "".join(
        f"<th scope=col{' class=n' if number else ''}>{words}</th>"
        for words, number in (
            ("Entrant", 0),
            ("against", 0),
            ("Better by", 1),
            ("95% interval", 1),
            ("p of all pairs", 1),
            ("Verdict", 0),
        )
    )
    return (
        f'<details><summary>Every pair</summary><div class="wide"><table class="pairs"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _fairness(result: Mapping[str, Any]) -> str:
    """How alike they were made, and how well."""
    lines = [*(match["words"] for match in result.get("matching") or ()), *(result.get("notes") or ())]
    if not lines:
        return ""
    items = "".join(f"<li>{clip(line, 300)}</li>" for line in lines)
    return f"<details><summary>How they were made alike</summary><ul>{items}</ul></details>"


def _samples(result: Mapping[str, Any]) -> str:
    """What each wrote after the same words."""
    texts = result.get("texts") or {}
    samples, prompts = texts.get("samples") or {}, texts.get("prompts") or []
    if not samples:
        return ""
    blocks = "".join(
        f"<article><h3>{clip(name, NAME_BYTES)}</h3>{_written(prompts, written)}</article>"
        for name in result["ranking"]
        if (written := samples.get(name)) is not None
    )
    return f'<h3>The same prompts, continued</h3><div class="samples three">{blocks}</div>'


def _written(prompts: Sequence[str], written: Sequence[str]) -> str:
    return "".join(
        f"<figure><pre><b>{clip(prompt, 200)}</b>{clip(words, SAMPLE_BYTES)}</pre></figure>"
        for prompt, words in zip(prompts, written, strict=False)
    )


def _predictions(result: Mapping[str, Any]) -> str:
    """True beside predicted tokens: a row a token where all cut the text alike, else a table for each."""
    found = (result.get("texts") or {}).get("predictions") or {}
    found = {name: found[name][:MOST_TOKENS] for name in result["ranking"] if found.get(name)}
    if not found:
        return ""
    alike = len({tuple(row["true"] for row in rows) for rows in found.values()}) == 1
    groups = [found] if alike else [{name: rows} for name, rows in found.items()]
    tables = "".join(_tokens(group) for group in groups)
    return (
        "<details><summary>True and predicted tokens of a text</summary>"
        '<p class="note">What each held to be the likeliest next token, and with what probability it expected the true one. '
        f"Green: they are the same.</p>{tables}</details>"
    )


def _tokens(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    names = list(found)
    head = "".join(f"<th scope=col>{clip(name, NAME_BYTES)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{_token(row['true'])}</td>" + "".join(_guess(found[name][at]) for name in names) + "</tr>"
        for at, row in enumerate(found[names[0]])
    )
    return (
        '<div class="wide"><table class="predictions"><thead><tr><th scope=col>True</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _guess(row: Mapping[str, Any]) -> str:
    hit = ' class="hit"' if row["rank"] == 0 else ""
    return f"<td{hit}>{_token(row['predicted'])} <small>{100 * row['chance']:.0f}%</small></td>"


def _token(piece: str) -> str:
    """With its spaces and line ends to be seen."""
    return clip(piece.replace("\n", "⏎").replace(" ", "·"), 40)
