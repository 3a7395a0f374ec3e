"""Examples and their rows: labels stand at first tokens, packing keeps everything, batches are functions of their number."""

from __future__ import annotations

import numpy as np
import pytest

from formers.data.batch import NO_TARGET
from formers.data.examples import Example, LabelledRows, of_text, of_words, word_pieces
from formers.errors import DataError
from formers.text import Tokenizer, train_tokenizer

TEXT = "Ada Lovelace met Charles Babbage in London, and they spoke of engines and numbers there."
WORDS = TEXT.split()


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    from formers.text.extend import framed

    sizes = {"wordpiece": 60, "unigram": 36, "bpe": 280}
    return framed(train_tokenizer(request.param, TEXT, sizes[request.param]))


def test_words_have_the_pieces_of_the_text_that_they_make(tokenizer: Tokenizer) -> None:
    pieces = dict(word_pieces(tokenizer, WORDS))
    assert sorted(pieces) == list(range(len(WORDS)))
    kept = [token for _, some in sorted(pieces.items()) for token in some]
    assert kept == [i for i in tokenizer.encode(TEXT) if tokenizer.decode([i]).strip() or i in kept]
    for place, some in pieces.items():
        assert tokenizer.decode(some).replace(" ", "").replace("##", "").lower() == WORDS[place].lower()


def test_a_label_stands_at_the_first_piece_of_its_word_and_none_elsewhere(tokenizer: Tokenizer) -> None:
    labels = list(range(len(WORDS)))
    ((example, places),) = of_words(tokenizer, WORDS, labels, 512)
    assert places == labels
    assert example.labels[example.labels != NO_TARGET].tolist() == labels
    pieces = dict(word_pieces(tokenizer, WORDS))
    for place, at in enumerate(np.flatnonzero(example.labels != NO_TARGET)):
        assert example.ids[at] == pieces[place][0]
    assert example.labels[0] == example.labels[-1] == NO_TARGET  # the frame


def test_a_long_sentence_is_cut_between_words(tokenizer: Tokenizer) -> None:
    longest = max(len(some) for _, some in word_pieces(tokenizer, WORDS))
    cut = of_words(tokenizer, WORDS, list(range(len(WORDS))), longest + 2)
    assert len(cut) > 1
    assert all(len(example.ids) <= longest + 2 for example, _ in cut)
    assert [place for _, places in cut for place in places] == list(range(len(WORDS)))
    labels = [int(label) for example, _ in cut for label in example.labels if label != NO_TARGET]
    assert labels == list(range(len(WORDS)))


def test_a_word_longer_than_a_row_keeps_its_label(tokenizer: Tokenizer) -> None:
    ((first, _), (second, places)) = of_words(tokenizer, ["in", "engines" * 9], [3, 4], 8)
    assert places == [1]
    assert first.labels.max() == 3
    assert second.labels.tolist().count(4) == 1
    assert len(second.ids) == 8


def test_the_label_of_a_text_stands_at_its_first_token(tokenizer: Tokenizer) -> None:
    example = of_text(tokenizer, TEXT, 2, 9)
    assert len(example.ids) == 9
    assert example.labels.tolist() == [2] + [NO_TARGET] * 8


def rows(count: int, *, seed: int = 0, every: bool = False, batch_size: int = 3) -> LabelledRows:
    generator = np.random.default_rng(7)
    lengths = generator.integers(1, 12, count)
    examples = [Example(generator.integers(5, 50, n), np.full(n, number)) for number, n in enumerate(lengths)]
    tokenizer = train_tokenizer("byte")
    return LabelledRows(examples, tokenizer, batch_size=batch_size, seq_len=16, seed=seed, every=every)


def examples_in(view: LabelledRows, steps: range) -> list[int]:
    found = []
    for step in steps:
        batch = view.batch(step)
        for number in np.unique(batch.document[batch.document >= 0]).tolist():
            here = batch.document == number
            assert (batch.input_ids[here] == view.examples[number].ids).all()
            assert (batch.targets[here] == number).all()
            assert batch.index[here].tolist() == list(range(here.sum()))
            found.append(number)
        assert (batch.targets[batch.document < 0] == NO_TARGET).all()
    return found


def test_every_example_stands_in_one_row_whole_and_once() -> None:
    view = rows(41, every=True)
    assert sorted(examples_in(view, range(len(view)))) == list(range(41))
    assert (view.batch(len(view)).index == -1).all()  # behind the end


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    view = rows(41, batch_size=1)
    first, second = (examples_in(view, range(n * view.rows, (n + 1) * view.rows)) for n in (0, 1))
    assert sorted(first) == sorted(second) == list(range(41))
    assert first != second
    with pytest.raises(TypeError, match="no end"):
        len(view)


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    one, again, other = rows(41).batch(30), rows(41).batch(30), rows(41, seed=1).batch(30)
    assert (one.input_ids == again.input_ids).all()
    assert (one.input_ids != other.input_ids).any()


def test_no_examples_and_long_ones_are_refused() -> None:
    tokenizer, long = train_tokenizer("byte"), Example(np.zeros(17, dtype=np.int64), np.zeros(17, dtype=np.int64))
    for examples, said in (([], "no examples"), ([long], "up to 17 tokens")):
        with pytest.raises(DataError, match=said):
            LabelledRows(examples, tokenizer, batch_size=1, seq_len=16)
