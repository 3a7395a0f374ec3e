"""`formers data images`, and a training on what it wrote."""

from __future__ import annotations

from tests.cli.commands import Formers

QUICK = [
    *("--train.batch-size", "1", "--train.steps", "1", "--train.eval-batches", "1", "--train.precision", "float32"),
    *("--train.compile", "off", "--model.d-model", "16", "--model.num-layers", "2"),
]


def test_images_are_built_and_trained_on(formers: Formers) -> None:
    built = formers("data", "images", "textures", "--count", "40", "--out", "shards", "--json").json
    assert built["documents"] == {"train": 36, "validation": 4}
    assert built["bytes"]["train"] == 36 * 16 * 16 * 3
    assert "16 x 16 x 3" in formers("data", "images", "textures", "--count", "40", "--out", "shards").out
    trained = formers("train", "sparse_transformer.images", "--data", "shards", "--out", "run", *QUICK, "--json")
    assert trained.code == 0


def test_what_is_no_array_is_refused(formers: Formers) -> None:
    assert "cannot be read" in formers.refuses("data", "images", "missing.npy", "--out", "shards")
