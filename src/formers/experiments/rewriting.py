"""A text written from another: descriptions to synopses, sentences to their translation, by an encoder-decoder that learns
from pairs (`formers.data.seq2seq`) and writes greedily.

What it is compared with needs no model: the first sentence of a description, the source as it is.
"""

from __future__ import annotations

import dataclasses
import random
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers import recipes
from formers.config import require
from formers.data.labelled import TextPair, pair_lines, read_text_pairs
from formers.experiments.bootstrap import Difference, difference, in_words, means, share
from formers.experiments.labelled import result
from formers.experiments.run import Run
from formers.experiments.text import prepare
from formers.files import write_atomic
from formers.hub.targets import parse
from formers.recipes.t5 import ADAFACTOR
from formers.tasks import bleu, chrf, pipeline, rouge
from formers.tasks.metrics import each_chrf, each_rouge_l
from formers.training import TrainSettings

_END = re.compile(r"(?<=[.!?])\s")
FINE = 1e-3
"""Of the size of a weight, a step at most: the rate of the paper's fine-tuning (T5, 1910.10683, section 3.1.2)."""
SHOWN = 8
"""Texts that a result shows as they were written."""


@dataclass(frozen=True)
class RewritingSettings:
    """How an encoder-decoder learns from pairs.

    init        an architecture's recipe (t5.tiny), whose vocabulary is trained on the pairs, or a run or model folder
    steps       updates; None: `minutes`
    seq_len, target_len   tokens of a source and of a target; longer ones are cut
    lr          of Adafactor, with which T5 was trained; None: by whether the weights are fresh
    test        pairs of the test that are asked, drawn by `seed`
    vocab_size  BPE tokens of a vocabulary that is trained
    """

    init: str = "t5.tiny"
    steps: int | None = None
    minutes: float | None = 8.0
    batch_size: int = 16
    seq_len: int = 128
    target_len: int = 32
    lr: float | None = None
    test: int = 300
    vocab_size: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [] if self.steps or self.minutes else ["neither steps nor minutes, wanted one of them"]
        if self.test < 2:
            problems.append(f"test is {self.test}, wanted at least 2")
        require("RewritingSettings", problems)

    def training(self, *, fresh: bool) -> TrainSettings:
        """Of the loop."""
        return TrainSettings(
            objective="source_to_target",
            steps=self.steps or 1000,
            minutes=None if self.steps else self.minutes,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            target_len=self.target_len,
            optimizer=ADAFACTOR["optimizer"],
            lr=self.lr or (ADAFACTOR["lr"] if fresh else FINE),
            warmup=min(50, max(1, (self.steps or 500) // 10)),
            compile="off",
            seed=self.seed,
            eval_every=0,
            eval_batches=20,
            checkpoint_every=100,
        )


@dataclass(frozen=True)
class Task:
    """What is written from what, by what it is judged (of each text, and of all), and what needs no model."""

    name: str
    fields: tuple[str, str]
    pipe: str
    measure: str
    baseline: str
    without: Callable[[str], str]
    each: Callable[[Sequence[str], Sequence[str]], list[float]]
    whole: Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def first_sentence(text: str) -> str:
    """Up to the first mark that ends a sentence, in one line."""
    return " ".join(_END.split(text.strip(), maxsplit=1)[0].split())


def synopsis() -> Task:
    """A description's synopsis, by ROUGE-L."""
    return Task(
        "synopsis",
        ("doc", "summary"),
        "summarization",
        "ROUGE-L",
        "the first sentence",
        first_sentence,
        each_rouge_l,
        lambda texts, truths: rouge(texts, [[truth] for truth in truths]),
    )


def translation(pair: str) -> Task:
    """en-de: a text in the first language's words in the second, by chrF."""
    source, _, target = pair.partition("-")
    require("translation", [] if source and target else [f"the pair {pair!r}, wanted two languages such as en-de"])

    def whole(texts: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
        alone = [[truth] for truth in truths]
        return {"chrF": chrf(texts, alone), "BLEU": bleu(texts, alone)}

    copied = "copying the source"
    return Task("translation", (source, target), "translation", "chrF of a text", copied, str, each_chrf, whole)


# --- the experiment -----------------------------------------------------------------------------------------------------


def run(
    task: Task, data: Path, out: Path, settings: RewritingSettings | None = None, *, progress: bool | None = None
) -> dict[str, Any] | None:
    """Train on the pairs of the split train, write from sources of the split test. What stands in `out` is gone on with.
    None: stopped by a signal."""
    settings = settings or RewritingSettings()
    pairs = read_text_pairs(data, *task.fields)
    train = [pair for pair in pairs if pair.split == "train"]
    test = drawn([pair for pair in pairs if pair.split == "test"], settings)
    facts = {"file": data.name, "train_pairs": len(train), "test_pairs": len(test)}
    if not _learn(train, settings, out, progress):
        return None
    written = write(task, out / "run" / "model", [pair.source for pair in test], settings)
    return _judged(task, test, written, settings, out / "run", facts)


def drawn(pairs: Sequence[TextPair], settings: RewritingSettings) -> list[TextPair]:
    """`settings.test` of the pairs, by the seed."""
    return random.Random(settings.seed).sample(pairs, min(settings.test, len(pairs)))


def _learn(train: Sequence[TextPair], settings: RewritingSettings, out: Path, progress: bool | None) -> bool:
    """Whether the training came to its end."""
    file, lines = out / "pairs.jsonl", pair_lines(train)
    if not file.is_file() or file.read_bytes() != lines:
        write_atomic(file, lines)
    fresh = parse(settings.init).kind == "architecture"
    recipe = recipes.get(settings.init if fresh else "t5.tiny")
    data = dataclasses.replace(
        recipe.data, tokenizer="bpe", vocab_size=settings.vocab_size, validation=0.02, seed=settings.seed
    )
    recipe = dataclasses.replace(recipe, data=data, train=settings.training(fresh=fresh), seed=settings.seed)
    init = None if fresh else settings.init
    with warnings.catch_warnings(action="ignore" if progress is False else "default"):
        recipe, shards = prepare(recipe, files=[str(file)], init=init, quiet=progress is False)
        begun = Run(recipe, shards, out / "run", resume=(out / "run" / "recipe.json").is_file(), init=init)
        return begun.start(progress=progress, resume_command="the same command").interrupted is None


def write(task: Task, model: Path, sources: Sequence[str], settings: RewritingSettings) -> list[str]:
    """The likeliest text, token by token, of each source."""
    pipe = pipeline(task.pipe, model, batch_size=32, beams=1, max_new_tokens=settings.target_len, prefix="")
    with warnings.catch_warnings(action="ignore"):  # sources that are cut: the training has said how many
        return [found[0].text.strip() for found in pipe(list(sources), max_length=settings.seq_len)]


def _judged(
    task: Task, test: list[TextPair], written: list[str], settings: RewritingSettings, run: Path, facts: Any
) -> dict[str, Any]:
    truths, copied = [pair.target for pair in test], [task.without(pair.source) for pair in test]
    ours, theirs = task.each(written, truths), task.each(copied, truths)
    found = _difference(ours, theirs, settings.seed)
    shown = zip(test[:SHOWN], written, copied, strict=False)
    return result(
        task.name,
        settings,
        run,
        data=facts | {"fields": list(task.fields)},
        measure=task.measure,
        score=sum(ours) / len(ours),
        baselines={task.baseline: sum(theirs) / len(theirs)},
        against=task.baseline,
        found=found,
        verdict=in_words(found, task.measure, task.baseline, "texts"),
        measures={"model": task.whole(written, truths), task.baseline: task.whole(copied, truths)},
        written=[{"source": p.source[:300], "truth": p.target, "model": m, task.baseline: c} for p, m, c in shown],
    )


def _difference(ours: list[float], theirs: list[float], seed: int) -> Difference:
    return difference(means(ours), means(theirs), [str(n) for n in range(len(ours))], share, seed=seed)
