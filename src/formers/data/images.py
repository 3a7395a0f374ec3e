"""Images as rows of bytes: line by line, pixel by pixel, channel by channel, an image a document (1904.10509, section 7.1).

An array of bytes [images, lines, columns, channels] becomes a shard folder whose tokens are its bytes, with end_of_text
behind each image. Bits per byte are then bits per dimension, and a model's position tables may know lines, columns, channels.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from pathlib import Path

import numpy as np

from formers.data.builder import Summary
from formers.data.plan import TRAIN, VALIDATION
from formers.data.shards import ShardWriter, is_shard_folder
from formers.errors import DataError
from formers.files import whole_folder
from formers.text.byte import ByteTokenizer


def build_images(
    images: np.ndarray | Path | str, out: Path | str, *, validation: float = 0.1, seed: int = 0, levels: int = 256
) -> Summary:
    """Build the shard folder `out` from images of one size: an array, or a .npy file with one.

    images      uint8 [images, lines, columns, channels], or without channels
    validation  share of the images that is held out, chosen by a hash of `seed` and the content; duplicates are left out
    levels      values that a byte may have; fewer than 256 quantise
    Raises DataError for arrays of other kinds, too few images, or an `out` that is something else.
    """
    began, out = time.perf_counter(), Path(out).expanduser().resolve()
    rows = quantised(_array(images), levels)
    if out.exists() and not is_shard_folder(out) and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(
            f"{out} exists and is no shard folder", "a new folder, or shards to replace", "name another --out"
        )
    order, splits = _plan([row.tobytes() for row in rows], validation, seed)
    with whole_folder(out) as folder, ShardWriter(folder, ByteTokenizer()) as writer:
        for number, split in zip(order, splits, strict=True):
            writer.add(rows[number].reshape(-1).tolist(), rows[number].size, split)
        meta = writer.finish({
            "sources": ["an array" if isinstance(images, np.ndarray) else os.fspath(images)],
            "files": 1, "seed": seed, "validation": validation, "levels": levels, "image_shape": list(rows.shape[1:]),
            "cut": False, "duplicates": len(rows) - len(order), "skipped": {}, "skipped_files": [], "overlap": None,
            "overlap_lines": 0, "separator": None, "text_field": "text",
        })  # fmt: skip
    same = {name: meta[name] for name in Summary.__dataclass_fields__ if name in meta}
    shape = " x ".join(map(str, rows.shape[1:]))
    note = (
        f"images of {shape}: a text of {math.prod(rows.shape[1:]):,} bytes each, lines of {math.prod(rows.shape[2:])}"
    )
    return Summary(folder=out, seconds=time.perf_counter() - began, notes=[note], **same)


def _array(images: np.ndarray | Path | str) -> np.ndarray:
    """[images, lines, columns, channels] of bytes."""
    if isinstance(images, np.ndarray):
        array = images
    else:
        try:
            array = np.load(images, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{images} cannot be read: {error}", "a .npy file of bytes [images, lines, columns, channels]"
            ) from error
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or not array.size:
        found = f"an array of {array.dtype} {list(array.shape)}"
        raise DataError(found, "uint8 [images, lines, columns, channels], or without channels")
    return array if array.ndim == 4 else array[..., None]


def quantised(images: np.ndarray, levels: int) -> np.ndarray:
    """Each byte replaced by the middle of its level, so that `levels` values are left."""
    if not 2 <= levels <= 256:
        raise DataError(f"levels = {levels}", "2 to 256")
    if levels == 256:
        return images
    level = images.astype(np.int64) * levels // 256
    return ((2 * level + 1) * 128 // levels).astype(np.uint8)


def _plan(contents: list[bytes], validation: float, seed: int) -> tuple[list[int], list[int]]:
    """Which images are written, in their order, and their splits: those whose hash is least are held out."""
    if not 0 <= validation < 1:
        raise DataError(f"validation = {validation}", "a share in [0, 1)")
    first = {content: number for number, content in reversed(list(enumerate(contents)))}
    order = sorted(first.values())
    held = round(validation * len(order))
    if validation and not 1 <= held < len(order):
        raise DataError(f"{len(order)} images", f"enough to hold out a share of {validation:g}")
    digest = {n: hashlib.sha256(seed.to_bytes(8, "big") + contents[n]).digest() for n in order}
    out = set(sorted(order, key=digest.__getitem__)[:held])
    return order, [VALIDATION if n in out else TRAIN for n in order]


def textures(count: int, size: int = 16, *, seed: int = 0) -> np.ndarray:
    """Synthetic images, uint8 [count, size, size, 3]: a small tile of four colours, repeated, with a few pixels changed.

    What stands a line or a tile above says more of a pixel than what stands before it: data with a period.
    """
    generator = np.random.default_rng([seed, size])
    made = np.empty((count, size, size, 3), dtype=np.uint8)
    for image in made:
        colours = generator.integers(0, 4, (4, 3)) * 85
        tile = generator.integers(0, 4, generator.integers(2, 6, 2))
        repeats = [-(-size // side) for side in tile.shape]
        which = np.tile(tile, repeats)[:size, :size]
        noise = generator.random((size, size)) < 0.02
        image[:] = colours[np.where(noise, generator.integers(0, 4, (size, size)), which)]
    return made
