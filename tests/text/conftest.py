"""Text that every machine has (the standard library's own source), strange text, and the Rust library as a reference."""

from __future__ import annotations

import random
import sys
import sysconfig
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from formers.text import patterns

ASSIGNED = [char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) not in ("Cn", "Cs")]
"""Assigned in Python's own Unicode table (14.0 in 3.11), so in those of `regex` and `tokenizers` too, which are newer."""

SPLITTERS = " \n\t\r'’1.,!_\u00a0\u3000\u200bſéſ東😀ßİ"


@pytest.fixture(scope="session")
def stdlib() -> Callable[[int], list[str]]:
    """`stdlib(n)`: source files of the standard library, n characters or a little more, the same on every call."""

    def texts(num_characters: int) -> list[str]:
        root = Path(sysconfig.get_paths()["stdlib"])
        found: list[str] = []
        for path in sorted(root.rglob("*.py")):
            if "site-packages" not in path.parts and sum(map(len, found)) < num_characters:
                found.append(path.read_bytes().decode("utf-8", errors="replace"))
        return found

    return texts


@pytest.fixture(scope="session")
def strange_texts() -> list[str]:
    """1,000 random strings: half of all assigned characters, half of those that decide where text is split."""
    draw = random.Random(20)
    alphabets = (ASSIGNED, [*SPLITTERS, *"abcdefgstmdrelv' "])
    return ["".join(draw.choices(alphabets[i % 2], k=draw.randrange(1, 60))) for i in range(1000)]


def rust_trained(texts: list[str], vocab_size: int, pattern: str = "gpt2", special: tuple[str, ...] = ()) -> Tokenizer:
    """What a user of the `tokenizers` library would write."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = rust_split(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.encode_special_tokens = True  # as text, where text spells them: formers' rule, and an option there
    return tokenizer


def rust_split(pattern: str) -> Any:
    """The split of a named pattern, with the Rust library's own GPT-2 expression for GPT-2's."""
    if pattern == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = pre_tokenizers.Split(Regex(patterns.PATTERNS[pattern]), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def rust_pieces(text: str, pattern: str) -> list[str]:
    """The pieces the Rust library cuts `text` into, as text."""
    return [text[start:end] for _, (start, end) in rust_split(pattern).pre_tokenize_str(text)]
