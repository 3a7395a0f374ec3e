"""How much of what a model writes is Python: samples judged by Python's own `tokenize`, beside draws of single tokens.

A sample counts if its longest prefix of whole lines (the text up to its last line break) is tokenized without an error: every
string and bracket is closed, every line is indented to a level that is open, every character is one that Python knows. A
sample without a line break does not count. The same rule, prompt, length and tokenizer hold for the baseline, whose tokens
are drawn one by one by how often they stand in the training text.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from formers.data import Shards, unigram_counts


@dataclass(frozen=True)
class Judged:
    """Texts and how many of them count."""

    texts: tuple[str, ...]
    good: int

    @property
    def share(self) -> float:
        return self.good / len(self.texts)

    @property
    def example(self) -> str:
        """The first text that counts, up to its last whole line; the first text where none does."""
        return next((whole_lines(text) for text in self.texts if is_tokenizable(whole_lines(text))), self.texts[0])


def judge(texts: Sequence[str]) -> Judged:
    """Count the texts that are Python by the rule above."""
    return Judged(tuple(texts), sum(is_tokenizable(whole_lines(text)) for text in texts))


def whole_lines(text: str) -> str:
    """The text up to its last line break; empty where there is none."""
    return text[: text.rfind("\n") + 1]


def is_tokenizable(source: str) -> bool:
    """Whether Python's `tokenize` reads `source` to its end. Nothing but white space is no Python."""
    if not source.strip():
        return False
    try:
        tokens = list(tokenize.tokenize(io.BytesIO(source.encode()).readline))
    except (tokenize.TokenError, SyntaxError):  # IndentationError is a SyntaxError
        return False
    return not any(token.type == tokenize.ERRORTOKEN for token in tokens)  # how Python 3.11 says what 3.12 raises


def written(model: nn.Module, shards: Shards, prompt: str, *, count: int, tokens: int, seed: int = 0) -> Judged:
    """`count` samples of the model, sample i from seed + i."""
    from formers.generation import generate_text

    made = generate_text(
        model, shards.tokenizer, [prompt] * count, max_new_tokens=tokens, temperature=0.8, top_p=0.95, seed=seed
    )
    return judge([done.prompt + done.text for done in made])


def drawn(shards: Shards, prompt: str, *, count: int, tokens: int, seed: int = 0) -> Judged:
    """`count` samples of single tokens by their frequency in training; end_of_text, which stands for no text, is left out."""
    counts = unigram_counts(shards).astype(np.float64)
    if shards.tokenizer.end_of_text is not None:
        counts[shards.tokenizer.end_of_text] = 0
    shares = counts / counts.sum()
    rows = [np.random.default_rng([seed, i]).choice(len(shares), size=tokens, p=shares) for i in range(count)]
    return judge([prompt + shards.tokenizer.decode(row.tolist()) for row in rows])
