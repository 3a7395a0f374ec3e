"""Text is cut exactly at a stop string, characters come whole, and a stream joins to what comes at once."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import nn

from formers.errors import DataError
from formers.generation import beam_search, generate_text, search_text, stream_text
from formers.generation.stops import RowText, first_stop
from formers.text import train_tokenizer
from formers.text.byte import ByteTokenizer
from tests.generation.conftest import small

TOKENIZER = ByteTokenizer()


class Reciter(nn.Module):
    """Recites `text` byte by byte, whatever the prompt, then end_of_text for ever. The prompt is one token long."""

    def __init__(self, text: str, vocab_size: int = 257) -> None:
        super().__init__()
        self.said, self.config = [*text.encode(), 256], SimpleNamespace(vocab_size=vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for place in range(input_ids.shape[1]):
            logits[:, place, self.said[min(place, len(self.said) - 1)]] = 9.0
        logits[..., 257:] = 99.0  # rows no token uses: the likeliest of all
        return logits


def recite(text: str, **settings):
    return generate_text(Reciter(text), TOKENIZER, "x", temperature=0.0, max_new_tokens=40, **settings)[0]


def test_text_ends_at_end_of_text_which_is_no_text():
    done = recite("Hello.")
    assert (done.text, done.ended, done.ids[-1]) == ("Hello.", "stop_token", 256)


def test_text_is_cut_exactly_at_a_stop_string():
    done = recite("one two three", stop_strings=("o t", "never"))
    assert (done.text, done.ended) == ("one tw", "stop_string")
    assert done.ids == tuple(b"one two t")


def test_the_first_stop_string_to_be_complete_ends_the_row():
    assert recite("abcde", stop_strings=("abcd", "bc", "c")).text == "a"
    assert recite("abcde", stop_strings=("c", "bcd")).text == "ab"


def test_an_unfinished_stop_string_is_text_after_all():
    assert recite("almost en", stop_strings=("end",)).text == "almost en"


def test_a_character_of_several_tokens_comes_whole():
    pieces = list(stream_text(Reciter("a€🙂"), TOKENIZER, "x", temperature=0.0))
    assert [piece.text for piece in pieces] == ["a", "", "", "€", "", "", "", "🙂", ""]
    assert pieces[-1].ended == "stop_token"


def test_half_a_character_at_the_end_is_shown_as_such():
    done = generate_text(Reciter("a€"), TOKENIZER, "x", temperature=0.0, max_new_tokens=3)[0]
    assert (done.text, done.ended) == ("a�", "length")


def test_ids_that_no_token_has_are_never_drawn():
    assert generate_text(Reciter("fine", 300), TOKENIZER, "x", temperature=0.0)[0].text == "fine"


def test_pieces_join_to_the_completion_row_by_row(gpt2):
    from formers.models.registry import build

    model = build("gpt2", preset="nano", init_std=0.3)
    prompts, heard = ["some text", "", "x"], []
    done = generate_text(
        model, TOKENIZER, prompts, max_new_tokens=25, on_piece=heard.append, stop_strings=["e"], seed=4
    )
    for row, completion in enumerate(done):
        assert "".join(piece.text for piece in heard if piece.row == row) == completion.text
        assert completion.prompt == prompts[row]
        alone = generate_text(model, TOKENIZER, prompts[row], max_new_tokens=25, stop_strings=["e"], seed=4 + row)
        assert alone == [completion]


def test_an_empty_prompt_needs_an_end_of_text_to_start_from():
    with pytest.raises(DataError, match="no end_of_text"):
        generate_text(Reciter("a"), ByteTokenizer(()), "")


@hypothesis.given(st.text("ab€", max_size=12), st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_the_text_of_a_row_is_the_text_up_to_its_stop(text, stops):
    row = RowText(TOKENIZER, stops)
    released = [row.feed(byte) for byte in text.encode()] + [row.finish()]
    cut = next(
        (first_stop(text[:n], stops) for n in range(len(text) + 1) if first_stop(text[:n], stops) is not None), None
    )
    assert "".join(released) == text[:cut]
    assert row.stopped == (cut is not None)


class RecitesIds(Reciter):
    """The same with ids, which follow a prompt of `length` ids."""

    def __init__(self, ids: list[int], length: int, vocab_size: int) -> None:
        nn.Module.__init__(self)
        self.said, self.config = [0] * (length - 1) + ids, SimpleNamespace(vocab_size=vocab_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids)[..., : self.config.vocab_size]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_word_that_follows_a_prompt_keeps_its_space(kind: str):
    """Tokens that begin words begin with a space, and `decode` drops the first one: here the prompt stands before it."""
    text = "the river flows to the sea, and the sea is far"
    tokenizer = train_tokenizer(kind, text, {"wordpiece": 40, "unigram": 22}[kind])
    prompt, rest = tokenizer.encode("the river"), tokenizer.encode("flows to the sea")
    model = RecitesIds(rest, len(prompt), tokenizer.vocab_size)
    settings = {"max_new_tokens": len(rest)}
    (done,) = generate_text(model, tokenizer, "the river", temperature=0.0, **settings)
    assert done.text == " flows to the sea"
    (cut,) = generate_text(model, tokenizer, "the river", temperature=0.0, stop_strings=(" to",), **settings)
    assert (cut.text, cut.ended) == (" flows", "stop_string")
    (first,) = generate_text(model, tokenizer, "the river", temperature=0.0, stop_strings=(" flows",), **settings)
    assert (first.text, first.ended) == ("", "stop_string")
    (best,) = search_text(model, tokenizer, "the river", num_beams=2, **settings)
    assert best[0].text == " flows to the sea"


def test_a_search_gives_the_text_of_what_beam_search_finds():
    model = small("gpt2")
    tokenizer = train_tokenizer("char", ["abcdefgh ijkl."] * 3, 15)
    prompts, settings = ["abc", "de f"], {"num_beams": 3, "num_return": 2, "max_new_tokens": 7, "length_penalty": 0.3}
    found = search_text(model, tokenizer, prompts, **settings)
    stop = tokenizer.end_of_text
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    wanted = beam_search(model, ids, stop_tokens=stop, vocab_size=tokenizer.vocab_size, **settings)
    for prompt, ours, theirs in zip(prompts, found, wanted, strict=True):
        assert [(f.prompt, f.ids, f.score, f.log_prob) for f in ours] == [
            (prompt, h.ids, h.score, h.log_prob) for h in theirs
        ]
        assert [f.text for f in ours] == [tokenizer.decode(h.ids) for h in theirs]  # an end is no text
    alone = search_text(model, tokenizer, "abc", stop_tokens=stop, **settings)
    assert alone[0][0].text == found[0][0].text
