"""What a comparison found: scores with intervals, costs, samples side by side, and the verdict."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from formers.comparison import read_run
from formers.comparison.effects import effects
from formers.comparison.equal import equal
from formers.comparison.ranking import Entry, Ranking, rank
from formers.comparison.runs import RunRecord
from formers.config import to_dict
from formers.data import gzip_bits_per_byte
from formers.errors import FormersError, RunError
from formers.experiments import contest
from formers.experiments.compare import CompareSettings, Plan, estimate, make_plan, read, train
from formers.experiments.entrants import RESULT, Entrant
from formers.experiments.entrants import Entry as Named
from formers.experiments.ranks import predicted
from formers.experiments.reading import by_position, origin
from formers.files import plain, write_json
from formers.generation import generate_text
from formers.hub import targets
from formers.text import Tokenizer

PROMPTS, PROMPT_LETTERS, SAMPLE_TOKENS = 2, 48, 60
LEAST_SIZES = 4
"""Of an architecture, from which on it is said what its size does."""
SHOWN_TOKENS = 48
"""Of the text whose true and predicted tokens are shown."""

Rows = Sequence[Mapping[str, Any]]


def compare(
    named: Sequence[Named], settings: CompareSettings, out: Path, *, data: Path | None = None, progress: bool = False
) -> dict[str, Any]:
    """A whole comparison: plan, train, read, and what `summarise` finds, which is kept in out/compare.json.

    data  a shard folder in place of the first recipe's text

    Raises RunError where a signal stops it; called again, it goes on.
    """
    plan = make_plan(named, settings, data=data, quiet=not progress)
    costs = estimate(plan, out)
    if stopped := train(plan, out, progress=progress):
        raise RunError(
            f"the comparison was stopped by {stopped}", "the same call again, which goes on where it stopped"
        )
    result = summarise(plan, read(plan, out), out, costs)
    write_json(out / RESULT, result)
    return result


def summarise(plan: Plan, rows: Rows, out: Path, costs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All figures of a comparison, as compare.json holds them."""
    records = {e.label: [read_run(c.at(out)) for c in e.contestants] for e in plan.entrants}
    weights = np.array([float(plan.shards.documents[d, 2]) for d in plan.documents])
    ranking = rank([Entry(e.label, _scores(plan, e, rows)) for e in plan.entrants], weights)
    level = equal(records)
    same_tokens = len({_tokenizer(plan, e) for e in plan.entrants}) == 1
    found = {
        e.label: {
            **_quality(e, rows, ranking, _scores(plan, e, rows), weights),
            **_spent(records[e.label], costs[e.label]),
            "at_equal": level[e.label] if same_tokens else None,
            "tokenizer": _tokenizer(plan, e),
            "reading": e.contestants[0].reading.name if e.contestants[0].reading else contest.WHOLE.name,
            "joined": e.joined,
            "seeds": [c.recipe.seed for c in e.contestants],
            "runs": [_path(c.at(out), out) for c in e.contestants],
        }
        for e in plan.entrants
    }
    powers = scaling(plan, found)
    return {
        "verdict": " ".join([ranking.verdict, *(row["words"] for row in powers)]),
        "ranking": list(ranking.names),
        "entrants": {name: found[name] for name in ranking.names},
        "pairs": plain(ranking.pairs),
        "at": level["at"],
        "scaling": powers,
        "matching": [{**plain(match), "off": match.off, "words": match.words()} for match in plan.matches],
        "notes": list(plan.notes),
        "documents": _documents(plan),
        "data": str(plan.shards.folder),
        "settings": plain(to_dict(plan.settings)),
    }


def _path(folder: Path, out: Path) -> str:
    """Relative to the comparison's folder where it lies in it."""
    return os.path.relpath(folder, out) if folder.resolve().is_relative_to(out.resolve()) else str(folder.resolve())


def _documents(plan: Plan) -> dict[str, Any]:
    """What was read, and what gzip -9 makes of it."""
    texts = [plan.shards.text_bytes(d) for d in plan.documents]
    return {"read": len(texts), "bytes": sum(map(len, texts)), "gzip_bits_per_byte": gzip_bits_per_byte(texts)}


def _tokenizer(plan: Plan, entrant: Entrant) -> str:
    meta = (entrant.contestants[0].shards or plan.shards).meta
    return f"{meta['tokenizer_kind']} of {meta['vocab_size']:,}"


def _scores(plan: Plan, entrant: Entrant, rows: Rows) -> np.ndarray:
    """Bits per byte, float [seeds, documents]."""
    found = {(row["contestant"], row["document"]): row["loss"] / math.log(2) / row["scored_bytes"] for row in rows}
    return np.array([[found[c.name, d] for d in plan.documents] for c in entrant.contestants])


def _quality(entrant: Entrant, rows: Rows, ranking: Ranking, scores: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """How well it predicts."""
    mine = [row for row in rows if row["contestant"] in {c.name for c in entrant.contestants}]
    tokens, best = sum(row["tokens"] for row in mine), ranking.names[0]
    behind = None if entrant.label == best else ranking.pair(entrant.label, best)
    return {
        "bits_per_byte": ranking.means[entrant.label],
        "of_seeds": Entry(entrant.label, scores).of_seeds(weights),
        "behind_best": None if behind is None else plain(behind.difference),
        "told_from_best": None if behind is None else behind.told,
        "top1": sum(row["right"] for row in mine) / tokens,
        "top5": sum(row["top5"] for row in mine) / tokens,
        "by_position": by_position(mine),
    }


def _spent(records: Sequence[RunRecord], costs: Mapping[str, Any]) -> dict[str, Any]:
    """What its trainings took, on the mean, and what it needs."""
    speeds = [row["tokens_per_second"] for run in records for row in run.train if row.get("tokens_per_second")]
    last = [run.train[-1] for run in records if run.train]
    return {
        "parameters": costs["parameters"],
        "operations_per_token": costs["operations"],
        "peak_bytes": costs["peak_bytes"],
        "steps": statistics.fmean(row["step"] for row in last) if last else None,
        "tokens": statistics.fmean(row["tokens"] for row in last) if last else None,
        "seconds": statistics.fmean(row["seconds"] for row in last) if last else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
    }


def scaling(plan: Plan, found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bits per byte as a power of the number of parameters, of every architecture that takes part in several sizes: a straight
    line through the logarithms of all trainings, with the interval of its slope."""
    out = []
    for architecture in dict.fromkeys(entrant.recipe.architecture for entrant in plan.entrants):
        labels = [entrant.label for entrant in plan.entrants if entrant.recipe.architecture == architecture]
        rows = [(found[label]["parameters"], bits) for label in labels for bits in found[label]["of_seeds"]]
        sizes = _apart(size for size, _ in rows)
        if len(sizes) >= LEAST_SIZES:
            (power,) = effects([{"parameters": size} for size, _ in rows], [math.log2(bits) for _, bits in rows])
            words = (
                f"Of {architecture}, bits per byte go as parameters^{power.mean:.3f} (95% interval {power.low:.3f} to "
                f"{power.high:.3f}, {len(sizes)} sizes from {sizes[0]:,} to {sizes[-1]:,})."
            )
            figures = {"exponent": power.mean, "low": power.low, "high": power.high, "sizes": sizes}
            out.append({"architecture": architecture, **figures, "words": words})
    return out


def _apart(sizes: Iterable[int]) -> list[int]:
    """The sizes that are at least a tenth larger than the one before: what was brought to one size is one size."""
    found: list[int] = []
    for size in sorted(set(sizes)):
        if not found or size >= 1.1 * found[-1]:
            found.append(size)
    return found


# --- texts ----------------------------------------------------------------------------------------------------------------


def texts(plan: Plan, out: Path, text: str | None = None) -> dict[str, Any]:
    """What each writes after the same prompts, and true beside predicted tokens of a text (the beginning of a document that
    was read, unless one is given). Kept in out/texts.json; of the first seed of each."""
    file = out / "texts.json"
    prompts = [plan.shards.text(d)[:PROMPT_LETTERS] for d in plan.documents[:PROMPTS]]
    asked = plan.shards.text(plan.documents[-1])[:400] if text is None else text
    kept = contest.read_kept(file)
    if (kept.get("prompts"), kept.get("text")) != (prompts, asked):
        kept = {"prompts": prompts, "text": asked, "samples": {}, "predictions": {}}
    kept.setdefault("weights", {})
    for entrant in plan.entrants:
        made = origin(entrant.contestants[0].at(out))["weights"]
        if entrant.label not in kept["samples"] or kept["weights"].setdefault(entrant.label, made) != made:
            kept["weights"][entrant.label] = made
            kept["samples"][entrant.label], kept["predictions"][entrant.label] = _texts(
                plan, entrant, out, prompts, asked
            )
            write_json(file, kept)
    return kept


def _texts(plan: Plan, entrant: Entrant, out: Path, prompts: list[str], text: str) -> tuple[list[str], list[Any]]:
    contestant = entrant.contestants[0]
    model = targets.load(contestant.at(out), code=contestant.recipe.code)
    shards = contestant.shards or plan.shards
    limit = getattr(getattr(model, "config", None), "max_length", None)
    try:
        done = generate_text(
            model,
            shards.tokenizer,
            prompts,
            max_new_tokens=SAMPLE_TOKENS if limit is None else max(1, min(SAMPLE_TOKENS, limit - PROMPT_LETTERS)),
            temperature=0.8,
            top_p=0.95,
            seed=0,
        )
        written = [each.text for each in done]
    except FormersError as error:  # a short model, or one of the user's own that cannot be sampled: the rest stands
        written = [f"(not sampled: {error.found})"] * len(prompts)
    return written, predictions(model, shards.tokenizer, text, most=min(SHOWN_TOKENS, limit or SHOWN_TOKENS))


def predictions(model: Any, tokenizer: Tokenizer, text: str, *, most: int) -> list[dict[str, Any]]:
    """Of each of the first `most` tokens of a text but the very first: the token, its probability and rank (from 0), and the
    likeliest in its place."""
    ids = np.array(tokenizer.encode(text)[:most], dtype=np.int64)
    if len(ids) < 2:
        return []
    likeliest, chance, rank_ = predicted(model, ids)
    return [
        {
            "true": tokenizer.decode([int(a)]),
            "predicted": tokenizer.decode([int(b)]),
            "chance": float(c),
            "rank": int(r),
        }
        for a, b, c, r in zip(ids[1:], likeliest, chance, rank_, strict=True)
    ]
