"""Vocabularies in older forms: GPT-2's own pair of files, and tiktoken's list of ranks."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from formers.errors import DataError
from formers.text import bpe
from formers.text.base import END_OF_TEXT
from formers.text.byte_bpe import BPETokenizer
from formers.text.files import read_json, read_text
from formers.text.stand_ins import BYTE_ORDER, BYTES, from_stand_ins, to_stand_ins
from formers.text.template import frame

GPT2_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
GPT2_SPECIAL = {END_OF_TEXT: 50256}
CL100K_SPECIAL = {
    END_OF_TEXT: 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}

FRAMES = (
    ("[CLS] a [SEP]", "[CLS] a [SEP] b:1 [SEP]:1", "[MASK]"),
    ("<s> a </s>", "<s> a </s> </s> b </s>", "<mask>"),
)
"""How texts and pairs are framed by models whose vocabulary has these tokens, and their mask, which swallows the space before
it: DeBERTa's first version, and RoBERTa and Longformer. Their two files do not say it; transformers' classes do."""


@cache
def gpt2() -> BPETokenizer:
    """GPT-2's own tokenizer, 50,257 ids: 256 bytes, 50,000 merges, ``<|endoftext|>`` last. Shipped with formers."""
    packed = resources.files("formers.text") / "vocabularies" / "gpt2" / "vocab.bpe.gz"
    data = gzip.decompress(packed.read_bytes())
    assert hashlib.sha256(data).hexdigest() == GPT2_SHA256, "the shipped vocabulary is damaged"
    merges = parse_merges(data.decode())
    names = [to_stand_ins(bytes([value])) for value in BYTE_ORDER] + [left + right for left, right in merges]
    return from_names({name: place for place, name in enumerate(names)} | GPT2_SPECIAL, merges)


def load_gpt2_files(vocab: Path | str, merges: Path | str, pattern: str = "gpt2") -> BPETokenizer:
    """A tokenizer from vocab.json (or encoder.json) and merges.txt (or vocab.bpe).

    Entries that are neither a byte nor made by a merge are special tokens: these files have no other way to say so. By these
    tokens it is told how texts and pairs are framed (`FRAMES`).

    Raises:
        DataError: a file that is missing, damaged, or does not fit the other.
    """
    return from_names(read_json(Path(vocab)), parse_merges(read_text(Path(merges)), str(merges)), pattern)


def parse_merges(text: str, name: str = "merges") -> list[list[str]]:
    """The pairs of a merges file: one a line, after a first line "#version"."""
    lines = [line for line in text.split("\n") if line]
    if lines and lines[0].startswith("#version"):
        del lines[0]
    merges = [line.rstrip("\r").split(" ") for line in lines]
    wrong = next((place for place, pair in enumerate(merges) if len(pair) != 2), None)
    if wrong is not None:
        raise DataError(f"{name}: merge {wrong} reads {lines[wrong]!r}", wanted="two tokens with a space between")
    return merges


def from_names(vocab: Mapping[str, int], merges: Sequence[Sequence[str]], pattern: str = "gpt2") -> BPETokenizer:
    """A tokenizer from names in stand-ins; names that no merge makes are special tokens."""
    made = {left + right for left, right in merges}
    special = {name: token_id for name, token_id in vocab.items() if name not in made and name not in BYTES}
    tokens = {token_id: _bytes(name) for name, token_id in vocab.items() if name not in special}
    framed = next((row for row in FRAMES if {*row[0].split(), row[2]} - {"a"} <= special.keys()), None)
    more = {} if framed is None else {"template": frame(special, *framed[:2]), "gluttons": framed[2:]}
    return BPETokenizer(tokens, merge_ids(vocab, merges), special, pattern, **more)


def merge_ids(vocab: Mapping[str, int], merges: Sequence[Sequence[str]]) -> list[bpe.Pair]:
    """Merges as pairs of ids.

    Raises:
        DataError: a merge of tokens that the vocabulary lacks.
    """
    try:
        return [(vocab[left], vocab[right]) for left, right in merges]
    except KeyError as error:
        raise DataError(f"a merge names {error.args[0]!r}, which is not in the vocabulary") from None


def _bytes(name: str) -> bytes:
    try:
        return from_stand_ins(name)
    except KeyError:
        raise DataError(f"the token {name!r} is not byte-level", wanted="tokens spelt in GPT-2's stand-ins") from None


def load_tiktoken(path: Path | str, *, pattern: str, special_tokens: Mapping[str, int] = GPT2_SPECIAL) -> BPETokenizer:
    """A tokenizer from a tiktoken rank file: lines of a token in base64 and its rank, which is its id.

    The file knows neither pattern nor special tokens, so both are said here (`GPT2_SPECIAL`, `CL100K_SPECIAL`). It lists no
    merges either; they are recovered: under the merges of lower rank, every token must end as exactly two parts.

    Raises:
        DataError: not such a file, or a vocabulary that merging cannot make.
    """
    ranks = _read_ranks(Path(path))
    byte_ids = {token[0]: rank for token, rank in ranks.items() if len(token) == 1}
    if len(byte_ids) < 256:
        raise DataError(f"{path} lacks {256 - len(byte_ids)} of the 256 bytes", wanted="all of them")
    table: dict[bpe.Pair, tuple[int, int]] = {}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            table[_parts(token, byte_ids, table)] = (rank, rank)
    tokens = {rank: token for token, rank in ranks.items()}
    return BPETokenizer(tokens, list(table), special_tokens, pattern, whole_pieces=True)


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        rows = [line.split() for line in read_text(path).splitlines() if line]
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a rank file: {error}", wanted="lines of base64 and a rank") from None


def _parts(token: bytes, byte_ids: Mapping[int, int], table: bpe.Table) -> bpe.Pair:
    """The two parts that merging makes of `token` before it becomes one."""
    parts = bpe.encode([byte_ids[value] for value in token], table)
    if len(parts) != 2:
        raise DataError(f"the token {token!r} ends as {len(parts)} parts", wanted="two: was it made by merging?")
    return parts[0], parts[1]
