"""What `formers pipe` prints: results of each task for people, and as plain values for JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formers.cli.console import facts, plain, stdout, table
from formers.errors import DataError

if TYPE_CHECKING:
    from rich.text import Text

LONGEST = 100
"""Characters of a text that are repeated above its result."""


def plain_input(text: Any) -> dict[str, str]:
    """A text, or a pair, by names."""
    return {"text": text} if isinstance(text, str) else {"text": text[0], "pair": text[1]}


def plain_result(result: Any) -> Any:
    """JSON values; vectors as lists."""
    return result.tolist() if hasattr(result, "tolist") else plain(result)


def result(task: str, text: Any, found: Any, *, alone: bool) -> None:
    """The result of one text, under the text unless it is the only one."""
    if not alone:
        first = text if isinstance(text, str) else text[0]
        stdout().print(_plain(shortened(first), style="bold"))
    _PRINTERS.get(task, _texts)(found)
    if not alone:
        print()
    sys.stdout.flush()


def shortened(text: str) -> str:
    """One line of a text."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 2] + ".."


def _plain(text: str, style: str = "") -> Text:
    """Text as it is, without markup."""
    from rich.text import Text

    return Text(text, style=style)


def _gaps(gaps: Sequence[Any]) -> None:
    for gap in gaps:
        gained = any(choice.gain is not None for choice in gap.choices)
        content = table("Token", "Probability", *(["Gain"] if gained else []), "Text", right=(1, 2) if gained else (1,))
        for choice in gap.choices:
            gain = [f"{choice.gain:+.2f}"] if gained else []
            content.add_row(_plain(choice.token), f"{choice.score:.4f}", *gain, _plain(shortened(choice.text)))
        stdout().print(content)


def _entities(entities: Sequence[Any]) -> None:
    if not entities:
        print("no entities")
        return
    content = table("Entity", "Label", "Probability", "Characters", right=(2, 3))
    for entity in entities:
        content.add_row(
            _plain(entity.text), _plain(entity.label), f"{entity.score:.4f}", f"{entity.start}..{entity.end}"
        )
    stdout().print(content)


def _labels(labels: Sequence[Any]) -> None:
    stdout().print(facts((label.label, f"{label.score:.4f}") for label in labels))


def _answers(answers: Sequence[Any]) -> None:
    content = table("Answer", "Probability", "Characters", right=(1, 2))
    for answer in answers:
        where = f"{answer.start}..{answer.end}" if answer.text else ""
        content.add_row(_plain(answer.text or "(no answer)"), f"{answer.score:.4f}", where)
    stdout().print(content)


def _texts(texts: Sequence[Any]) -> None:
    for place, text in enumerate(texts):
        print(f"--- {place + 1} ---\n{text.text}" if len(texts) > 1 else text.text)


_PRINTERS = {
    "fill-mask": _gaps,
    "ner": _entities,
    "text-classification": _labels,
    "pair-classification": _labels,
    "question-answering": _answers,
}


def streamed(pipe: Any, prompt: str) -> None:
    """Samples of one prompt, each as it is made. Nothing is written before the first piece: until then it may be refused."""
    samples, seed = pipe.options.num_samples, pipe.options.seed
    for number in range(samples):
        before = (f"--- sample {number + 1} (seed {seed + number}) ---\n" if samples > 1 else "") + prompt
        for piece in pipe.stream(prompt, num_samples=1, seed=seed + number):
            sys.stdout.write(before + piece.text)
            sys.stdout.flush()
            before = ""
        print()


def embeddings(texts: Sequence[Any], pipe: Any) -> None:
    """Of one text its vector; of several, how near each is to each (cosine)."""
    if not texts:
        raise DataError("a batch of nothing", "at least one text")
    vectors = pipe(texts, normalise=len(texts) > 1 or pipe.options.normalise)
    if len(texts) == 1:
        print(" ".join(f"{value:.6f}" for value in vectors[0].tolist()))
        return
    cosines = (vectors @ vectors.T).tolist()
    content = table("", *(str(n + 1) for n in range(len(texts))), right=range(1, len(texts) + 1))
    for number, (text, row) in enumerate(zip(texts, cosines, strict=True)):
        content.add_row(_plain(f"{number + 1} {shortened(text)}"), *(f"{value:.3f}" for value in row))
    stdout().print(content)
