"""Longformers that answer are told which tokens are the question; others are told nothing."""

from __future__ import annotations

import numpy as np
import pytest

import formers
from formers.tasks.rows import Rows
from formers.text import Tokenizer, encode_texts

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 53, "max_length": 64, "windows": 8}
QUESTIONS, PASSAGES = ["Who met whom?", "Where?"], ["Ada met Charles in London.", "Engines count, poets sing."]


@pytest.mark.parametrize("head", ["span", "token"])
def test_all_before_the_first_separator_is_global_where_a_passage_is_asked(wordpiece: Tokenizer, head: str) -> None:
    model = formers.build("longformer", vocab_size=wordpiece.vocab_size, head=head, **SIZES).eval()
    encodings = encode_texts(wordpiece, QUESTIONS, PASSAGES)
    rows = Rows.of(model, encodings, np.arange(2))
    if head != "span":
        assert "is_global" not in rows.given
        return
    separator = wordpiece.special_tokens["[SEP]"]
    before = (rows.input_ids == separator).cumsum(-1) == 0
    assert rows.given["is_global"].equal(before)
    assert model(rows.input_ids, **rows.given).logits.shape == (*rows.input_ids.shape, 2)


def test_a_pipeline_answers_by_a_longformer(wordpiece: Tokenizer, tmp_path) -> None:
    made = formers.build("longformer", vocab_size=wordpiece.vocab_size, head="span", init_std=0.3, **SIZES)
    formers.save(made, tmp_path, tokenizer=wordpiece)
    found = formers.pipeline("question-answering", str(tmp_path))((QUESTIONS[0], PASSAGES[0]))
    found = found[0] if isinstance(found, list) else found
    assert 0 <= found.start < found.end <= len(PASSAGES[0])
