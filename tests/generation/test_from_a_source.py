"""An encoder-decoder writes from its prompts: what transformers writes, row by row as alone, with a state as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import formers
from formers.errors import ConfigError, DataError
from formers.generation import (
    PromptCache,
    beam_search,
    complete,
    generate,
    generate_stream,
    generate_text,
    score,
    stream_text,
)
from formers.parts.sources import Source
from formers.text import train_tokenizer
from tests.generation.test_beam import Stateless

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"vocab_size": 61, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_head": 7, "d_ff": 53}
RAGGED = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [3, 5, 8, 9, 7, 9, 3, 2]]


@pytest.fixture
def t5() -> Any:
    return formers.build("t5", **SIZES, tie=False, scale_head=False, init_factor=3.0, seed=4).double().eval()


def test_greedy_text_equals_that_of_transformers(t5: Any) -> None:
    module = formers.models()["t5"].load()
    theirs: Any = transformers.AutoModelForSeq2SeqLM.from_config(
        transformers.AutoConfig.for_model(**module.FOREIGN.write(t5.config))
    )
    theirs.lm_head.weight = torch.nn.Parameter(torch.zeros_like(theirs.lm_head.weight))
    theirs.load_state_dict(module.weights(t5.config).write(t5.state_dict()), strict=False)
    ids = torch.tensor([row + [0] * (8 - len(row)) for row in RAGGED])
    mask = torch.tensor([[1] * len(row) + [0] * (8 - len(row)) for row in RAGGED])
    wanted = (
        theirs.double()
        .eval()
        .generate(
            ids, attention_mask=mask, max_new_tokens=20, do_sample=False, decoder_start_token_id=0, eos_token_id=None
        )
    )
    found = generate(t5, RAGGED, max_new_tokens=20, temperature=0.0)
    assert torch.equal(found, wanted)
    assert len(found.unique()) > 8  # a model that repeats itself would agree with anything


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 20}], ids=str)
def test_rows_together_equal_one_by_one_and_with_a_state_as_without(t5: Any, settings: dict[str, Any]) -> None:
    seeds = [5, 6, 7, 8]
    together = complete(t5, RAGGED, max_new_tokens=9, seeds=seeds, **settings)
    assert together.prompts == ((0,),) * 4
    assert complete(Stateless(t5), RAGGED, max_new_tokens=9, seeds=seeds, **settings).new == together.new
    for row, (prompt, seed) in enumerate(zip(RAGGED, seeds, strict=True)):
        assert complete(t5, [prompt], max_new_tokens=9, seeds=[seed], **settings).new[0] == together.new[row]


@torch.no_grad()
def test_a_source_of_thousands_of_tokens_is_read_in_windows() -> None:
    sizes = SIZES | {"local_radius": 31, "tie": False, "scale_head": False, "init_factor": 3.0}
    long = formers.build("t5", **sizes, seed=4).double().eval()
    draw = torch.Generator().manual_seed(0)
    sources = [torch.randint(2, 61, (n,), generator=draw).tolist() for n in (3001, 1777)]
    found = complete(long, sources, max_new_tokens=12, temperature=0.9, seeds=[5, 6]).new
    best = [row[0] for row in beam_search(long, sources, num_beams=3, max_new_tokens=6)]
    for row in (0, 1):
        again = complete(long, [sources[row]], max_new_tokens=12, temperature=0.9, seeds=[5 + row]).new[0]
        assert again == found[row]
        assert len({*again}) > 2  # a model that repeats itself would agree with anything
        (alone,) = beam_search(long, [sources[row]], num_beams=3, max_new_tokens=6)
        assert alone[0].ids == best[row].ids
        assert alone[0].score == pytest.approx(best[row].score, rel=1e-9)
    read = Source.of_texts(sources)
    hidden = long.encode(read).hidden
    for block in long.encoder.blocks:
        block["attention"].runner = "dense"  # the slow twin
    gap = (long.encode(read).hidden - hidden)[read.placed.present]
    assert gap.abs().max() <= 1e-9 * hidden.abs().max()


def test_it_begins_with_the_start_token_that_its_config_names(t5: Any) -> None:
    other = formers.build("t5", **SIZES, start_token=17, seed=4)
    assert generate(other, RAGGED, max_new_tokens=3)[:, 0].tolist() == [17] * 4
    ids = generate(t5, [RAGGED[0]], max_new_tokens=9, temperature=0.0)
    source = torch.tensor([RAGGED[0]])
    for n in range(1, 9):
        assert t5(ids[:, :n], source=source).logits[0, -1].argmax() == ids[0, n]


def test_a_source_is_read_without_dropout_and_the_model_left_as_it_was(t5: Any) -> None:
    quiet = generate(t5, RAGGED, max_new_tokens=5, temperature=0.0)
    t5.train()
    assert torch.equal(generate(t5, RAGGED, max_new_tokens=5, temperature=0.0), quiet)
    assert all(module.training for module in t5.modules())


def test_a_training_step_may_come_between_two_steps_of_a_stream(t5: Any) -> None:
    steps = generate_stream(t5, RAGGED, max_new_tokens=3, temperature=0.0)
    next(steps)
    t5(torch.zeros(1, 2, dtype=torch.long), source=torch.tensor([[3, 4]])).logits.sum().backward()
    assert len(list(steps)) == 2


def test_a_score_is_of_the_completion_given_the_source(t5: Any) -> None:
    completions = [[5, 6, 1], [7]]
    logits = t5(torch.tensor([[0, 5, 6]]), source=torch.tensor([RAGGED[0]])).logits.log_softmax(-1)[0]
    wanted = float(logits[range(3), completions[0]].sum().detach())
    assert score(t5, RAGGED[:2], completions).tolist()[0] == pytest.approx(wanted, rel=1e-12)


def test_text_is_written_from_text_and_ends_at_the_end_token(t5: Any) -> None:
    tokenizer = train_tokenizer("char", ["abcdefgh ijkl."] * 3, 15)
    found = generate_text(t5, tokenizer, ["abc", "de f"], max_new_tokens=7, temperature=0.0)
    sources = [[*tokenizer.encode(text), t5.config.end_token] for text in ("abc", "de f")]
    ids = complete(t5, sources, max_new_tokens=7, temperature=0.0, stop_tokens=(1,), vocab_size=tokenizer.vocab_size)
    assert [row.ids for row in found] == list(ids.new)
    assert [row.prompt for row in found] == ["abc", "de f"]
    pieces = list(stream_text(t5, tokenizer, ["abc"], max_new_tokens=7, temperature=0.0))
    assert "".join(piece.text for piece in pieces) == found[0].text
    assert generate_text(t5, tokenizer, [""], max_new_tokens=2)[0].ids  # the end token alone is a source


def test_what_cannot_be_is_named(t5: Any) -> None:
    with pytest.raises(DataError, match="outside the vocabulary: 61"):
        generate(t5, [[1, 61]], max_new_tokens=3)
    with pytest.raises(ConfigError, match="reads its prompts as sources"):
        PromptCache(t5, 64)
    t5.config = None
    with pytest.raises(ConfigError, match="no start_token"):
        generate(t5, [[1]], max_new_tokens=3)
