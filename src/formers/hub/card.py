"""Model cards, from what a run wrote down itself: recipe, data, metrics, certificate. What the record does not say, the card
says that it does not. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.comparison.runs import RunRecord, read_run
from formers.comparison.words import duration, large, number, percent, whole
from formers.errors import ConfigError
from formers.hub.marks import MARK
from formers.models import registry

PIPELINES = {
    "masked_token": "fill-mask",
    "pretraining": "fill-mask",
    "sequence": "text-classification",
    "pair": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "pooler": "feature-extraction",
    "none": "feature-extraction",
    "encoder": "feature-extraction",
}
"""Our heads -> the hub's names of what they are for."""


@dataclass(frozen=True)
class Facts:
    """What a card is made of.

    repo      organisation/name on the hub
    settings  config.json
    run       the run that trained the model; None for a folder that came from elsewhere
    shards    meta.json of the text that it was trained on, where it is still there
    license   an identifier such as apache-2.0; None where nobody said
    """

    repo: str
    settings: Mapping[str, Any]
    parameters: int
    run: RunRecord | None = None
    shards: Mapping[str, Any] | None = None
    license: str | None = None

    @property
    def is_theirs(self) -> bool:
        """Whether transformers opens the folder."""
        return not str(self.settings.get("model_type")).startswith("formers-")

    @property
    def architecture(self) -> str:
        ours = self.settings.get("formers")
        name = ours.get("architecture") if isinstance(ours, Mapping) else self.settings.get("model_type")
        return str(name)

    @property
    def head(self) -> str | None:
        recipe = {} if self.run is None else self.run.recipe
        return (recipe.get("model") or {}).get("head")

    @property
    def last(self) -> Mapping[str, Any] | None:
        """The last evaluation on the validation split."""
        return self.run.validation[-1] if self.run is not None and self.run.validation else None


def facts_of(folder: Path, model: Path, repo: str, parameters: int, license: str | None) -> Facts:
    """The facts of a run folder, or of a model folder alone. Raises RunError where the record is damaged."""
    settings = _json(model / "config.json")
    if settings is None:
        raise ConfigError(f"{model / 'config.json'} is no JSON object", "the settings of a model")
    run = read_run(folder) if (folder / "recipe.json").is_file() else None
    shards = None if run is None else (run.recipe.get("shards") or {}).get("folder")
    return Facts(repo, settings, parameters, run, _json(folder / shards / "meta.json") if shards else None, license)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def card(facts: Facts) -> str:
    """README.md of a model: metadata for the hub, then what a reader wants to know, in that order."""
    sections = [_head(facts), _use(facts), _data(facts), _training(facts), _results(facts), _certificate(facts)]
    body = "\n\n".join("\n".join(section) for section in [*sections, _license(facts)])
    return "\n".join(["---", *_metadata(facts), "---", MARK, "", body, ""])


# --- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(facts: Facts) -> Iterator[str]:
    """YAML; every value is JSON, which YAML contains."""
    yield f"library_name: {'transformers' if facts.is_theirs else 'formers'}"
    yield f"license: {_quoted(facts.license or 'unknown')}"
    yield f"pipeline_tag: {pipeline_tag(facts)}"
    yield f"tags: {json.dumps(['formers', facts.architecture])}"
    if facts.last is not None:
        yield from _model_index(facts, facts.last)


def pipeline_tag(facts: Facts) -> str:
    """What the hub's pages sort models by."""
    if facts.head in PIPELINES:
        return PIPELINES[facts.head]
    named = str((facts.settings.get("architectures") or [""])[0])
    known = {
        "ForMaskedLM": "fill-mask",
        "ForPreTraining": "fill-mask",
        "ForSequenceClassification": "text-classification",
        "ForTokenClassification": "token-classification",
        "ForQuestionAnswering": "question-answering",
        "ForConditionalGeneration": "text2text-generation",
        "Model": "text-generation" if "LMHead" in named else "feature-extraction",
    }
    return next((tag for ending, tag in known.items() if named.endswith(ending)), "text-generation")


def _model_index(facts: Facts, row: Mapping[str, Any]) -> Iterator[str]:
    metrics = {"loss": "loss", "perplexity": "perplexity", "bits_per_byte": "bits per byte", "accuracy": "accuracy"}
    data = ", ".join(_sources(facts)) or "not recorded"
    yield "model-index:"
    yield f"- name: {_quoted(facts.repo.rpartition('/')[2])}"
    yield "  results:"
    yield f"  - task: {json.dumps({'type': pipeline_tag(facts)})}"
    yield f"    dataset: {json.dumps({'type': data, 'name': data, 'split': 'validation'})}"
    yield "    metrics:"
    for name, said in metrics.items():
        if isinstance(row.get(name), int | float):
            yield f"    - {json.dumps({'type': name, 'name': said, 'value': row[name]})}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# --- sections ---------------------------------------------------------------------------------------------------------


def _head(facts: Facts) -> list[str]:
    spec = registry.specs().get(facts.architecture)
    what = f"A model of the architecture `{facts.architecture}` with {large(facts.parameters)} parameters"
    if spec is not None:
        what += f" ({spec.paper}, {spec.year}): {spec.summary}"
    lines = [f"# {facts.repo.rpartition('/')[2]}", "", what + "."]
    if facts.run is None:
        return [*lines, "", "It was pushed from a model folder without the record of its training."]
    version = facts.run.environment.get("formers", "of a version that was not recorded")
    lines += ["", f"Trained with formers {version} by the recipe `{facts.run.recipe_name}`."]
    if facts.run.status != "finished":
        lines += ["", f"**The run did not end well**: its record says *{facts.run.status}*."]
    return lines


def _use(facts: Facts) -> list[str]:
    lines = ["## Use", "", "```python", "import formers", "", f'model = formers.load("{facts.repo}")', "```"]
    if not facts.is_theirs:
        return [*lines, "", "transformers has no class for this architecture."]
    named = str((facts.settings.get("architectures") or ["AutoModel"])[0])
    with_theirs = [f"from transformers import {named}", "", f'model = {named}.from_pretrained("{facts.repo}")']
    return [*lines, "", "or", "", "```python", *with_theirs, "```"]


def _data(facts: Facts) -> list[str]:
    lines = ["## Data", ""]
    sources, meta = _sources(facts), facts.shards
    if not sources and meta is None:
        return [*lines, "What the model was trained on is not recorded."]
    rows = [("sources", ", ".join(f"`{source}`" for source in sources) or "not recorded")]
    if meta is not None:
        rows += [
            (f"{split} split", f"{_count(meta, 'documents', split)} documents, {_count(meta, 'bytes', split)} bytes of text,"
             f" {_count(meta, 'tokens', split)} tokens")
            for split in ("train", "validation")
        ]  # fmt: skip
        rows.append(("tokenizer", f"{meta.get('tokenizer_kind')}, {meta.get('vocab_size'):,} ids"))
        if isinstance(meta.get("overlap"), float):
            rows.append(("validation lines that stand in the training text too", percent(meta["overlap"])))
    return [*lines, *_table(("", ""), rows)]


def _sources(facts: Facts) -> list[str]:
    """Names of what was read; of files and folders the last part, since the rest says where they lay."""
    data = {} if facts.run is None else facts.run.recipe.get("data") or {}
    named = data.get("sources") or ([data["source"]] if data.get("source") else [])
    return [str(source).rstrip("/").rpartition("/")[2] for source in named]


def _count(meta: Mapping[str, Any], kind: str, split: str) -> str:
    found = (meta.get(kind) or {}).get(split)
    return whole(found) if isinstance(found, int) else "?"


def _training(facts: Facts) -> list[str]:
    lines = ["## Training", ""]
    if facts.run is None:
        return [*lines, "Not recorded."]
    run, recipe = facts.run, facts.run.recipe
    rows = [("steps", whole(run.steps) + (f" of {whole(run.planned_steps)}" if run.planned_steps else ""))]
    if run.train:
        rows.append(("tokens", large(run.train[-1]["tokens"])))
        rows.append(("time", duration(run.train[-1]["seconds"])))
    rows += [("seed", str(recipe.get("seed", "not recorded")))]
    machine = {name: run.environment.get(name) for name in ("device", "precision", "torch")}
    rows.append(("on", ", ".join(f"{name} {value}" for name, value in machine.items() if value) or "not recorded"))
    rows += [(f"`{name}`", f"`{json.dumps(value)}`") for name, value in (recipe.get("train") or {}).items()]
    body = [*lines, *_table(("", ""), rows), "", "Settings of the model:", "", "```json"]
    return [*body, json.dumps(recipe.get("model") or {}, indent=2), "```"]


def _results(facts: Facts) -> list[str]:
    lines, row = ["## Results", ""], facts.last
    if row is None:
        return [*lines, "No evaluation was recorded."]
    named = {"bits_per_byte": "bits per byte", "perplexity": "perplexity", "loss": "loss, nats a token"}
    rows = [(said, number(row[name])) for name, said in named.items() if isinstance(row.get(name), int | float)]
    if isinstance(row.get("accuracy"), float):
        rows.append(("accuracy of the likeliest token", percent(row["accuracy"])))
    for name, value in (row.get("baselines") or {}).items():
        rows.append((f"for comparison: {name.replace('_', ' ')}", number(value)))
    return [*lines, *_table((f"Validation split, step {whole(row['step'])}", ""), rows)]


def _certificate(facts: Facts) -> list[str]:
    lines = ["## Certificate", ""]
    made = None if facts.run is None else facts.run.certificate
    if made is None:
        return [*lines, "No certificate was made; `formers certify` makes one."]
    verdict = (
        "Every law that applies holds."
        if made.get("ok")
        else "**A law is broken: numbers of this model are in doubt.**"
    )
    rows = [
        (str(law["name"]), str(law["status"]), _measured(law.get("violation")), _measured(law.get("tolerance")))
        for law in made["laws"]
    ]
    return [*lines, verdict, "", *_table(("Law", "", "Violation", "Tolerance"), rows)]


def _measured(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, int | float) else ""


def _license(facts: Facts) -> list[str]:
    lines = ["## Licence", ""]
    if facts.license is not None:
        return [*lines, f"`{facts.license}`"]
    return [
        *lines,
        "Unknown: whoever pushed this model did not state one, and its record does not hold one. Ask before use.",
    ]


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [" | ".join(headings), " | ".join("---" for _ in headings)]
    lines += [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return [f"| {line} |" for line in lines]
