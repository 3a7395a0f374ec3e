"""Small models with every parameter random, for the tests of this package."""

from __future__ import annotations

from typing import Any

import formers
from formers.hub.differences import randomise
from formers.text import ByteTokenizer


def tokenizer() -> ByteTokenizer:
    return ByteTokenizer(["<|endoftext|>"])


def small(name: str, *, seed: int = 3, **overrides: Any) -> Any:
    """A model of prime sizes where the heads allow it."""
    settings: dict[str, Any] = {"vocab_size": 263, "num_layers": 2, "max_length": 37, "d_ff": 53}
    if name == "gpt2":
        settings |= {"d_model": 26, "num_heads": 2}
    else:
        settings |= {"d_model": 28, "num_heads": 4, "num_kv_heads": 2, "d_head": 6}
    model = formers.build(name, None, **settings | overrides)
    randomise(model, seed)
    return model.eval()
