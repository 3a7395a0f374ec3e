"""Unigram: the sums against all paths one by one, the ids against the Rust library, training against its promises."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import ConfigError, DataError
from formers.text import load_tokenizer, train_tokenizer
from formers.text.lattice import best_path, expected_edges, lattice, log_sums, paths, random_path
from formers.text.unigram_train import digamma, expectation, fit, maximise, seeds
from tests.text.words import TEXT, unigram

KINDS = pytest.mark.parametrize("byte_fallback", [False, True], ids=["unknown", "bytes"])
PIECES = {"a": -1.1, "b": -2.3, "ab": -2.9, "aba": -3.7, "ba": -3.1, "bb": -5.0}
EDGES = {piece: (score, piece) for piece, score in PIECES.items()}
words = st.text(st.sampled_from("abc"), min_size=1, max_size=8)


@given(word=words)
def test_the_best_path_is_the_best_of_all(word: str):
    edges = lattice(word, EDGES, 3, -15.0)
    found = best_path(edges)
    score = sum(next(s for e, s, k in edges[start] if (e, k) == (end, key)) for start, end, key in found)
    assert score == pytest.approx(max(total for total, _ in paths(edges)), abs=1e-12)
    assert "".join(word[start:end] for start, end, _ in found) == word


@given(word=words, alpha=st.floats(0, 3))
def test_sums_are_over_all_paths(word: str, alpha: float):
    edges = lattice(word, EDGES, 3, -15.0)
    total = math.log(math.fsum(math.exp(alpha * score) for score, _ in paths(edges)))
    assert log_sums(edges, alpha)[-1] == pytest.approx(total, abs=1e-9)


@given(word=words)
def test_expected_pieces_are_those_of_all_paths(word: str):
    edges = lattice(word, EDGES, 3, -15.0)
    wanted: Counter[str | None] = Counter()
    for score, path in paths(edges):
        for _, _, key in path:
            wanted[key] += math.exp(score)  # pyright: ignore[reportArgumentType]
    total, found = expected_edges(edges)
    summed: Counter[str | None] = Counter()
    for key, probability in found:
        summed[key] += probability  # pyright: ignore[reportArgumentType]
    assert summed == pytest.approx({key: value / math.exp(total) for key, value in wanted.items()}, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_paths_are_drawn_by_their_probability(alpha: float):
    edges, draw = lattice("ababb", EDGES, 3, -15.0), random.Random(7)
    weights = {str(path): math.exp(alpha * score) for score, path in paths(edges)}
    drawn = Counter(str(random_path(edges, alpha, draw)) for _ in range(6000))
    assert drawn.keys() <= weights.keys()
    for path, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(drawn[path] / 6000 - share) < 4.5 * math.sqrt(share * (1 - share) / 6000)


def test_sampling_is_seeded_and_spells_the_text():
    found = unigram()
    one, other = (found.sample(TEXT, random.Random(3), alpha=0.2) for _ in range(2))
    assert one == other != found.encode(TEXT)
    assert found.decode(one) == found.decode(found.encode(TEXT))
    assert found.sample(TEXT, random.Random(3), alpha=200.0) == found.encode(TEXT)
    with pytest.raises(ConfigError, match="alpha is -1"):
        found.sample(TEXT, random.Random(3), alpha=-1)


@KINDS
@given(text=st.text(st.sampled_from(TEXT + "▁ \u3000<pad0x41>[]😀é\u0301ｶﾞ가\u1161")))
def test_every_text_has_the_ids_of_the_rust_library(byte_fallback: bool, text: str):
    ours = unigram(byte_fallback=byte_fallback)
    assert ours.encode_batch([text]) == [ours.encode(text)]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.to_json(special=False)))
    if not ours._only_here(text):
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


@KINDS
def test_strange_texts_have_the_ids_of_the_rust_library(byte_fallback: bool, strange_texts: list[str]):
    ours = unigram(byte_fallback=byte_fallback)
    strange_texts = strange_texts[:300]
    here = [text for text in strange_texts if ours._backend.differing.in_text(text)]
    theirs = ours._backend.encode(strange_texts)
    wrong = [text for text, ids in zip(strange_texts, theirs, strict=True) if ids != ours.encode(text)]
    assert set(wrong) <= set(here)
    assert len(here) < 30


def test_unknown_characters_in_a_row_are_one_token_or_their_bytes():
    assert unigram().encode("😀😀").count(unigram().special_tokens["<unk>"]) == 1
    exact = unigram(byte_fallback=True)
    assert exact.decode(exact.encode("the 😀😀 ran")) == "the 😀😀 ran"
    assert exact.decode(exact.encode("<0x41>")) == "<0x41>"
    stream = exact.stream()
    assert "".join([stream.feed(i) for i in exact.encode("the 😀 ran")]) + stream.finish() == "the 😀 ran"


@KINDS
def test_transformers_opens_the_folder_and_agrees(byte_fallback: bool, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    ours = unigram(byte_fallback=byte_fallback)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    text = "größere  Straßen 😀 the theatre"
    for opener in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = opener.from_pretrained(tmp_path)
        assert theirs(text)["input_ids"] == [*ours.encode(text), ours.special_tokens["</s>"]]
        assert "token_type_ids" not in theirs(text)
        assert (theirs.eos_token_id, theirs.pad_token_id) == (1, 0)
        assert theirs.decode(ours.encode(text), skip_special_tokens=True) == ours.decode(ours.encode(text))
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == ours.fingerprint
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint


def test_a_vocabulary_that_hugging_face_trained_is_read(tmp_path: Path):
    theirs = tokenizers.SentencePieceUnigramTokenizer()
    theirs.train_from_iterator(
        [TEXT] * 3, vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    contents = json.loads(theirs.to_str())
    contents["normalizer"]["normalizers"] = [
        step for step in contents["normalizer"]["normalizers"] if step["type"] != "Nmt"
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    for line in TEXT.split("\n"):
        assert ours.encode(line) == again.encode(line).ids


# -- training -----------------------------------------------------------------------------------------------------------


def test_digamma_is_the_derivative_of_log_gamma():
    for x in (0.5, 1.0, 3.3, 6.9, 7.1, 250.0, 1e7):
        step = x * 1e-6
        assert digamma(x) == pytest.approx((math.lgamma(x + step) - math.lgamma(x - step)) / (2 * step), rel=1e-4)
    assert digamma(1.0) == pytest.approx(-0.5772156649015329, abs=1e-10)


def test_expected_counts_add_up_to_the_text():
    counts = {"▁the": 5, "▁theatre": 2, "▁heat": 3}
    scores = seeds(counts, set("▁theatr"), 100)
    expected, _ = expectation(counts, scores)
    assert sum(n * len(piece) for piece, n in expected.items()) == pytest.approx(5 * 4 + 2 * 8 + 3 * 5)


def test_plain_expectation_maximisation_never_lowers_the_likelihood():
    counts = {"▁the": 50, "▁theatre": 20, "▁heat": 30, "▁there": 40, "▁her": 11}
    scores, last = seeds(counts, set("▁theatr"), 100), -math.inf
    for _ in range(6):
        expected, likelihood = expectation(counts, scores)
        assert likelihood >= last - 1e-9
        last, total = likelihood, math.log(sum(expected.values()))
        scores = {piece: math.log(max(expected[piece], 1e-12)) - total for piece in scores}


def test_pruning_keeps_the_characters_and_the_pieces_that_matter():
    counts = {"▁theatre": 100, "▁theatres": 40, "▁heat": 3, "▁xyz": 1}
    scores = fit(counts, set("▁theatrsxyz"), 12)
    assert len(scores) == 12
    assert {"▁theatre", *"▁theatrsxyz"} <= scores.keys()
    kept, _ = maximise(counts, scores, set("▁theatrsxyz"))
    assert set("▁theatrsxyz") <= kept.keys()


def test_a_trained_vocabulary_has_the_size_asked_for_and_falls_in_probability():
    found = unigram()
    assert found.vocab_size == 70
    scores = [found.scores[i] for i in sorted(found.names)]
    assert scores == sorted(scores, reverse=True)
    assert 0.5 < math.fsum(map(math.exp, scores)) <= 1  # the sparse prior takes something from every piece
    assert train_tokenizer("unigram", TEXT, 70).fingerprint == found.fingerprint


def test_training_cuts_as_short_as_hugging_faces(stdlib):
    """Both maximise the same likelihood by other roads: the number of tokens says how well."""
    text = "\n".join(stdlib(30_000))[:30_000]
    ours = train_tokenizer("unigram", text.split("\n"), 400)
    theirs = tokenizers.Tokenizer(tokenizers.models.Unigram())
    theirs.normalizer = tokenizers.normalizers.NFKC()
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.WhitespaceSplit(), tokenizers.pre_tokenizers.Metaspace()]
    )
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    theirs.train_from_iterator(text.split("\n"), trainer)
    assert len(ours.encode(text)) < 1.02 * len(theirs.encode(text).ids)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"vocab_size": None}, ConfigError, "without vocab_size"),
        ({"vocab_size": 8}, DataError, "smaller than the alphabet"),
        ({"vocab_size": 9000}, DataError, "larger than this text supports"),
        ({"vocab_size": 50, "special_tokens": ["<s>"]}, ConfigError, "without <unk>"),
        ({"vocab_size": 50, "texts": ""}, DataError, "the text is empty"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(options: dict, error: type, says: str):
    with pytest.raises(error, match=says):
        train_tokenizer("unigram", **{"texts": "the theatre ran and ran to the end", **options})


def test_without_an_unknown_token_an_unknown_character_is_an_error():
    contents = unigram().to_json()
    contents["model"]["unk_id"] = None
    from formers.text.load import from_json

    with pytest.raises(DataError, match="lacks '😀' and has no unknown token"):
        from_json(contents).encode("the 😀")
