"""Texts of thousands of tokens are summed up by a T5 whose encoder has a window, as by any other."""

from __future__ import annotations

from pathlib import Path

import formers
from formers.text import Tokenizer
from tests.tasks.conftest import T5, words


def test_a_text_of_three_thousand_tokens_is_summed_up(unigram: Tokenizer, tmp_path: Path) -> None:
    end, pad = unigram.role("end"), unigram.special_tokens["<pad>"]
    model = formers.build("t5", **T5, vocab_size=101, local_radius=31, start_token=pad, end_token=end, seed=2)
    formers.save(model, tmp_path, tokenizer=unigram)
    pipe = formers.pipeline("summarization", tmp_path, beams=2, max_new_tokens=5)
    long, short = words(1, 1500, shortest=1499)[0], "Ada met Charles."
    assert len(unigram.encode(long)) >= 3000
    found = pipe([long, short])
    assert [len(row) for row in found] == [1, 1]
    assert found[1][0].ids == pipe(short)[0].ids  # whatever stands beside it
    last = " ".join(long.split()[:-9] + ["poetry"] * 9)
    assert abs(pipe(last)[0].score - found[0][0].score) > 1e-6  # the end of it is read, too
