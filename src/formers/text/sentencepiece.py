"""Sentencepiece's .model files: T5's, ALBERT's and DeBERTa-v3's vocabularies as they were published.

The file is a protocol buffer (sentencepiece_model.proto); the dozen fields that matter are read here, in thirty lines.

**Which tokenizer comes out.** The file holds pieces and a charsmap, and the sentencepiece library's rules around them: collapse
white space, put a space in front, never cut a user-defined symbol. Hugging Face puts rules of its own around the same pieces,
others for each family of models, and people fine-tune with those. `like` chooses:

- "sentencepiece": the library's own rules, which the published weights were trained with.
- "albert", "deberta-v2", "t5": transformers' (version 5). ALBERT's looks for user-defined symbols first, so that a word after a
  hyphen begins anew; DeBERTa's leaves the charsmap out. Each entry of `FAMILIES` says it in full.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formers.errors import ConfigError, DataError, suggest
from formers.text.normalise import METASPACE
from formers.text.pipeline import Pipeline
from formers.text.template import frame
from formers.text.unigram import UnigramTokenizer

Json = dict[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""
UNIGRAM = 1
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass
class Model:
    """What a .model file holds, as far as it decides ids."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Each piece with its score and its type."""
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    space_after: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True

    def of_type(self, *types: int) -> dict[str, int]:
        """name -> id of the pieces of these types."""
        return {name: i for i, (name, _, kind) in enumerate(self.pieces) if kind in types}


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: number, and the value as it stands (a whole number, or bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise DataError(
                f"a protocol buffer that breaks off at byte {at}", wanted="a whole sentencepiece .model file"
            )
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at
    raise DataError(f"a protocol buffer that breaks off at byte {at}", wanted="a whole sentencepiece .model file")


def parse(data: bytes) -> Model:
    """A model from the bytes of its file.

    Raises:
        DataError: not such a file, or one without pieces.
    """
    model = Model()
    try:
        for number, value in fields(data):
            if number == 1:
                model.pieces.append(_piece(_bytes(value)))
            elif number in (2, 3):
                _settings(model, number, _bytes(value))
    except (UnicodeDecodeError, struct.error, TypeError) as error:
        raise DataError(f"not a sentencepiece model: {error}", wanted="a .model file of sentencepiece") from None
    if not model.pieces:
        raise DataError("a sentencepiece model without pieces", wanted="a .model file of sentencepiece")
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    found = dict(fields(data))
    score = struct.unpack("<f", _bytes(found.get(2, bytes(4))))[0]
    return _bytes(found[1]).decode() if 1 in found else "", score, int(found.get(3, NORMAL))


def _settings(model: Model, number: int, data: bytes) -> None:
    """Trainer settings (2) or normaliser settings (3), by the numbers of sentencepiece_model.proto."""
    for key, value in fields(data):
        match number, key:
            case 2, 3:
                model.model_type = int(value)
            case 2, 24:
                model.space_after = bool(value)
            case 2, 35:
                model.byte_fallback = bool(value)
            case 3, 2:
                model.charsmap = _bytes(value)
            case 3, 3:
                model.add_dummy_prefix = bool(value)
            case 3, 4:
                model.remove_extra_whitespaces = bool(value)


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes should stand")
    return value


# -- tokenizers ---------------------------------------------------------------------------------------------------------


def load_sentencepiece(path: Path | str, *, like: str = "sentencepiece") -> UnigramTokenizer:
    """The tokenizer of a sentencepiece Unigram model; `like` says by whose rules (see above).

    Raises:
        ConfigError: an unknown `like`.
        DataError: a missing or damaged file, or a model of another type.
    """
    if like not in FAMILIES:
        raise ConfigError(f"like={like!r}", wanted=", ".join(FAMILIES), do=suggest(like, FAMILIES))
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", wanted="a sentencepiece .model file") from None
    model = parse(data)
    if model.model_type != UNIGRAM or model.space_after:
        kind = "unigram with spaces after words" if model.space_after else MODEL_TYPES.get(model.model_type, "unknown")
        raise DataError(f"{path} is a sentencepiece model of type {kind}", wanted="unigram, with spaces before words")
    return FAMILIES[like](model)


def _build(model: Model, normalizers: list[Json], splits: list[Json], **rest: Any) -> UnigramTokenizer:
    ordinary = {i: name for name, i in model.of_type(NORMAL, USER_DEFINED, BYTE).items()}
    special = model.of_type(CONTROL, UNKNOWN) | rest.pop("more_special", {})
    scores = {i: model.pieces[i][1] for i in ordinary} | rest.pop("other_scores", {})
    pipeline = Pipeline({"type": "Sequence", "normalizers": normalizers}, {"type": "Sequence", "pretokenizers": splits})
    frames = rest.pop("frames", None)
    template = frame(special, *frames) if frames else None
    unknown = next(iter(model.of_type(UNKNOWN)), None)
    return UnigramTokenizer(ordinary, scores, special, pipeline, unknown=unknown, template=template, **rest)


def _charsmap(model: Model) -> list[Json]:
    encoded = base64.b64encode(model.charsmap).decode()
    return [{"type": "Precompiled", "precompiled_charsmap": encoded}] if encoded else []


def _metaspace(prefix: bool = True) -> Json:
    scheme = "always" if prefix else "never"
    return {"type": "Metaspace", "replacement": METASPACE, "prepend_scheme": scheme, "split": True}


def _replace(kind: str, pattern: str, new: str) -> Json:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": new}


def _as_sentencepiece(model: Model) -> UnigramTokenizer:
    """A user-defined symbol beats any other way to cut its characters: it scores what the best piece would a character."""
    best = max((score for _, score, kind in model.pieces if kind == NORMAL), default=0.0)
    symbols = {i: len(name.encode()) * best - 0.1 for name, i in model.of_type(USER_DEFINED).items()}
    trim = [_replace("Regex", " {2,}", " "), {"type": "Strip", "strip_left": True, "strip_right": True}]
    return _build(
        model,
        [*_charsmap(model), *(trim if model.remove_extra_whitespaces else ())],
        [_metaspace(model.add_dummy_prefix)],
        other_scores=symbols,
        byte_fallback=model.byte_fallback,
    )


def _as_albert(model: Model) -> UnigramTokenizer:
    quotes = [_replace("String", "``", '"'), _replace("String", "''", '"')]
    plain = [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    return _build(
        model,
        [*quotes, *plain, *_charsmap(model)],
        [{"type": "WhitespaceSplit"}, _metaspace()],
        words=model.of_type(USER_DEFINED),
        frames=("[CLS] a [SEP]", "[CLS] a [SEP] b:1 [SEP]:1"),
    )


def _as_deberta(model: Model) -> UnigramTokenizer:
    mask = {"[MASK]": len(model.pieces)} if "[MASK]" not in model.of_type(CONTROL, USER_DEFINED) else {}
    trim = {"type": "Strip", "strip_left": False, "strip_right": True}
    return _build(
        model,
        [_replace("Regex", r"\s{2,}|[\n\r\t]", " "), {"type": "NFC"}, trim],
        [_metaspace()],
        more_special=mask,
        frames=("[CLS] a [SEP]", "[CLS] a [SEP] b:1 [SEP]:1"),
    )


def _as_t5(model: Model) -> UnigramTokenizer:
    """A hundred sentinels behind the pieces, the last first."""
    sentinels = {f"<extra_id_{99 - place}>": len(model.pieces) + place for place in range(100)}
    return _build(
        model,
        _charsmap(model),
        [{"type": "WhitespaceSplit"}, _metaspace()],
        more_special=sentinels,
        frames=("a </s>", "a </s> b </s>"),
    )


FAMILIES: dict[str, Callable[[Model], UnigramTokenizer]] = {
    "sentencepiece": _as_sentencepiece,
    "albert": _as_albert,
    "deberta-v2": _as_deberta,
    "t5": _as_t5,
}
"""Whose rules stand around the pieces; but for the first the names are the "model_type" of a config.json."""
