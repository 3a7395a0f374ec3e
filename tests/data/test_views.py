"""The views: every token where it belongs, whatever the documents, the batch and the order of asking."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formers.data import Batch, Packed, Sequential, Shards, Streams, View, Windows
from formers.data.batch import NO_TARGET, PADDING
from formers.errors import DataError

MANY = settings(max_examples=60, deadline=None)
SOME = settings(max_examples=25, deadline=None)

texts = st.text(alphabet="ab \nåé東京🙂", min_size=1, max_size=23)
corpora = st.lists(st.tuples(texts, st.sampled_from([0, 0, 0, 1])), min_size=1, max_size=9).map(
    lambda documents: [("a東b", 0), *documents, ("é🙂", 1)]
)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 7))  # batch_size, seq_len
each_view = pytest.mark.parametrize("way", ["windows", "packed", "streams", "sequential", "strided"])


def view_of(way: str, shards: Shards, batch_size: int, seq_len: int, split: str = "train", **more: int) -> View:
    shape = {"batch_size": batch_size, "seq_len": seq_len, **more}
    if way == "windows":
        return Windows(shards, split=split, **{**shape, "seq_len": min(seq_len, 3)})
    if way == "strided":
        return Sequential(shards, split=split, stride=1 + seq_len // 2, **shape)
    return {"packed": Packed, "streams": Streams, "sequential": Sequential}[way](shards, split=split, **shape)


def scored_places(batch: Batch, view: View) -> list[tuple[int, int]]:
    """(document, place of the target token in it) of every scored target, where index is the true place."""
    rows, columns = np.nonzero(batch.targets != NO_TARGET)
    return [(int(batch.document[r, c]), int(batch.index[r, c]) + 1) for r, c in zip(rows, columns, strict=True)]


def pairs(shards: Shards, split: str) -> list[tuple[int, int]]:
    """(document, place) of every token of a split that has one before it."""
    return [(int(d), place) for d in shards.rows(split) for place in range(1, int(shards.documents[d, 1]))]


def same(a: Batch, b: Batch) -> bool:
    return a.bytes == b.bytes and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("input_ids", "targets", "index", "document", "fresh")
    )


def stacked(batches: list[Batch]) -> Batch:
    names = ("input_ids", "targets", "index", "document", "fresh")
    arrays = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names}
    return Batch(**arrays, bytes=sum(batch.bytes for batch in batches))


@each_view
@SOME
@given(corpora, shapes, st.integers(0, 3), st.permutations(range(6)))
def test_a_step_is_the_same_whatever_was_asked_before(in_memory, way, documents, shape, seed, order) -> None:
    shards = in_memory(documents)
    forward, shuffled = (view_of(way, shards, *shape, seed=seed) for _ in range(2))
    in_order = [forward.batch(step) for step in range(6)]
    for step in order:
        assert same(in_order[step], shuffled.batch(step))
    assert same(in_order[4], view_of(way, shards, *shape, seed=seed).batch(4))


@each_view
@SOME
@given(corpora, shapes, st.integers(1, 3))
def test_the_ranks_batches_stacked_are_the_whole_batch(in_memory, way, documents, shape, world) -> None:
    shards, (batch_size, seq_len) = in_memory(documents), shape
    whole = view_of(way, shards, batch_size * world, seq_len)
    ranks = [view_of(way, shards, batch_size * world, seq_len, rank=rank, world=world) for rank in range(world)]
    for step in (0, 1, 5):
        assert same(whole.batch(step), stacked([rank.batch(step) for rank in ranks]))


@each_view
@SOME
@given(corpora, shapes)
def test_a_target_is_the_next_token_of_the_same_document(in_memory, way, documents, shape) -> None:
    shards = in_memory(documents)
    for step in range(3):
        batch = view_of(way, shards, *shape).batch(step)
        firsts = {}  # (row, document) -> where in the document the row takes it up, found by looking for the tokens
        for row in range(len(batch.input_ids)):
            for document in set(batch.document[row]) - {PADDING}:
                here = batch.document[row] == document
                assert np.array_equal(np.diff(batch.index[row][here]), np.ones(here.sum() - 1))
                firsts[row, document] = check_stretch(shards, batch, row, int(document), here)
        assert ((batch.index == PADDING) == (batch.document == PADDING)).all()
        assert (batch.targets[batch.index == PADDING] == NO_TARGET).all()


def check_stretch(shards: Shards, batch: Batch, row: int, document: int, here: np.ndarray) -> None:
    """The stretch stands somewhere in its document, and its targets are one further there, or not scored."""
    tokens, inputs, targets = shards.document_tokens(document), batch.input_ids[row][here], batch.targets[row][here]
    shifted = np.append(tokens[1:], NO_TARGET)  # nothing follows the end of a document
    fits = [
        first
        for first in range(len(tokens) - len(inputs) + 1)
        if np.array_equal(tokens[first : first + len(inputs)], inputs)
        and all(t in (NO_TARGET, s) for t, s in zip(targets, shifted[first:], strict=False))
    ]
    assert fits


@each_view
@SOME
@given(corpora, shapes)
def test_bytes_are_those_of_the_decoded_targets(in_memory, way, documents, shape) -> None:
    shards = in_memory(documents)
    for step in range(3):
        batch = view_of(way, shards, *shape).batch(step)
        targets = batch.targets[batch.targets != NO_TARGET]
        assert batch.bytes == len(shards.tokenizer.decode_bytes(targets.tolist()))
        assert batch.scored == len(targets)


@MANY
@given(corpora, shapes, st.integers(0, 3))
def test_a_row_of_a_stream_rebuilds_each_document_in_order(in_memory, documents, shape, seed) -> None:
    shards, (batch_size, seq_len) = in_memory(documents), shape
    view = Streams(shards, batch_size=batch_size, seq_len=seq_len, seed=seed, epochs=2)
    steps = list(view)
    rebuilt: Counter[int] = Counter()
    for row in range(batch_size):
        open_document: list[int] = []
        for batch in steps:
            present = batch.index[row] >= 0
            if not present.any():
                assert batch.fresh[row]
                continue
            assert present[: present.sum()].all(), "padding only at the tail"
            assert batch.fresh[row] == (batch.index[row, 0] == 0)
            open_document = [] if batch.fresh[row] else open_document
            assert np.array_equal(batch.index[row][present], len(open_document) + np.arange(present.sum()))
            assert len(set(batch.document[row][present])) == 1
            open_document += batch.input_ids[row][present].tolist()
            document = int(batch.document[row, 0])
            tokens = shards.document_tokens(document).tolist()
            if len(open_document) == len(tokens) - 1:
                last = batch.targets[row][present][-1]
                assert [*open_document, int(last)] == tokens
                rebuilt[document] += 1
    assert rebuilt == dict.fromkeys(shards.rows("train").tolist(), 2)


@MANY
@given(corpora, shapes, st.integers(0, 3))
def test_an_endless_stream_never_waits_and_opens_each_document_once_an_epoch(in_memory, documents, shape, seed) -> None:
    shards, (batch_size, seq_len) = in_memory(documents), shape
    view = Streams(shards, batch_size=batch_size, seq_len=seq_len, seed=seed)
    opened = []
    for step in range(30):
        batch = view.batch(step)
        assert (batch.index[:, 0] >= 0).all()
        opened += batch.document[batch.fresh, 0].tolist()
    number = len(view.documents)
    for epoch in range(len(opened) // number):
        assert sorted(opened[epoch * number : (epoch + 1) * number]) == view.documents.tolist()


@MANY
@given(corpora, shapes, st.integers(1, 9))
def test_a_stream_cut_short_reads_everything_once_an_epoch_in_pieces_that_begin_anew(
    in_memory, documents, shape, longest
) -> None:
    shards, (batch_size, seq_len) = in_memory(documents), shape
    read: list[tuple[int, ...]] = []
    for batch in Streams(shards, batch_size=batch_size, seq_len=seq_len, epochs=1, longest=longest):
        there = batch.index >= 0
        assert batch.index.max() < longest
        assert (batch.fresh == (batch.index[:, 0] <= 0)).all()
        read += zip(batch.document[there], batch.input_ids[there], batch.targets[there], strict=True)
    tokens = {int(d): shards.document_tokens(int(d)).tolist() for d in shards.rows("train")}
    assert sorted(read) == sorted((d, a, b) for d, ids in tokens.items() for a, b in itertools.pairwise(ids))


@MANY
@given(corpora, shapes, st.data())
def test_evaluation_scores_every_token_exactly_once(in_memory, documents, shape, data) -> None:
    shards, (batch_size, seq_len) = in_memory(documents), shape
    stride = data.draw(st.one_of(st.none(), st.integers(1, seq_len)))
    view = Sequential(shards, batch_size=batch_size, seq_len=seq_len, stride=stride)
    seen = [place for batch in view for place in scored_places(batch, view)]
    assert len(seen) == len(set(seen))
    assert sorted(seen) == pairs(shards, "validation")
    assert view.batch(len(view)).scored == 0
    size = sum(len(shards.text_bytes(d)) - len(shards.text(d)[0].encode()) for d in view.documents)
    assert sum(batch.bytes for batch in view) == size


@MANY
@given(corpora, st.integers(2, 7), st.data())
def test_a_stride_leaves_every_target_a_context(in_memory, documents, seq_len, data) -> None:
    shards = in_memory(documents)
    stride = data.draw(st.integers(1, seq_len))
    for batch in Sequential(shards, batch_size=3, seq_len=seq_len, stride=stride):
        scored = batch.targets != NO_TARGET
        assert (batch.place[scored] >= np.minimum(batch.index[scored], seq_len - stride)).all()
        assert batch.fresh.all()
        assert scored.any(axis=1)[(batch.index >= 0).any(axis=1)].all(), "no window without a target"


@MANY
@given(corpora, shapes, st.integers(0, 3))
def test_an_epoch_of_packed_rows_holds_every_pair_once(in_memory, documents, shape, seed) -> None:
    shards, (batch_size, seq_len) = in_memory(documents), shape
    view = Packed(shards, batch_size=batch_size, seq_len=seq_len, seed=seed, epochs=2)
    found: Counter[tuple[int, int, int]] = Counter()
    for batch in view:
        cells = np.nonzero(batch.index >= 0)
        found.update(
            zip(
                batch.document[cells].tolist(),
                batch.input_ids[cells].tolist(),
                batch.targets[cells].tolist(),
                strict=True,
            )
        )
    wanted: Counter[tuple[int, int, int]] = Counter()
    for document in shards.rows("train"):
        tokens = shards.document_tokens(int(document)).tolist()
        wanted.update((int(document), a, b) for a, b in itertools.pairwise(tokens))
    assert found == Counter({pair: 2 * count for pair, count in wanted.items()})
    assert view.batch(len(view)).scored == 0


def test_a_document_that_fits_is_packed_whole(in_memory) -> None:
    shards = in_memory([("a" * n, 0) for n in (3, 5, 2, 6, 4, 4)])
    view = Packed(shards, batch_size=1, seq_len=8, epochs=1)
    assert len(view) == 3, "24 inputs fit three rows of 8"
    for batch in view:
        assert (batch.index >= 0).all()
        for document in set(batch.document[0]):
            assert (batch.document == document).sum() == shards.documents[document, 1] - 1


def test_packed_epochs_differ_and_share_batches_at_the_edge(in_memory) -> None:
    shards = in_memory([("ab東é"[: 1 + n % 4] * (1 + n % 3), 0) for n in range(30)])
    view = Packed(shards, batch_size=4, seq_len=12)
    rows = view.rows_per_epoch
    assert rows % 4
    assert (view.batch(rows // 4).index[:, 0] == 0).all(), "no row of padding where epochs meet"
    assert not same(view.batch(0), Packed(shards, batch_size=4, seq_len=12, seed=1).batch(0))


def test_windows_cover_every_token_and_restart_at_documents(in_memory) -> None:
    shards = in_memory([("ab東", 0), ("é", 1), ("🙂a b\n", 0)])
    view = Windows(shards, batch_size=4, seq_len=4, seed=3)
    batches = [view.batch(step) for step in range(40)]
    assert {int(d) for b in batches for d in b.document.ravel()} == {0, 2}
    assert {int(start) for b in batches for start in b.input_ids[:, 0]} >= set(shards.tokenizer.encode("ab東🙂"))
    for batch in batches:
        assert np.array_equal(batch.index, batch.place)
        ends = batch.input_ids == shards.tokenizer.end_of_text
        assert (batch.targets[ends] == NO_TARGET).all()
        assert (batch.targets[~ends] != NO_TARGET).all()
    assert not same(batches[0], batches[1])


def test_every_window_is_drawn_and_none_beyond(in_memory) -> None:
    shards = in_memory([("ab東", 0), ("é", 0), ("🙂", 0)])
    view = Windows(shards, batch_size=5, seq_len=3)
    tokens = shards.tokens.tolist()
    windows = {tuple(row) for step in range(60) for row in view.batch(step).input_ids.tolist()}
    assert windows == {tuple(tokens[start : start + 3]) for start in range(len(tokens) - 2)}


def test_each_epoch_has_an_order_of_its_own(in_memory) -> None:
    shards = in_memory([("ab東é"[n % 4] * 4, 0) for n in range(20)])
    for view in (Streams(shards, batch_size=1, seq_len=4), Packed(shards, batch_size=1, seq_len=4)):
        orders = [tuple(view.batch(step).document[0, 0] for step in range(start, start + 20)) for start in (0, 20)]
        assert orders[0] != orders[1]
        assert set(orders[0]) == set(orders[1])


def test_place_restarts_where_the_row_takes_a_document_up(in_memory) -> None:
    shards = in_memory([("a" * 10, 0)])
    view = Streams(shards, batch_size=1, seq_len=4, epochs=1)
    batch = view.batch(2)
    assert batch.index.tolist() == [[8, 9, -1, -1]]
    assert batch.place.tolist() == [[0, 1, -1, -1]]


def test_a_batch_becomes_tensors(in_memory) -> None:
    torch = pytest.importorskip("torch")
    batch = Sequential(in_memory([("ab", 1)]), batch_size=2, seq_len=3).batch(0)
    tensors = batch.torch("cpu")
    for name in ("input_ids", "targets", "index", "document", "place"):
        assert getattr(tensors, name).dtype == torch.int64
        assert np.array_equal(getattr(tensors, name).numpy(), getattr(batch, name))
    assert tensors.fresh.dtype == torch.bool
    assert (tensors.bytes, tensors.scored) == (batch.bytes, batch.scored)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda s: Windows(s, batch_size=1, seq_len=4), "has 3 tokens"),
        (lambda s: Windows(s, batch_size=0, seq_len=1), "batch_size 0"),
        (lambda s: Windows(s, split="valid", batch_size=1, seq_len=1), "validation"),
        (lambda s: Streams(s, split="validation", batch_size=1, seq_len=1), "no validation documents"),
        (lambda s: Streams(s, batch_size=3, seq_len=1, world=2), "set batch_size to 4"),
        (lambda s: Streams(s, batch_size=4, seq_len=1, rank=2, world=2), "rank 2 of 2"),
        (lambda s: Packed(s, batch_size=1, seq_len=1, epochs=0), "epochs 0"),
        (lambda s: Sequential(s, split="train", batch_size=1, seq_len=3, stride=4), "stride 4"),
        (lambda s: Packed(s, batch_size=1, seq_len=1).batch(-1), "step -1"),
    ],
)
def test_bad_settings_say_what_is_wanted(in_memory: Callable[..., Shards], make: Callable, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make(in_memory([("ab", 0)]))


def test_a_view_without_end_has_no_length(in_memory) -> None:
    with pytest.raises(TypeError, match="no end"):
        len(Streams(in_memory([("ab", 0)]), batch_size=1, seq_len=1))


def test_streams_promise_that_rows_go_on_from_multiples_of_their_length(in_memory) -> None:
    shards = in_memory([("ab " * length, length % 2) for length in range(1, 40)])
    for view in (Streams(shards, batch_size=3, seq_len=16, epochs=1), Sequential(shards, batch_size=3, seq_len=16)):
        for step in range(len(view)):
            batch = view.batch(step)
            assert batch.aligned == 16
            for index in batch.index:
                there = int((index >= 0).sum())
                assert there == 0 or index[0] % 16 == 0
                assert (index[:there] == index[0] + np.arange(there)).all()
                assert (index[there:] == -1).all()
    assert Sequential(shards, batch_size=3, seq_len=16, stride=8).batch(0).aligned is None
    assert Windows(shards, batch_size=3, seq_len=16).batch(0).aligned is None
