"""Tokenizers against the Rust `tokenizers` library called directly: training, encoding in bulk, and one text at a time.

5 MB of the standard library's source, vocabulary 4,096, GPT-2's pattern. `encode_batch` and training run through that same
library, so their ratios say what our checks cost; "python" rows are our own readable engines against it. Merges and ids are
compared on the way: a figure for something else would mean nothing.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from benchmarks.measure import alternate, environment, finish, parser, ratios, seconds, span
from formers.text.byte_bpe import BPETokenizer, train_bpe

VOCABULARY, MEGABYTES = 4096, 5.0
PAIRS = {
    "train": "train, Rust directly",
    "train in python": "train, Rust directly",
    "encode_batch": "encode_batch, Rust directly",
    "encode in python": "encode one by one, Rust directly",
}


def source(megabytes: float) -> list[str]:
    """Files of the standard library, about so many megabytes."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in path.parts and sum(map(len, texts)) < megabytes * 1e6:
            texts.append(path.read_bytes().decode("utf-8", errors="replace"))
    return texts


def rust(texts: list[str]) -> Tokenizer:
    """What a user of the library would write."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def contestants(texts: list[str]) -> dict[str, Callable[[], Any]]:
    """Each does the whole of its work; the python encoder starts with an empty memory of pieces."""
    theirs, ours = rust(texts), train_bpe(texts, VOCABULARY)
    here = train_bpe(texts, VOCABULARY, engine="python")
    expected = [found.ids for found in theirs.encode_batch(texts)]
    assert here.fingerprint == ours.fingerprint
    assert json.loads(theirs.to_str())["model"]["merges"] == ours.to_json()["model"]["merges"]
    assert ours.encode_batch(texts) == expected == [here.encode(text) for text in texts]

    def fresh() -> BPETokenizer:
        here._cache.clear()
        return here

    return {
        "train": lambda: train_bpe(texts, VOCABULARY),
        "train in python": lambda: train_bpe(texts, VOCABULARY, engine="python"),
        "train, Rust directly": lambda: rust(texts),
        "encode_batch": lambda: ours.encode_batch(texts),
        "encode_batch, Rust directly": lambda: [e.ids for e in theirs.encode_batch_fast(texts)],
        "encode in python": lambda: [fresh().encode(text) for text in texts[:1]] + [here.encode(t) for t in texts[1:]],
        "encode one by one, Rust directly": lambda: [theirs.encode(text).ids for text in texts],
    }


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    texts = source(MEGABYTES)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    def speed(run: Callable[[], Any]) -> Callable[[], float]:
        return lambda: megabytes / seconds(run)

    speeds = alternate({name: speed(run) for name, run in contestants(texts).items()}, options.rounds)
    result = {
        "environment": environment(),
        "megabytes": megabytes,
        "megabytes_per_second": speeds,
        "speed_ratio": {name: ratios(speeds[name], speeds[peer]) for name, peer in PAIRS.items()},
    }
    parts = [f"{n} {span(r, 'x')}" for n, r in result["speed_ratio"].items()]
    finish("text", result, "against the Rust library: " + "; ".join(parts), options.json)


if __name__ == "__main__":
    main()
