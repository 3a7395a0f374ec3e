"""Masked tokens: how many, by what, never a special token, never half a word, and the same for the same step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from formers.data import MaskedTokens, equip
from formers.data.masking import Letters, Masking, arranged, fill, ngram_lengths
from formers.errors import ConfigError, DataError
from tests.data import texts
from tests.data.statistics import binomial_bounds, within

KINDS = ["wordpiece", "unigram", "bpe", "byte"]
STEPS = 45


def view(kind: str = "wordpiece", **settings) -> MaskedTokens:
    shards = equip(texts.shards(kind), "masked_token")
    return MaskedTokens(shards, **{"batch_size": 8, "seq_len": 64, "split": "train", **settings})


def original(batch) -> np.ndarray:
    return np.where(batch.targets >= 0, batch.targets, batch.input_ids)


def letters(kind: str) -> Letters:
    return Letters(equip(texts.shards(kind), "masked_token").tokenizer)


def test_the_bounds_are_those_of_a_binomial():
    assert binomial_bounds(4, 0.5) == (0, 4)
    low, high = binomial_bounds(10_000, 0.15)
    assert 1500 - 6 * 36 < low < 1500 - 4 * 36 < 1500 + 4 * 36 < high < 1500 + 6 * 36  # the standard deviation is 35.7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ["windows", "packed"])
def test_fifteen_of_a_hundred_tokens_are_chosen(kind: str, rows: str):
    made, chosen, there = view(kind, rows=rows), 0, 0
    for step in range(STEPS):
        batch = made.batch(step)
        text = made.masking.letters.text[original(batch)] & (batch.index >= 0)
        chosen, there = chosen + int((batch.targets >= 0).sum()), there + int(text.sum())
    assert there > 10_000
    assert within(chosen, there, 0.15)
    assert not within(chosen, there, 0.13)


def test_of_the_chosen_eight_in_ten_are_masked_one_is_another_and_one_stays():
    made, mask = view(), texts.tokenizer("wordpiece").role("mask")
    read, wanted = [], []
    for step in range(STEPS):
        batch = made.batch(step)
        read.append(batch.input_ids[batch.targets >= 0])
        wanted.append(batch.targets[batch.targets >= 0])
    read, wanted = np.concatenate(read), np.concatenate(wanted)
    number, drawn = len(read), len(made.masking.drawn)
    assert number > 1500
    assert within(int((read == mask).sum()), number, 0.8)
    assert within(int((read == wanted).sum()), number, 0.1 + 0.1 / drawn)  # a random token may be the same
    assert within(int(((read != wanted) & (read != mask)).sum()), number, 0.1 * (1 - 1 / drawn))


def test_random_tokens_are_all_tokens_of_text_alike():
    masking = Masking(letters("wordpiece"), 4)
    ids = np.full((300, 400), masking.drawn[0])
    read, targets = masking(ids, np.random.default_rng(0))
    other = read[(targets >= 0) & (read != 4) & (read != ids)]
    counts = np.bincount(other, minlength=len(masking.letters.text))
    assert (counts[masking.drawn[1:]] > 0).all()
    assert counts[~masking.letters.text].sum() == 0
    assert all(within(int(count), len(other), 1 / (len(masking.drawn) - 1)) for count in counts[masking.drawn[1:]])


@pytest.mark.parametrize("masking", ["tokens", "words", "ngrams"])
@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_never_chosen_and_never_drawn(kind: str, masking: str):
    made = view(kind, masking=masking, share=0.6)
    tokenizer = made.shards.tokenizer
    special = set(tokenizer.special_tokens.values())
    for step in range(20):
        batch = made.batch(step)
        chosen = batch.targets >= 0
        assert chosen.any()
        assert not special & set(batch.targets[chosen].tolist())
        assert special & set(batch.input_ids[chosen].tolist()) == {tokenizer.role("mask")}
        rows = batch.input_ids[(batch.index == 0)]
        assert set(rows.tolist()) == {tokenizer.role("start")}


@pytest.mark.parametrize("masking", ["words", "ngrams"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_words_are_never_split(kind: str, masking: str):
    """By the text, not by the rule that chose them: words are what stands between spaces and punctuation."""
    made, parted = view(kind, masking=masking), 0
    for step in range(20):
        batch = made.batch(step)
        for ids, targets, index in zip(original(batch), batch.targets, batch.index, strict=True):
            spelt = [made.shards.tokenizer.token_bytes(i) for i in ids[index >= 0].tolist()]
            chosen = (targets >= 0)[index >= 0]
            for (before, here), (was, now) in zip(pairwise(spelt), pairwise(chosen), strict=True):
                inside = before[-1:].isalpha() or before[-1:] >= b"\x80"
                inside &= here[:1].isalpha() or here[:1] >= b"\x80"
                if inside and before and here:
                    parted += 1
                    assert was == now, (before, here)
    assert parted > 100


def test_single_tokens_do_split_words():
    made, halves = view("bpe", masking="tokens"), 0
    for step in range(10):
        batch = made.batch(step)
        begins = made.masking.letters.begins(original(batch))
        chosen = batch.targets >= 0
        halves += int((~begins[:, 1:] & (chosen[:, 1:] != chosen[:, :-1])).sum())
    assert halves > 20


@pytest.mark.parametrize("masking", ["words", "ngrams"])
def test_whole_words_make_fifteen_of_a_hundred_words(masking: str):
    made, chosen, there = view("wordpiece", masking=masking), 0, 0
    for step in range(STEPS):
        batch = made.batch(step)
        ids, targets = original(batch), batch.targets
        begins = made.masking.letters.begins(ids) & made.masking.letters.text[ids]
        chosen, there = chosen + int((begins & (targets >= 0)).sum()), there + int(begins.sum())
    assert there > 4000
    assert within(chosen, there, 0.15)


def test_ngram_lengths_are_in_proportion_to_one_over_n():
    lengths, weights = ngram_lengths(50_000, np.random.default_rng(0)), np.array([6, 3, 2]) / 11
    counts = np.bincount(lengths, minlength=5)
    assert counts[0] == counts[4] == 0
    assert all(within(int(count), 50_000, float(weight)) for count, weight in zip(counts[1:4], weights, strict=True))


def test_spans_fill_the_budget_and_the_last_is_cut():
    assert fill(7, np.array([3, 2, 3, 1])).tolist() == [3, 2, 2]
    assert fill(5, np.array([3, 2, 3, 1])).tolist() == [3, 2]
    assert fill(1, np.array([3])).tolist() == [1]
    assert fill(0, np.array([], dtype=np.int64)).tolist() == []


def test_arranged_spans_keep_their_lengths():
    rng = np.random.default_rng(0)
    for _ in range(20):
        hidden = arranged(np.array([3, 1, 2]), 9, rng)
        assert len(hidden) == 15
        assert hidden.sum() == 6
    starts = [int(np.flatnonzero(arranged(np.array([1]), 4, rng))[0]) for _ in range(2000)]
    assert all(within(count, 2000, 0.2) for count in np.bincount(starts, minlength=5).tolist())


@pytest.mark.parametrize("rows", ["windows", "packed", "every"])
def test_a_batch_is_a_function_of_settings_seed_and_step(rows: str):
    first, again, other = view(rows=rows, seed=3), view(rows=rows, seed=3), view(rows=rows, seed=4)
    for step in (5, 0, 5, 2):
        ours, theirs = first.batch(step), again.batch(step)
        for name in ("input_ids", "targets", "index", "document"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert not np.array_equal(first.batch(1).targets, other.batch(1).targets)
    assert not np.array_equal(first.batch(1).targets, first.batch(2).targets)


def test_masks_are_dynamic():
    """A text that comes again is masked elsewhere: packing brings each text once an epoch."""
    made, seen = view(rows="packed"), {}
    rows = made._packed(0).rows
    for step in range(2 * rows // 8 + 1):
        batch = made.batch(step)
        for ids, targets in zip(original(batch), batch.targets, strict=True):
            seen.setdefault(ids.tobytes(), set()).add((targets >= 0).tobytes())
    again = [masks for masks in seen.values() if len(masks) > 1]
    assert len(again) > 2


def test_every_token_of_validation_stands_in_one_row():
    made = view(rows="every", split="validation")
    found = [original(made.batch(step)) for step in range(len(made))]
    ids = np.concatenate([batch.ravel() for batch in found])
    assert (ids == made.shards.tokenizer.end_of_text).sum() == len(made._pieces)  # the frame's; documents lose theirs
    kept = made.masking.letters.text[ids]
    shards = texts.shards()
    wanted = np.concatenate([shards.document_tokens(int(row))[:-1] for row in shards.rows("validation")])
    assert ids[kept].tolist() == wanted.tolist()


def test_ranks_share_the_rows_of_one_batch():
    whole = view().batch(3)
    parts = [view(rank=rank, world=2).batch(3) for rank in range(2)]
    for name in ("input_ids", "targets", "index", "document", "fresh"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_packed_rows_hold_several_framed_texts():
    batch = view(rows="packed", seq_len=200).batch(0)
    assert (batch.index == 0).sum() > len(batch.index)
    begins = batch.index == 0
    names = batch.document
    changed = names[:, 1:] != names[:, :-1]
    assert np.array_equal(changed[batch.index[:, 1:] >= 0], begins[:, 1:][batch.index[:, 1:] >= 0])


def test_a_window_is_of_one_document_and_as_long_as_it_can_be():
    made = view(seq_len=32)
    for step in range(5):
        batch = made.batch(step)
        for ids, index, document in zip(original(batch), batch.index, batch.document, strict=True):
            text = made.shards.document_tokens(int(document[0]))[:-1]
            inside = ids[1 : (index >= 0).sum() - 1]
            assert len(inside) == min(30, len(text))
            places = [p for p in range(len(text)) if np.array_equal(text[p : p + len(inside)], inside)]
            assert places


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"masking": "word"}, "did you mean 'words'"),
        ({"rows": "window"}, "did you mean 'windows'"),
        ({"share": 0.0}, "more than 0"),
        ({"seq_len": 2}, "seq_len 2 leaves 0 tokens"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        view(**settings)


def test_a_tokenizer_without_a_mask_is_refused_with_the_way_to_give_it_one():
    with pytest.raises(DataError, match=r"equip\(shards, 'masked_token'\)"):
        MaskedTokens(texts.shards("bpe"), batch_size=2, seq_len=16)
