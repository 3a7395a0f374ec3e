"""The BPE tokenizer is the Rust library's, id for id, whichever of its engines did the work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from formers.errors import ConfigError, DataError
from formers.text import BPETokenizer, gpt2, train_tokenizer
from formers.text.byte_bpe import train_bpe
from tests.text.conftest import ASSIGNED, SPLITTERS, rust_trained

END = ("<|endoftext|>",)
Corpus = Callable[[int], list[str]]


def merges_of(rust) -> list[tuple[int, int]]:
    import json

    model = json.loads(rust.to_str())["model"]
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


@pytest.fixture(scope="module", params=["gpt2", "cl100k"])
def trained(request, stdlib: Corpus):
    """(ours, Rust's) after training on the same 250 kB of source with 2,000 ids."""
    texts = stdlib(250_000)
    return train_bpe(texts, 2000, pattern=request.param), rust_trained(texts, 2000, request.param, END)


@pytest.mark.parametrize("engine", ["rust", "python"])
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_training_learns_the_merges_of_the_rust_library(engine: str, pattern: str, stdlib: Corpus):
    texts = stdlib(100_000)
    ours = train_bpe(texts, 1500, special_tokens=[*END, "<pad>"], pattern=pattern, engine=engine)
    rust = rust_trained(texts, 1500, pattern, (*END, "<pad>"))
    assert ours.merges == merges_of(rust)
    assert ours.to_json()["model"]["vocab"] == rust.get_vocab()


@given(st.lists(st.text(st.sampled_from("aab 1\n'sé")), min_size=1, max_size=5).filter(any))
def test_small_texts_with_many_ties_too(texts: list[str]):
    size = 257 + most_merges(texts)
    ours = [train_bpe(texts, size, engine=engine) for engine in ("rust", "python")]
    assert ours[0].merges == ours[1].merges == merges_of(rust_trained(texts, size, special=END))


def most_merges(texts: list[str]) -> int:
    return len(merges_of(rust_trained(texts, 100_000, special=END)))


def test_source_code_has_the_ids_of_the_rust_library(trained, stdlib: Corpus):
    ours, rust = trained
    texts = stdlib(350_000)
    expected = [found.ids for found in rust.encode_batch(texts)]
    assert [ours.encode(text) for text in texts] == expected
    assert ours.encode_batch(texts) == expected
    assert [ours.decode(ids) for ids in expected] == texts


def test_a_thousand_strange_texts_have_the_ids_of_the_rust_library(trained, strange_texts: list[str]):
    ours, rust = trained
    expected = [rust.encode(text).ids for text in strange_texts]
    assert [ours.encode(text) for text in strange_texts] == expected
    assert ours.encode_batch(strange_texts) == expected


@given(text=st.text(st.one_of(st.sampled_from(SPLITTERS), st.sampled_from("import self"), st.sampled_from(ASSIGNED))))
@example(text="<|endoftext|>")
def test_any_text_has_the_ids_of_the_rust_library(trained, text: str):
    ours, rust = trained
    assert ours.encode(text) == rust.encode(text).ids


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_one_by_one_and_in_bulk_agree_on_any_character_at_all(text: str):
    assert gpt2().encode_batch([text]) == [gpt2().encode(text)]


def test_remembered_pieces_are_the_encoded_ones(trained, stdlib: Corpus):
    ours, _ = trained
    text = stdlib(20_000)[0]
    fresh = ours.prefix(ours.vocab_size)
    assert fresh.encode(text) == fresh.encode(text) == [i for p in pieces(ours, text) for i in ours.encode_piece(p)]


def pieces(tokenizer: BPETokenizer, text: str) -> list[str]:
    from formers.text import patterns

    return patterns.split(text, tokenizer.pattern)


@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000 + "x", "\n" * 100_000, "ab" * 50_000, "東" * 30_000])
def test_long_runs_are_encoded_quickly(trained, text: str):
    ours, rust = trained
    start = time.perf_counter()
    ids = ours.encode(text)
    assert time.perf_counter() - start < 10.0  # what grows with the square takes minutes, what does not under a second
    assert ids == rust.encode(text).ids


# -- the vocabulary -----------------------------------------------------------------------------------------------------


def test_a_smaller_vocabulary_is_a_prefix_of_a_larger_one(stdlib: Corpus):
    texts = stdlib(60_000)
    sizes = [train_bpe(texts, size, special_tokens=[*END, "<pad>"]) for size in (300, 500, 900)]
    vocabularies = [list(tokenizer.to_json()["model"]["vocab"].items()) for tokenizer in sizes]
    assert [len(v) for v in vocabularies] == [300, 500, 900]
    assert vocabularies[0] == vocabularies[1][:300] == vocabularies[2][:300]
    assert vocabularies[1] == vocabularies[2][:500]
    assert sizes[1].merges == sizes[2].merges[: len(sizes[1].merges)]
    assert sizes[2].prefix(500).fingerprint == sizes[1].fingerprint


def test_special_tokens_come_first_then_bytes_then_merges():
    tokenizer = train_bpe("ababab", 259, special_tokens=[*END, "<pad>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<pad>": 1}
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (0, 259)
    assert tokenizer.tokens[2] == b"!"
    assert tokenizer.tokens[258] == b"ab"
    assert tokenizer.display("abab!") == ["ab", "ab", "!"]


def test_a_prefix_that_loses_special_tokens_is_refused():
    with pytest.raises(DataError, match=r"special tokens .*endoftext.* lie behind"):
        gpt2().prefix(50_000)
    with pytest.raises(DataError, match="out of range"):
        gpt2().prefix(60_000)


def test_one_merge_more_is_another_fingerprint(stdlib: Corpus):
    tokenizer = train_bpe(stdlib(20_000), 400)
    swapped = [*tokenizer.merges[:-2], tokenizer.merges[-1], tokenizer.merges[-2]]
    others = [
        tokenizer.prefix(399),
        BPETokenizer(tokenizer.tokens, swapped, tokenizer.special_tokens),
        BPETokenizer(tokenizer.tokens, tokenizer.merges, tokenizer.special_tokens, whole_pieces=True),
    ]
    assert len({tokenizer.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_whole_pieces_are_taken_whole_though_no_merge_makes_them():
    tokens = {value: bytes([value]) for value in range(256)} | {256: b"the"}
    assert BPETokenizer(tokens, [], {}).encode("the") == list(b"the")
    whole = BPETokenizer(tokens, [], {}, whole_pieces=True)
    assert whole.encode("the") == [256]
    assert whole.encode_batch(["the", "then"]) == [[256], list(b"then")]


# -- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["rust", "python"])
@pytest.mark.parametrize(
    ("texts", "size", "says"),
    [
        ("abab", 9000, r"larger than this text supports\n  wanted: at most 259: 1 special .* 2 merges"),
        ("abab", 256, "smaller than the alphabet\n  wanted: at least 257"),
        ("abab", -1, "smaller than the alphabet"),
        ("", 300, "the text is empty"),
        ([], 300, "the text is empty"),
        (["", ""], 257, "the text is empty"),
        ([b"bytes"], 300, "found bytes"),
        (["a\udc80"], 300, "lone surrogate"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(engine: str, texts, size: int, says: str):
    with pytest.raises(DataError, match=says):
        train_tokenizer("bpe", texts, size, engine=engine)


@pytest.mark.parametrize("engine", ["rust", "python"])
def test_the_size_that_the_error_names_is_the_largest_possible(engine: str):
    text = "the theatre of the absurd"
    with pytest.raises(DataError) as caught:
        train_bpe(text, 1000, engine=engine)
    most = int(caught.value.wanted.split()[2].rstrip(":"))
    assert train_bpe(text, most, engine=engine).vocab_size == most
    with pytest.raises(DataError, match="larger than this text supports"):
        train_bpe(text, most + 1, engine=engine)


@pytest.mark.parametrize("engine", ["rust", "python"])
def test_a_pair_must_occur_as_often_as_was_asked(engine: str):
    assert train_bpe("abab cd", 258, min_frequency=2, engine=engine).tokens[257] == b"ab"
    with pytest.raises(DataError, match=r"at most 258.* occur 2 times"):
        train_bpe("abab cd", 259, min_frequency=2, engine=engine)


@pytest.mark.parametrize("name", ["the", "a", "é", "Ġthe", ""])
def test_a_special_token_that_text_could_spell_is_refused(name: str):
    with pytest.raises(DataError, match="special tokens"):
        train_bpe("the theatre", 260, special_tokens=[name])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bpe", "text"), "without vocab_size"),
        (("byte", "text", 300), "vocab_size 300 for the byte tokenizer\n  wanted: 257"),
        (("bep", "text", 300), "did you mean 'bpe'"),
    ],
)
def test_a_wrong_request_is_one_clear_error(arguments: tuple, says: str):
    with pytest.raises(ConfigError, match=says):
        train_tokenizer(*arguments)


def test_a_wrong_option_is_one_clear_error():
    with pytest.raises(ConfigError, match=r"no options \['unknown'\]\n  wanted: pattern, min_frequency, engine"):
        train_tokenizer("bpe", "text", 300, unknown=True)
    with pytest.raises(ConfigError, match="unknown engine 'go'"):
        train_tokenizer("bpe", "text", 300, engine="go")


def test_a_vocabulary_that_does_not_hold_together_is_refused():
    bytes_only = {value: bytes([value]) for value in range(256)}
    with pytest.raises(DataError, match="lacks 1 of the 256 bytes"):
        BPETokenizer({k: v for k, v in bytes_only.items() if k}, [], {})
    with pytest.raises(DataError, match="a merge of ids 97 and 98"):
        BPETokenizer(bytes_only, [(97, 98)], {})
    with pytest.raises(DataError, match="not unique"):
        BPETokenizer(bytes_only, [], {"<pad>": 5})
    with pytest.raises(DataError, match="two ids stand for the same bytes"):
        BPETokenizer(bytes_only | {256: b"a"}, [], {})


# -- at size ------------------------------------------------------------------------------------------------------------


def chunks(texts: list[str], count: int) -> Iterator[str]:
    """Substrings of the corpus, cut anywhere."""
    draw = random.Random(5)
    for _ in range(count):
        text = draw.choice(texts)
        start = draw.randrange(len(text) + 1)
        yield text[start : start + draw.randrange(40)]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_ten_megabytes_give_the_merges_and_five_the_ids_of_the_rust_library(pattern: str, stdlib: Corpus):
    texts = stdlib(10_000_000)
    assert sum(len(text.encode()) for text in texts) > 9_000_000
    rust = rust_trained(texts, 8192, pattern, END)
    here = train_bpe(texts, 8192, pattern=pattern, engine="python")
    assert here.merges == merges_of(rust)
    assert train_bpe(texts, 8192, pattern=pattern).fingerprint == here.fingerprint
    some = stdlib(5_000_000)
    expected = [found.ids for found in rust.encode_batch(some)]
    assert [here.encode(text) for text in some] == expected
    assert here.encode_batch(some) == expected
    cuts = list(chunks(texts, 100_000))
    assert [here.encode(cut) for cut in cuts] == [found.ids for found in rust.encode_batch(cuts)]
