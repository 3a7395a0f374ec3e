"""Batches of texts and pairs for models that read whole texts: special tokens, type ids, truncation, windows, padding.

    batch = encode_texts(tokenizer, questions, passages, max_length=384, truncation="only_second", stride=128, offsets=True)

`Tokenizer.encode` gives the ids of a text and nothing else; here they are framed as the model was trained
(``[CLS] a [SEP] b [SEP]``, ``a </s>``: the template of the tokenizer's file), cut to a length, and laid out in a rectangle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from formers.errors import ConfigError, DataError, suggest
from formers.text.base import Tokenizer, check_texts
from formers.text.template import BARE, Slot, Template, read

if TYPE_CHECKING:
    import numpy as np

TRUNCATIONS = ("longest_first", "only_first", "only_second")
PADDINGS = ("longest", "max_length")


@dataclass(frozen=True)
class Encodings:
    """A rectangle of tokens; all arrays are int64 of numpy, [rows, length] unless said otherwise.

    Attributes:
        input_ids: the tokens; the padding token (or 0) where nothing stands.
        token_types: 0 or 1 as the template says; 0 in padding.
        index: the place in the row's text, from 0; -1 in padding. What `Positions` takes.
        which: 0 where the first text stands, 1 the second, -1 special tokens and padding.
        offsets: [rows, length, 2], the characters (start, end) of the text that `which` names; (0, 0) elsewhere. None unless
            asked for.
        sample: [rows], the text or pair that a row comes from; windows of one text are rows one after another.
    """

    input_ids: np.ndarray
    token_types: np.ndarray
    index: np.ndarray
    which: np.ndarray
    offsets: np.ndarray | None
    sample: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """bool [rows, length]: where a token stands (transformers' attention_mask)."""
        return self.index >= 0


@dataclass(frozen=True)
class Layout:
    """How texts become rows; see `encode_texts`, which checks and explains each."""

    max_length: int | None = None
    truncation: str | None = None
    stride: int | None = None
    padding: str = "longest"
    multiple_of: int = 1
    pad_side: str = "right"

    def check(self, *, pair: bool) -> None:
        """Refuse settings that contradict each other, or that are no settings, all at once."""
        problems = []
        for name, value, known in (("truncation", self.truncation, TRUNCATIONS), ("padding", self.padding, PADDINGS)):
            if value not in (None, *known) or (value is None and name == "padding"):
                problems.append(
                    f"{name}={value!r}, wanted one of {', '.join(known)} {suggest(str(value), known)}".rstrip()
                )
        if self.pad_side not in ("left", "right"):
            problems.append(f"pad_side={self.pad_side!r}, wanted left or right")
        if self.multiple_of < 1:
            problems.append(f"multiple_of={self.multiple_of}, wanted 1 or more")
        needing = [n for n, v in (("truncation", self.truncation), ("stride", self.stride)) if v is not None]
        if self.max_length is None and (needing or self.padding == "max_length"):
            problems.append(f"{(needing or ['padding to max_length'])[0]} without max_length")
        if self.stride is not None and (self.stride < 0 or self.truncation is None):
            problems.append(
                f"stride={self.stride} with truncation={self.truncation!r}, wanted 0 or more and a truncation"
            )
        if pair and self.stride is not None and self.truncation == "longest_first":
            problems.append("windows of pairs cut longest_first, wanted only_first or only_second")
        if not pair and self.truncation == "only_second":
            problems.append("truncation only_second without pairs")
        if problems:
            raise ConfigError("these settings cannot be used: " + "; ".join(problems), do="change them")


@dataclass(frozen=True)
class _Text:
    """One text: its ids and, where they are wanted, their characters."""

    ids: list[int]
    spans: list[tuple[int, int]] | None


Range = tuple[int, int]


def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
    truncation: str | None = None,
    stride: int | None = None,
    padding: str = "longest",
    multiple_of: int = 1,
    pad_side: str = "right",
    special: bool = True,
    allow_special: bool = False,
    offsets: bool = False,
) -> Encodings:
    """The texts, or pairs of `texts` and `pairs`, as a batch.

    Args:
        max_length: the longest row, special tokens included. A longer text is an error unless `truncation` says what to cut.
        truncation: "longest_first" (of a pair the longer text, until both are equally long, then both), "only_first",
            "only_second". Ends are cut off.
        stride: keep what is cut off, as further rows that overlap by so many tokens. A short second text or question is
            repeated in every row.
        padding: to the "longest" row, or to "max_length".
        multiple_of: round the length up to such a multiple.
        pad_side: "right", or "left" for generation.
        special: put the template's special tokens around the texts; without, nothing is added.
        allow_special: recognise special tokens in the texts ("[MASK]").
        offsets: find the characters of every token, which costs the fast path.

    Raises:
        ConfigError: settings that contradict each other.
        DataError: no texts, something that is no text, unequal numbers of texts and pairs, a text that is too long, or a
            `max_length` without room for any of it.
    """
    layout = Layout(max_length, truncation, stride, padding, multiple_of, pad_side)
    layout.check(pair=pairs is not None)
    _check_batch(texts, pairs)
    template = read(tokenizer.template) if special else BARE
    sides = [_read_all(tokenizer, side, allow_special, offsets) for side in (texts, pairs) if side is not None]
    rows = [
        (place, _row(template.single if pairs is None else template.pair, sample, cuts))
        for place, sample in enumerate(zip(*sides, strict=True))
        for cuts in _cuts([len(text.ids) for text in sample], template, layout, place)
    ]
    return _rectangle(rows, layout, tokenizer.role("pad") or 0, offsets)


def _check_batch(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    check_texts(texts)
    check_texts(pairs or ())
    if not texts:
        raise DataError("a batch of nothing", wanted="at least one text")
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts and {len(pairs)} to pair them with", wanted="as many of each")


def _read_all(tokenizer: Tokenizer, texts: Sequence[str], allow_special: bool, offsets: bool) -> list[_Text]:
    if offsets:
        return [_Text(*tokenizer.encode_offsets(text, allow_special=allow_special)) for text in texts]
    if allow_special:
        return [_Text(tokenizer.encode(text, allow_special=True), None) for text in texts]
    return [_Text(ids, None) for ids in tokenizer.encode_batch(texts)]


# -- truncation ---------------------------------------------------------------------------------------------------------


def _cuts(lengths: list[int], template: Template, layout: Layout, place: int) -> Iterator[list[Range]]:
    """For each row of a sample, which tokens of each of its texts stand in it."""
    whole = [(0, length) for length in lengths]
    if layout.max_length is None:
        yield whole
        return
    room = layout.max_length - template.num_special(pair=len(lengths) == 2)
    if sum(lengths) <= room:
        yield whole
    elif layout.truncation is None:
        raise DataError(
            f"text {place} has {sum(lengths)} tokens",
            wanted=f"at most {room} (max_length {layout.max_length} less the special tokens)",
            do="shorten it, or ask for a truncation",
        )
    elif layout.truncation == "longest_first" and len(lengths) == 2:
        yield [(0, length) for length in longest_first(lengths[0], lengths[1], _at_least(1, room, place, layout))]
    else:
        cut = 1 if layout.truncation == "only_second" else 0
        left = _at_least(1, room - sum(lengths) + lengths[cut], place, layout)
        for window in windows(lengths[cut], left, layout.stride):
            yield [window if side == cut else span for side, span in enumerate(whole)]


def _at_least(least: int, room: int, place: int, layout: Layout) -> int:
    if room < least or (layout.stride is not None and room <= layout.stride):
        overlap = f" and {layout.stride} of overlap" if layout.stride else ""
        raise DataError(
            f"text {place}: max_length {layout.max_length} leaves {max(room, 0)} tokens for what is cut ({layout.truncation})",
            wanted=f"room for one token beside the special tokens, what is not cut{overlap}",
            do="ask for a longer max_length, another truncation or a smaller stride",
        )
    return room


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay: the shorter whole if it fits in half, else half each, an odd one to the longer
    (to the second of equals)."""
    short, long = min(first, second), max(first, second)
    if short > room // 2:
        short, long = room // 2, room - room // 2
    else:
        long = room - short
    return (long, short) if first > second else (short, long)


def windows(length: int, room: int, stride: int | None) -> Iterator[Range]:
    """Stretches of `room` tokens that overlap by `stride`, the last one ending where the text does; None: the first alone."""
    start = 0
    while start + room < length and stride is not None:
        yield start, start + room
        start += room - stride
    yield start, min(start + room, length)


# -- rows ---------------------------------------------------------------------------------------------------------------

Column = tuple[int, int, int, tuple[int, int]]
"""A token of a row: id, type id, which text, characters."""


def _row(slots: Sequence[Slot], sample: Sequence[_Text], cuts: Sequence[Range]) -> list[Column]:
    row: list[Column] = []
    for slot in slots:
        if slot.text is None:
            assert slot.token_id is not None
            row.append((slot.token_id, slot.type_id, -1, (0, 0)))
            continue
        text, (start, end) = sample[slot.text], cuts[slot.text]
        spans = text.spans[start:end] if text.spans is not None else [(0, 0)] * (end - start)
        row += [(i, slot.type_id, slot.text, span) for i, span in zip(text.ids[start:end], spans, strict=True)]
    return row


def _rectangle(rows: list[tuple[int, list[Column]]], layout: Layout, pad_id: int, offsets: bool) -> Encodings:
    import numpy as np

    longest = max(len(row) for _, row in rows)
    length = layout.max_length if layout.padding == "max_length" and layout.max_length is not None else longest
    length = -(-length // layout.multiple_of) * layout.multiple_of
    shape = (len(rows), length)
    ids, types, index = np.full(shape, pad_id), np.zeros(shape, np.int64), np.full(shape, -1)
    which, places = np.full(shape, -1), np.zeros((*shape, 2), np.int64)
    for place, (_, row) in enumerate(rows):
        here = slice(0, len(row)) if layout.pad_side == "right" else slice(length - len(row), length)
        for array, column in zip((ids, types, which, places), zip(*row, strict=True), strict=True) if row else ():
            array[place, here] = column
        index[place, here] = np.arange(len(row))
    return Encodings(ids, types, index, which, places if offsets else None, np.array([sample for sample, _ in rows]))
