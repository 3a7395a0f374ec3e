"""Equal to the canonical GPT-2 on every character that both Unicode tables know, and a list of those that only one knows.

Split patterns ask of a character whether it is a letter, a number or white space. Two libraries answer, each by the Unicode
table it was built with: `regex` for us, `tokenizers` for the Rust library.
"""

from __future__ import annotations

import gzip
from importlib import resources
from importlib.metadata import version

import pytest
import regex
from tokenizers import Tokenizer, models

from formers.text import gpt2, rust, split
from formers.text.byte_bpe import train_bpe
from formers.text.stand_ins import BYTE_ORDER, STAND_INS
from tests.text.conftest import rust_pieces, rust_split

PLANES = (0, 1, 2, 3, 14, 15, 16)  # the others are empty and nothing is planned for them
EVERY = [chr(plane << 16 | low) for plane in PLANES for low in range(1 << 16) if plane or not 0xD800 <= low < 0xE000]
LISTED_FOR = {"regex": "2026.11.15", "tokenizers": "0.23.3"}  # Unicode 18 and Unicode 16
LISTED = """
558 58B-58C 88F C5C CDC 208F 209D-209F A7CE-A7CF A7D2 A7D4 A7DD A7E2 A7F1 AB6C-AB6D 107BB-107BF 10940-10959 10EC5-10EC7
10ED9-10EEE 11B0A 11DB0-11DDB 11DE0-11DE9 11DF1 1246F 12475-1247F 12550-12686 16EA0-16EB8 16EBB-16ED3 16FF2-16FF6
187F8-187FF 18CD6-18CDA 18D09-18D20 18D80-18DF2 18E00-19191 191A0-191D2 1B123-1B128 1B168 1D6A6 1DF1F-1DF24 1DF2B-1DF81
1DF90-1DF96 1DFCD-1DFFF 1E6C0-1E6DE 1E6E0-1E6E2 1E6E4-1E6E5 1E6E7-1E6ED 1E6F0-1E6F4 1E6FE-1E6FF 2B73A-2B73F 2B81E
2CEA2-2CEAD 323B0-33479 3D000-3FC3F
"""
"""The characters that are a letter or number to one library and unassigned to the other: 17,480, with these versions."""


def members(class_name: str) -> tuple[set[str], set[str]]:
    """All characters of a class, by `regex` and by the Rust library."""
    text = "".join(EVERY)
    return set(regex.findall(class_name, text)), rust._members(class_name, text)


@pytest.fixture(scope="module")
def differing() -> set[str]:
    """Characters that the two libraries class differently in a way a split pattern can see."""
    pairs = [members(name) for name in (r"\p{L}", r"\p{N}", r"\s")]
    return {char for ours, theirs in pairs for char in ours ^ theirs}


@pytest.fixture(scope="module")
def assigned_in_both() -> list[str]:
    ours, theirs = members(r"\p{Cn}")
    return sorted(set(EVERY) - ours - theirs)


def test_what_both_tables_know_they_class_alike(differing: set[str], assigned_in_both: list[str]):
    assert not differing.intersection(assigned_in_both)
    assert len(assigned_in_both) > 290_000


@pytest.mark.skipif({n: version(n) for n in LISTED_FOR} != LISTED_FOR, reason="the list is for other versions")
def test_the_characters_that_only_one_table_knows_are_the_listed_ones(differing: set[str]):
    listed = set()
    for entry in LISTED.split():
        first, _, last = entry.partition("-")
        listed |= set(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    assert differing == listed
    assert len(listed) == 17_480


def test_texts_with_differing_characters_are_found_and_encoded_like_any_other(differing: set[str]):
    if not differing:
        pytest.skip("both libraries carry the same Unicode table")
    found = rust.Disputed()
    some = sorted(differing)[::500]
    texts = [f"a{char} b1{char}" for char in some] + ["naïve 東京", "plain"]
    assert [found.in_text(text) for text in texts + texts] == ([True] * len(some) + [False, False]) * 2
    merged = train_bpe(texts, 300, engine="python")  # so that a piece cut in two has other ids
    assert merged.encode_batch(texts) == [merged.encode(text) for text in texts]
    assert merged._backend.encode(texts) != merged.encode_batch(texts)


@pytest.fixture(scope="module")
def canonical() -> Tokenizer:
    """GPT-2 as the `tokenizers` library builds it from the published merges; nothing of ours but the bytes' order."""
    data = (resources.files("formers.text") / "vocabularies" / "gpt2" / "vocab.bpe.gz").read_bytes()
    merges = [tuple(line.split(" ")) for line in gzip.decompress(data).decode().split("\n")[1:] if line]
    names = [STAND_INS[value] for value in BYTE_ORDER] + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = rust_split("gpt2")
    return tokenizer


def around(char: str) -> str:
    """A character next to all that it could be glued to."""
    return f"a{char} 1{char}!{char} {char}{char}\n{char}\u00a0{char}'s{char}"


def the_ids_are_canonical(characters: list[str], canonical: Tokenizer) -> None:
    texts = ["\x00".join(map(around, characters[i : i + 1000])) for i in range(0, len(characters), 1000)]
    for text, found in zip(texts, canonical.encode_batch_fast(texts), strict=True):
        assert gpt2()._ids(text) == found.ids


def test_every_41st_character_has_its_canonical_ids(assigned_in_both: list[str], canonical: Tokenizer):
    the_ids_are_canonical(assigned_in_both[::41] + assigned_in_both[:3000], canonical)


@pytest.mark.slow
def test_every_character_has_its_canonical_ids(assigned_in_both: list[str], canonical: Tokenizer):
    the_ids_are_canonical(assigned_in_both, canonical)


@pytest.mark.slow
def test_every_character_is_split_off_alike_by_gpt4s_pattern(assigned_in_both: list[str]):
    for i in range(0, len(assigned_in_both), 5000):
        text = "\x00".join(map(around, assigned_in_both[i : i + 5000]))
        assert split(text, "cl100k") == rust_pieces(text, "cl100k")
