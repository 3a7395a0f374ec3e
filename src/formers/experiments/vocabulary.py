"""What a vocabulary buys: tokenizers of several kinds and sizes, trained on one corpus and measured on documents held out.

A document is a file, or a line of .jsonl. A hash of its content holds it out (:mod:`formers.data.plan`); none is cut.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex

from formers.config import require
from formers.data.plan import VALIDATION, digest, follow, score, survey, whole_documents
from formers.data.readers import Reader
from formers.data.sources import Source
from formers.data.vocabulary import TRAINED
from formers.errors import DataError
from formers.files import whole_folder, write_json
from formers.text import Tokenizer, load_tokenizer, train_tokenizer

WORDS = regex.compile(r"\p{L}+")
ROW = "measured.json"


@dataclass(frozen=True)
class VocabularySettings:
    """kinds: of tokenizers that are trained. sizes: ids of each, special tokens included, rising. validation: share of the
    documents that is held out. train_on: about so many megabytes of the others, where there are more; content decides which."""

    kinds: tuple[str, ...] = TRAINED
    sizes: tuple[int, ...] = (512, 1024, 2048, 4096)
    validation: float = 0.1
    train_on: float = 64.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in TRAINED]
        problems = [f"kinds are {unknown}, wanted some of {', '.join(TRAINED)}"] * bool(unknown)
        problems += ["no kinds"] * (not self.kinds)
        problems += [f"sizes are {self.sizes}, wanted different ones, rising from 2"] * (
            list(self.sizes) != sorted({size for size in self.sizes if size >= 2}) or not self.sizes
        )
        problems += [f"validation is {self.validation}, wanted a share between 0 and 1"] * (not 0 < self.validation < 1)
        problems += [f"train_on is {self.train_on}, wanted megabytes above 0"] * (not self.train_on > 0)
        require("VocabularySettings", problems)


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and documents to measure with; `key` is a hash of both."""

    train: Sequence[str]
    held_out: Sequence[str]
    key: str

    def sizes(self) -> dict[str, dict[str, int]]:
        """Documents and bytes of each side."""
        sides = {"train": self.train, "held_out": self.held_out}
        return {
            name: {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
            for name, texts in sides.items()
        }


def corpus_of(sources: Sequence[Source], settings: VocabularySettings, *, text_field: str = "text") -> Corpus:
    """The documents of `sources`, split and, if there are too many to train on, thinned.

    Raises:
        DataError: bad sources, or fewer than two documents that differ.
    """
    reader = Reader(sources, text_field=text_field)
    found = survey(reader)
    if len(found.sizes) < 2:
        raise DataError(
            f"the sources hold {len(found.sizes)} documents that differ", "two files or more, for one is held out",
            "name a folder, or a .jsonl file with a document a line",
        )  # fmt: skip
    documents = list(follow(whole_documents(found.sizes, settings.validation, settings.seed), reader))
    train = [text for text, split in documents if split != VALIDATION]
    share = settings.train_on * 1e6 / sum(len(text.encode()) for text in train)
    if share < 1:
        train = [text for text in train if score(digest(text), settings.seed + 1) < share] or train[:1]
    held_out = [text for text, split in documents if split == VALIDATION]
    everything = b"".join(digest(text) for text in train) + b"|" + b"".join(digest(text) for text in held_out)
    return Corpus(train, held_out, hashlib.sha256(everything).hexdigest())


def run(
    corpus: Corpus, out: Path, settings: VocabularySettings, *, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """A row for each kind and size; the tokenizers stay in out/KIND-SIZE, and what stands there of this text is not made again.

    A size that a kind cannot have on this text (its alphabet alone is larger, say) is a row with "refused", the reason.

    Raises:
        DataError: no kind can have any of the sizes.
    """
    rows = []
    for kind in settings.kinds:
        for size in settings.sizes:
            say(f"{kind}, {size:,} tokens")
            rows.append(_row(corpus, out / f"{kind}-{size}", kind, size))
    if all("refused" in row for row in rows):
        raise DataError(f"no tokenizer could be trained: {rows[-1]['refused']}", "other sizes, or more text")
    return {"corpus": corpus.sizes(), "settings": settings, "rows": rows}


def _row(corpus: Corpus, folder: Path, kind: str, size: int) -> dict[str, Any]:
    kept = _kept(folder, corpus.key)
    if kept is not None:
        return kept
    row: dict[str, Any] = {"kind": kind, "size": size}
    try:
        tokenizer = train_tokenizer(kind, corpus.train, size)
    except DataError as error:
        return row | {"refused": f"{error.found}; {error.wanted}"}
    if tokenizer.vocab_size < size:
        return row | {"refused": f"the text supports {tokenizer.vocab_size:,} tokens"}
    row |= measure(tokenizer, corpus.held_out)
    with whole_folder(folder) as aside:
        tokenizer.save(aside)
        write_json(aside / ROW, {"corpus": corpus.key, "tokenizer": tokenizer.fingerprint, "row": row})
    return row


def _kept(folder: Path, key: str) -> dict[str, Any] | None:
    """What was measured of this text with the tokenizer that stands there; None where there is none, or of another text."""
    try:
        kept = json.loads((folder / ROW).read_text())
        same = kept["corpus"] == key and kept["tokenizer"] == load_tokenizer(folder).fingerprint
        return kept["row"] if same else None
    except (OSError, ValueError, KeyError, DataError):
        return None


def measure(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """How `tokenizer` writes `texts`: bytes a token and tokens per 1,000 bytes, of the bytes as they were given; the share of
    words (runs of letters, as often as they occur) that are one token after a space; the share of tokens that stand for
    something unknown, which is what a small number of tokens may be bought with."""
    encoded = tokenizer.encode_batch(texts)
    tokens, size = sum(map(len, encoded)), sum(len(text.encode()) for text in texts)
    unknown = tokenizer.role("unknown")
    words = Counter(word for text in texts for word in WORDS.findall(text))
    cut = tokenizer.encode_batch([f" {word}" for word in words])
    whole = sum(count for ids, count in zip(cut, words.values(), strict=True) if len(ids) == 1 and ids[0] != unknown)
    return {
        "bytes_per_token": size / tokens,
        "tokens_per_1000_bytes": 1000 * tokens / size,
        "whole_words": whole / max(1, words.total()),
        "unknown": sum(ids.count(unknown) for ids in encoded) / tokens if unknown is not None else 0.0,
    }
