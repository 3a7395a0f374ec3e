"""Reading tokenizers: tokenizer.json in Hugging Face's form, GPT-2's pair of files, BERT's vocab.txt, sentencepiece's .model.

What a file asks for and we do not implement is refused, all of it at once. Two things in a file do not concern `encode`: the
settings `truncation` and `padding`, which belong to batches, and a template that adds tokens, which is kept for
:mod:`formers.text.encoding`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formers.errors import DataError
from formers.text import hf_format, load_words, patterns
from formers.text.base import Tokenizer
from formers.text.byte import ByteTokenizer
from formers.text.byte_bpe import BPETokenizer
from formers.text.char import UNKNOWN, CharTokenizer
from formers.text.files import read_json
from formers.text.foreign import load_gpt2_files, merge_ids
from formers.text.sentencepiece import FAMILIES, load_sentencepiece
from formers.text.stand_ins import BYTES, STAND_INS, from_stand_ins
from formers.text.wordpiece import load_vocab_txt

SENTENCEPIECE = ("spiece.model", "spm.model", "sentencepiece.model")
GPT2_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
BERT_SETTINGS = {"do_lower_case": "lower", "strip_accents": "strip_accents", "tokenize_chinese_chars": "chinese"}
"""Of tokenizer_config.json, what a vocab.txt leaves open -> arguments of `load_vocab_txt`."""

Json = dict[str, Any]


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a folder or a file.

    A folder: tokenizer.json, else vocab.json with merges.txt, else vocab.txt, else spiece.model or spm.model. A file: one of
    tokenizer.json, vocab.txt and a .model. Beside a vocab.txt what tokenizer_config.json says of case, accents and Chinese is
    obeyed, beside a .model the "model_type" of config.json (see :mod:`formers.text.sentencepiece`).

    Raises:
        DataError: nothing there, a damaged file, or a tokenizer that asks for what is not implemented.
    """
    path = Path(path)
    file = (tokenizer_file(path) or path / "tokenizer.json") if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"there is no {file}",
            wanted="a folder with tokenizer.json (or vocab.json and merges.txt, vocab.txt, spiece.model), or such a file",
            do="name a folder that a tokenizer was saved to; rank files are read by formers.text.load_tiktoken",
        )
    merges = dict(GPT2_PAIRS).get(file.name) if path.is_dir() else None
    if merges is not None:
        return load_gpt2_files(file, path / merges)
    if file.suffix == ".txt":
        said = _beside(file, "tokenizer_config.json")
        named = {ours: said[theirs] for theirs, ours in BERT_SETTINGS.items() if said.get(theirs) is not None}
        return load_vocab_txt(file, **named)
    if file.suffix == ".model":
        family = _beside(file, "config.json").get("model_type")
        family = "t5" if family == "longt5" else family
        return load_sentencepiece(file, like=family if family in FAMILIES else "sentencepiece")
    return from_json(read_json(file), str(file))


def tokenizer_file(folder: Path) -> Path | None:
    """What `load_tokenizer` reads of a folder, of a pair of files the first; None where there is no tokenizer."""
    pairs = [pair[0] for pair in GPT2_PAIRS if all((folder / name).is_file() for name in pair)]
    names = ("tokenizer.json", *pairs, "vocab.txt", *SENTENCEPIECE)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _beside(file: Path, name: str) -> Json:
    other = file.with_name(name)
    return read_json(other) if other.is_file() else {}


def from_json(contents: Json, name: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that a parsed tokenizer.json describes; `name` is what errors call it."""
    try:
        problems = _foreign_settings(contents)
        if not problems:
            return _read(contents, name)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{name} is damaged: {type(error).__name__} {error}", wanted="a whole tokenizer.json") from None
    raise DataError(
        f"{name} asks for what is not implemented: " + "; ".join(problems),
        wanted="a byte, character, word-level, byte-level BPE, WordPiece or Unigram tokenizer",
        do="train a tokenizer, or use one of this kind",
    )


def _read(contents: Json, name: str) -> Tokenizer:
    model = contents["model"]
    special = {token["content"]: token["id"] for token in contents.get("added_tokens") or ()}
    if _is_char(contents):
        return _char(model, special, name)
    if model["type"] in load_words.MODELS:
        return load_words.read(contents)
    in_byte_order = {char: value for value, char in enumerate(STAND_INS)}
    if contents["pre_tokenizer"] == hf_format.BYTES_ONLY and not model["merges"]:
        tokenizer = ByteTokenizer(sorted(special, key=special.__getitem__))
        if {**model["vocab"], **special} == in_byte_order | tokenizer.special_tokens:
            return tokenizer
    return _bpe(contents, special)


def _is_char(contents: Json) -> bool:
    """Whether it is a character tokenizer: words of which each is one character."""
    return _type(contents.get("model")) == "WordLevel" and contents.get("pre_tokenizer") == hf_format.SINGLE_CHARACTERS


def _char(model: Json, special: dict[str, int], name: str) -> CharTokenizer:
    characters = sorted(model["vocab"].keys() - special.keys(), key=model["vocab"].__getitem__)
    names = sorted(special, key=special.__getitem__)
    tokenizer = CharTokenizer(characters, names, unknown=model["unk_token"] == UNKNOWN)
    if {**model["vocab"], **special} != tokenizer.vocab | tokenizer.special_tokens:
        raise DataError(f"{name}: special tokens do not come first, or ids have gaps")
    return tokenizer


def _bpe(contents: Json, special: dict[str, int]) -> BPETokenizer:
    model = contents["model"]
    vocab: dict[str, int] = model["vocab"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    tokens = {token_id: from_stand_ins(word) for word, token_id in vocab.items() if word not in special}
    pattern = _pattern(contents["pre_tokenizer"])
    template = contents.get("post_processor")
    return BPETokenizer(
        tokens,
        merge_ids(vocab, pairs),
        special,
        pattern if pattern is not None else patterns.GPT2,
        whole_pieces=bool(model.get("ignore_merges")),
        template=None if _is_byte_level(template) else template,
        gluttons=[token["content"] for token in contents.get("added_tokens") or () if token.get("lstrip")],
    )


# -- what is implemented ------------------------------------------------------------------------------------------------


def _foreign_settings(contents: Json) -> list[str]:
    """Everything in the file that would change ids or text and that no tokenizer here does."""
    model = contents.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if _is_char(contents):
        problems = _differs(contents, "decoder", hf_format.CHARACTER_DECODER)
    elif kind in load_words.MODELS:
        return load_words.foreign_settings(contents)
    elif kind == "BPE" and isinstance(model, dict):
        problems = _foreign_bpe(contents, model)
    else:
        return [f"a model of type {kind!r}"]
    if contents.get("normalizer") is not None:
        problems.append(f"the normalizer {_type(contents['normalizer'])}")
    return problems + _foreign_added(contents.get("added_tokens") or [], kind)


def _differs(contents: Json, key: str, wanted: Json) -> list[str]:
    return [] if contents.get(key) == wanted else [f"the {key} {_type(contents.get(key))}"]


def _foreign_bpe(contents: Json, model: Json) -> list[str]:
    settings = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    problems = [f"{name} = {model[name]!r}" for name in settings if model.get(name)]
    if _pattern(contents.get("pre_tokenizer")) is None:
        problems.append(f"the pre_tokenizer {_type(contents.get('pre_tokenizer'))}")
    if not _is_byte_level(contents.get("decoder")):
        problems.append(f"the decoder {_type(contents.get('decoder'))}")
    special = {token.get("content") for token in contents.get("added_tokens") or ()}
    wrong = [word for word in model.get("vocab", ()) if word not in special and not set(word) <= BYTES.keys()]
    if wrong:
        problems.append(f"{len(wrong)} tokens that are not byte-level, such as {wrong[:3]}")
    return problems


def _foreign_added(added: list[Json], kind: str | None) -> list[str]:
    problems = [f"{t['content']!r}, recognised in any text" for t in added if not t.get("special")]
    asked = [(t, flag) for t in added for flag in ("single_word", "lstrip", "rstrip") if t.get(flag)]
    if kind == "BPE":  # such a token is a glutton
        asked = [(t, flag) for t, flag in asked if flag != "lstrip" or not t.get("special")]
    return problems + [f"{t['content']!r} with {flag}" for t, flag in asked]


def _pattern(step: Json | None) -> str | None:
    """The split pattern of a pre_tokenizer: ByteLevel with its own, or a Split before a ByteLevel without; else None."""
    if _is_byte_level(step) and step is not None and not step.get("add_prefix_space"):
        return patterns.GPT2 if step.get("use_regex", True) else r"[\s\S]+"
    if _type(step) != "Sequence" or step is None or len(step["pretokenizers"]) != 2:
        return None
    first, second = step["pretokenizers"]
    expression = (first.get("pattern") or {}).get("Regex")
    bytes_only = _is_byte_level(second) and not second.get("use_regex", True) and not second.get("add_prefix_space")
    isolated = first == hf_format.split(expression or "") if expression else False
    return expression if isolated and bytes_only else None


def _is_byte_level(step: Json | None) -> bool:
    return _type(step) == "ByteLevel"


def _type(step: Json | None) -> str | None:
    return step.get("type") if isinstance(step, dict) else None
