"""Images as rows of bytes: what is written, what is held out, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formers.data import Packed, open_shards
from formers.data.images import build_images, quantised, textures
from formers.errors import DataError


def test_an_image_is_a_document_of_its_bytes_line_by_line(tmp_path: Path) -> None:
    images = textures(20, 4)
    summary = build_images(images, tmp_path / "shards", validation=0.2)
    assert summary.bytes == {"train": 16 * 48, "validation": 4 * 48}
    assert "4 x 4 x 3" in summary.notes[0]
    shards = open_shards(tmp_path / "shards")
    written = {bytes(shards.document_tokens(n)[:-1].tolist()) for n in range(20)}
    assert written == {image.tobytes() for image in images}
    assert shards.meta["image_shape"] == [4, 4, 3]
    first = shards.document_tokens(0)
    assert first[(2 * 4 + 1) * 3 + 2] == images[0, 2, 1, 2]  # line, column, channel
    batch = Packed(shards, batch_size=2, seq_len=48).batch(0)
    assert (batch.index == np.arange(48)).all()  # a row is an image
    assert (batch.targets[:, -1] == shards.tokenizer.end_of_text).all()


def test_duplicates_are_left_out_and_the_seed_decides_who_is_held_out(tmp_path: Path) -> None:
    images = textures(30, 4)
    twice = np.concatenate([images, images])
    summaries = [build_images(twice, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert [s.duplicates for s in summaries] == [30, 30]
    again = build_images(twice, tmp_path / "again", seed=0)
    splits = [open_shards(s.folder).documents[:, 3].tolist() for s in (*summaries, again)]
    assert splits[0] == splits[2] != splits[1]
    assert all(sum(split) == 3 for split in splits)


def test_fewer_levels_quantise_to_their_middles() -> None:
    every = np.arange(256, dtype=np.uint8)
    four = quantised(every, 4)
    assert sorted(set(four.tolist())) == [32, 96, 160, 224]
    assert np.abs(four.astype(int) - every).max() <= 32
    assert (quantised(every, 256) == every).all()


def test_textures_come_from_the_seed_and_have_four_colours() -> None:
    images = textures(5)
    assert images.shape == (5, 16, 16, 3)
    assert (images == textures(5)).all()
    assert (images != textures(5, seed=1)).any()
    assert all(len(np.unique(image.reshape(-1, 3), axis=0)) <= 4 for image in images)


def test_a_file_is_read_and_grey_images_have_one_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", textures(12, 5)[..., 0])
    build_images(tmp_path / "grey.npy", tmp_path / "shards")
    assert open_shards(tmp_path / "shards").meta["image_shape"] == [5, 5, 1]


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    images = textures(12, 4)
    with pytest.raises(DataError, match="float64"):
        build_images(images.astype(float), tmp_path / "shards")
    with pytest.raises(DataError, match="cannot be read"):
        build_images(tmp_path / "none.npy", tmp_path / "shards")
    with pytest.raises(DataError, match="1 images"):
        build_images(images[:1], tmp_path / "shards")
    with pytest.raises(DataError, match="levels = 1"):
        build_images(images, tmp_path / "shards", levels=1)
    with pytest.raises(DataError, match="validation = 1"):
        build_images(images, tmp_path / "shards", validation=1.0)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").write_text("x")
    with pytest.raises(DataError, match="no shard folder"):
        build_images(images, tmp_path / "else")
