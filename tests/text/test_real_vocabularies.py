"""The published vocabularies, id for id as Hugging Face's, on 10,000 varied lines.

Skipped unless the environment variable FORMERS_TOKENIZERS names a folder that holds them: bert_base_uncased (tokenizer.json and
vocab.txt), bert_base_cased and t5 (tokenizer.json), albert/spiece.model, deberta_v3/spm.model.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from formers.text import load_tokenizer
from formers.text.sentencepiece import CONTROL, UNKNOWN, USER_DEFINED, Model, load_sentencepiece, parse
from formers.text.worded import WordTokenizer

FOLDER = os.environ.get("FORMERS_TOKENIZERS", "")
pytestmark = pytest.mark.skipif(
    not FOLDER,
    reason="FORMERS_TOKENIZERS names no folder with the published vocabularies (BERT, T5, ALBERT, DeBERTa-v3)",
)

PHRASES = [
    "Ça va très bien, n'est-ce pas ? L’été à Besançon — déjà vu…",
    "Die Größe der Straße beträgt 3,5 km; „schön“, sagte er.",
    "東京は日本の首都です。ｶﾞﾗｽの靴、㍿テスト ㌔メートル",
    "Съешь ещё этих мягких французских булок, да выпей чаю",
    "الطقس جميل اليوم، أليس كذلك؟ ١٢٣",
    "הַשָּׁמַיִם כחולים מאוד",
    "한국어 문장은 조금 다릅니다. 가나다",
    "नमस्ते दुनिया, क्या हाल है?",
    "สวัสดีชาวโลก ไทยไม่มีช่องว่าง",
    "Ŵêïŕđ Ĺâţîñ ﬁ ﬂ ½ ² Ⅷ №5 ™ €1,000.50 £3 ÷ ≠",
    "👩‍👩‍👧 🇫🇷 👍🏽 ☃️ zero\u200bwidth soft\u00adhyphen nb\u00a0space",
    "http://www.example.com/a_b?c=d&e=1#f foo-bar (baz) [qux] {x}",
    "``quoted'' \"straight\" 'single' `tick` don't, I'll we've",
    "  leading   and  double  spaces\tand tabs \r\n and breaks  ",
    "ΑΣ ὈΔΥΣΣΕΎΣ Ὀδυσσεύς İstanbul ıßẞ ǅ",
    "e\u0301 a\u0308\u0323 o\u0328\u0301 ｆｕｌｌ　ｗｉｄｔｈ ︙ ﷺ",
]


@pytest.fixture(scope="module")
def lines(stdlib: Callable[[int], list[str]], strange_texts: list[str]) -> list[str]:
    """Code and English (standard library), sixteen kinds of writing cut and mixed, and random characters."""
    draw = random.Random(4)
    code = [line for text in stdlib(3_000_000) for line in text.split("\n")]
    lines = draw.sample(code, 5000)
    for _ in range(4000):
        first, second = draw.sample(PHRASES, 2)
        start, end = sorted(draw.choices(range(len(first)), k=2))
        lines.append(first[start:end] + draw.choice(["", " ", "-", "x"]) + second[: draw.randrange(len(second))])
    return lines + strange_texts


def plain(path: Path) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer.from_file(str(path))
    theirs.no_padding()
    theirs.no_truncation()
    return theirs


def transformers_class(name: str, model: Model, **settings: Any) -> tokenizers.Tokenizer:
    """What transformers makes of a .model file's pieces."""
    transformers = pytest.importorskip("transformers")
    pieces = [(piece, score) for piece, score, _ in model.pieces]
    return getattr(transformers, name)(vocab=pieces, **settings).backend_tokenizer


def albert(folder: Path) -> tokenizers.Tokenizer:
    model = parse((folder / "spiece.model").read_bytes())
    marked = [
        tokenizers.AddedToken(piece, normalized=False, special=kind == CONTROL)
        for piece, _, kind in model.pieces
        if kind in (CONTROL, USER_DEFINED)
    ]
    return transformers_class(
        "AlbertTokenizer", model, _spm_precompiled_charsmap=model.charsmap, additional_special_tokens=marked
    )


def deberta(folder: Path) -> tokenizers.Tokenizer:
    model = parse((folder / "spm.model").read_bytes())
    return transformers_class("DebertaV2Tokenizer", model, unk_id=model.of_type(UNKNOWN)["[UNK]"])


ROOT = Path(FOLDER)
BUILDERS: dict[str, Callable[[], tuple[Any, tokenizers.Tokenizer]]] = {
    "bert_base_uncased": lambda: (
        load_tokenizer(ROOT / "bert_base_uncased" / "vocab.txt"),
        plain(ROOT / "bert_base_uncased" / "tokenizer.json"),
    ),
    "bert_base_cased": lambda: (
        load_tokenizer(ROOT / "bert_base_cased"),
        plain(ROOT / "bert_base_cased" / "tokenizer.json"),
    ),
    "t5": lambda: (load_tokenizer(ROOT / "t5"), plain(ROOT / "t5" / "tokenizer.json")),
    "albert": lambda: (
        load_sentencepiece(ROOT / "albert" / "spiece.model", like="albert"),
        albert(ROOT / "albert"),
    ),
    "deberta_v3": lambda: (
        load_sentencepiece(ROOT / "deberta_v3" / "spm.model", like="deberta-v2"),
        deberta(ROOT / "deberta_v3"),
    ),
}


@pytest.fixture(scope="module", params=BUILDERS)
def pair(request: pytest.FixtureRequest) -> tuple[WordTokenizer, tokenizers.Tokenizer]:
    """Ours and Hugging Face's."""
    if not (ROOT / request.param).is_dir():
        pytest.skip(f"{FOLDER} has no {request.param}")
    return BUILDERS[request.param]()


def test_ten_thousand_lines_have_the_ids_of_hugging_face(pair, lines: list[str]):
    ours, theirs = pair
    wanted = [found.ids for found in theirs.encode_batch(lines, add_special_tokens=False)]
    bulk = ours.encode_batch(lines)
    wrong = [line for line, a, b in zip(lines, bulk, wanted, strict=True) if a != b]
    differing = [line for line in lines if ours._backend.differing.in_text(line)]
    assert len(lines) == 10_000
    assert bulk == [ours.encode(line) for line in lines]
    # Unicode tables that know other characters (see rust.Differing) are the one reason to differ.
    assert set(wrong) <= set(differing)
    print(f"{len(lines)} lines, {len(wrong)} differ, {len(differing)} hold characters of which the tables differ")


def test_a_text_or_a_pair_is_framed_as_by_hugging_face(pair, lines: list[str]):
    from formers.text.encoding import encode_texts

    ours, theirs = pair
    some = [line for line in lines[:9000:97] if not ours._backend.differing.in_text(line)]
    found = encode_texts(ours, some, some[::-1], max_length=40, truncation="longest_first")
    theirs.enable_truncation(40)
    for i, wanted in enumerate(theirs.encode_batch(list(zip(some, some[::-1], strict=True)))):
        kept = found.index[i] >= 0
        assert found.input_ids[i][kept].tolist() == wanted.ids
        assert found.token_types[i][kept].tolist() == wanted.type_ids
    theirs.no_truncation()


def test_the_saved_file_says_the_same_to_the_rust_library(pair, lines: list[str], tmp_path: Path):
    ours, _ = pair
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    some = [line for line in lines[::11] if not ours._backend.differing.in_text(line)]
    assert [found.ids for found in again.encode_batch(some, add_special_tokens=False)] == ours.encode_batch(some)
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint
    assert [again.decode(ids) for ids in ours.encode_batch(some)] == [ours.decode(i) for i in ours.encode_batch(some)]


def test_offsets_are_those_of_the_rust_library_but_for_marks(pair, lines: list[str]):
    """Of several characters that became one (a letter and its accent, a run of spaces) ours cover all, the library's one."""
    ours, theirs = pair
    for line in lines[:9000:5]:
        found = theirs.encode(line, add_special_tokens=False)
        if found.ids != ours.encode(line):
            continue
        _, spans = ours.encode_offsets(line)
        for (start, end), (their_start, their_end) in zip(spans, found.offsets, strict=True):
            assert start <= their_start
            assert end >= their_end
        if line.isascii() and "``" not in line and "''" not in line:
            cut = [[line[start:end].strip() for start, end in places] for places in (spans, found.offsets)]
            assert cut[0] == cut[1]


def test_every_kept_folder_has_a_file_of_its_own_kind():
    model = parse((ROOT / "albert" / "spiece.model").read_bytes())
    assert (len(model.pieces), len(model.of_type(USER_DEFINED)), model.byte_fallback) == (30_000, 8, False)
    model = parse((ROOT / "deberta_v3" / "spm.model").read_bytes())
    assert (len(model.pieces), model.of_type(UNKNOWN), model.byte_fallback) == (128_000, {"[UNK]": 3}, True)
