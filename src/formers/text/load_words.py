"""tokenizer.json with a WordPiece, Unigram or WordLevel model: what of it is implemented, and the tokenizer it describes."""

from __future__ import annotations

from typing import Any

from formers.errors import DataError
from formers.text.pipeline import Pipeline
from formers.text.unigram import UnigramTokenizer
from formers.text.word import WordLevelTokenizer
from formers.text.worded import WordTokenizer
from formers.text.wordpiece import WordPieceTokenizer

Json = dict[str, Any]

MODELS = ("WordPiece", "Unigram", "WordLevel")
DECODERS = {
    "WordPiece": {"WordPiece"},
    "Unigram": {"Metaspace", "ByteFallback", "Fuse", "Strip", "Replace"},
    "WordLevel": set(),
}


def foreign_settings(contents: Json) -> list[str]:
    """Everything in the file that would change ids or text and that no tokenizer here does."""
    model = contents["model"]
    problems = Pipeline(contents.get("normalizer"), contents.get("pre_tokenizer")).problems
    decoder = contents.get("decoder")
    if decoder is not None:
        parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        known = DECODERS[model["type"]]
        problems += [f"the decoder {part['type']}" for part in parts if part["type"] not in known]
    names = {name for name, _ in model["vocab"]} if model["type"] == "Unigram" else set(model["vocab"])
    for token in contents.get("added_tokens") or ():
        problems += _foreign_token(token, names)
    return problems


def _foreign_token(token: Json, names: set[str]) -> list[str]:
    name, special = token["content"], token.get("special")
    problems = [f"{name!r} with {flag}" for flag in ("single_word", "rstrip") if token.get(flag)]
    if special:
        return problems
    problems += [f"{name!r} with {flag}, not special" for flag in ("lstrip", "normalized") if token.get(flag)]
    return problems + ([f"{name!r}, added to the vocabulary and not special"] if name not in names else [])


def read(contents: Json) -> WordTokenizer:
    """The tokenizer of a parsed tokenizer.json without foreign settings."""
    added = contents.get("added_tokens") or ()
    special = {token["content"]: token["id"] for token in added if token.get("special")}
    common = {
        "special_tokens": special,
        "pipeline": Pipeline(contents.get("normalizer"), contents.get("pre_tokenizer")),
        "words": [token["content"] for token in added if not token.get("special")],
        "gluttons": [token["content"] for token in added if token.get("special") and token.get("lstrip")],
        "template": contents.get("post_processor"),
        "decoder": contents.get("decoder"),
    }
    makers = {"WordPiece": _wordpiece, "Unigram": _unigram, "WordLevel": _word_level}
    return makers[contents["model"]["type"]](contents["model"], common)


def _wordpiece(model: Json, common: Json) -> WordPieceTokenizer:
    vocab = _with_special(dict(model["vocab"]), common["special_tokens"])
    return WordPieceTokenizer(
        vocab,
        inside=model.get("continuing_subword_prefix", "##"),
        longest_word=model.get("max_input_chars_per_word", 100),
        unknown=model["unk_token"],
        **common,
    )


def _word_level(model: Json, common: Json) -> WordLevelTokenizer:
    unknown = model["unk_token"] if model["unk_token"] in model["vocab"] else None
    return WordLevelTokenizer(_with_special(dict(model["vocab"]), common["special_tokens"]), unknown=unknown, **common)


def _unigram(model: Json, common: Json) -> UnigramTokenizer:
    vocab: list[tuple[str, float]] = model["vocab"]
    names = _with_special({name: i for i, (name, _) in enumerate(vocab)}, common["special_tokens"])
    if model.get("unk_id") is not None and not 0 <= model["unk_id"] < len(vocab):
        raise DataError(f"unk_id {model['unk_id']}", wanted=f"a place in the vocabulary of {len(vocab)}")
    unknown = None if model.get("unk_id") is None else vocab[model["unk_id"]][0]
    scores = {i: float(vocab[i][1]) for i in names}
    return UnigramTokenizer(names, scores, unknown=unknown, byte_fallback=bool(model.get("byte_fallback")), **common)


def _with_special(vocab: dict[str, int], special: dict[str, int]) -> dict[int, str]:
    """id -> name without the special tokens, whose ids must be the same in both places."""
    wrong = [name for name, i in special.items() if vocab.get(name, i) != i]
    if wrong:
        raise DataError(f"{wrong[:5]} have one id in the vocabulary and another among the added tokens")
    return {i: name for name, i in vocab.items() if name not in special}
