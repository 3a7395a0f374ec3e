"""What a pipeline is opened with: tasks, models, heads, tokenizers, options, and what a folder says of its task."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import formers
from formers.errors import ConfigError, DataError, TargetError
from formers.tasks.names import ALIASES, TASKS, find, tasks_of
from formers.text import Tokenizer, train_tokenizer
from tests.tasks.conftest import TEXT, words

Make = Callable[[str], Path]
Pipe = Callable[..., Any]


def test_the_table_of_tasks_costs_no_torch() -> None:
    code = (
        "import sys, formers.tasks, formers.tasks.names, formers.tasks.options, formers.tasks.results, formers.cli.pipe;"
        "from formers.tasks import entity_scores, answer_scores; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_pipeline_and_options_of_its_own(name: str) -> None:
    task = TASKS[name]
    assert task.load().__doc__
    assert task.options().__class__ is task.options


def test_the_names_of_transformers_are_known() -> None:
    assert {name: find(name).name for name in ALIASES} == ALIASES
    assert find("translation_en_to_de").name == "translation"
    assert tasks_of("span") == ["question-answering"]
    with pytest.raises(ConfigError, match="did you mean 'summarization'"):
        find("summarisation")


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("ner", "masked_token", "the head 'masked_token'(.|\n)*head token for ner(.|\n)*is for fill-mask;"),
        ("fill-mask", "span", "wanted: the head masked_token or pretraining"),
        ("question-answering", "pooler", "the head 'pooler'(.|\n)*head='span'"),
        ("text-classification", "gpt2", "no head that labels(.|\n)*text-generation"),
        ("translation", "gpt2", "this GPT2 is no encoder-decoder(.|\n)*text-generation goes on"),
        ("summarization", "masked_token", "this BERT is no encoder-decoder that writes"),
        ("text-generation", "masked_token", "this BERT writes no text"),
        ("sentence-embedding", "gpt2", "reads a text from the left only"),
    ],
)
def test_a_model_that_cannot_do_the_task_is_refused(folder: Make, task: str, name: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        formers.pipeline(task, folder(name))


@pytest.mark.parametrize(("task", "head"), [("translation", "sequence"), ("text-generation", "none"), ("ner", None)])
def test_a_t5_with_another_head_is_refused_too(unigram: Tokenizer, task: str, head: str | None) -> None:
    model = formers.build("t5", preset="nano", head=head)
    with pytest.raises(TargetError, match=f"for {task}|writes no text"):
        formers.pipeline(task, model, tokenizer=unigram)


def test_a_model_without_a_tokenizer_is_refused_and_one_may_be_given(folder: Make, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder("token"), bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(TargetError, match=r"bare has no tokenizer(.|\n)*name one: tokenizer=FOLDER"):
        formers.pipeline("ner", bare)
    with pytest.raises(TargetError, match=r"bert.nano has no tokenizer(.|\n)*train it first"):
        formers.pipeline("fill-mask", "bert.nano")
    wanted = formers.pipeline("ner", folder("token"))("Ada met Charles.")
    assert formers.pipeline("ner", bare, tokenizer=folder("token"))("Ada met Charles.") == wanted
    (bare / "vocab.txt").write_text("\n".join(vocabulary(folder("token"))), encoding="utf-8")
    assert formers.pipeline("ner", bare)("Ada met Charles.") == wanted


def vocabulary(folder: Path) -> list[str]:
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(vocab, key=vocab.__getitem__)


def test_a_model_at_hand_serves_with_its_tokenizer(folder: Make, wordpiece: Tokenizer) -> None:
    model = formers.load(folder("sequence"))
    with pytest.raises(TargetError, match="BERT has no tokenizer"):
        formers.pipeline("text-classification", model)
    ours = formers.pipeline("text-classification", model, tokenizer=wordpiece)
    assert ours("Ada.") == formers.pipeline("text-classification", folder("sequence"))("Ada.")
    assert "TextClassification('text-classification', BERT" in repr(ours)


def test_a_module_of_others_is_refused_where_a_head_is_needed(wordpiece: Tokenizer) -> None:
    with pytest.raises(TargetError, match="is no model of formers"):
        formers.pipeline("ner", nn.Linear(2, 2), tokenizer=wordpiece)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(folder: Make) -> None:
    large = train_tokenizer("wordpiece", TEXT, 160, lower=False)
    with pytest.raises(ConfigError, match="ids up to 159, the model's vocab_size is 149"):
        formers.pipeline("ner", folder("token"), tokenizer=large)


def test_a_tokenizer_without_a_mask_token_cannot_fill_masks(folder: Make, bpe: Tokenizer) -> None:
    model = formers.build("bert", preset="nano", head="masked_token")
    with pytest.raises(TargetError, match="has no mask token"):
        formers.pipeline("fill-mask", model, tokenizer=bpe)


def test_options_are_checked_when_they_are_given(folder: Make) -> None:
    with pytest.raises(ConfigError, match="did you mean 'top_k'"):
        formers.pipeline("fill-mask", folder("masked_token"), topk=3)
    fill = formers.pipeline("fill-mask", folder("masked_token"), top_k=3)
    assert len(fill("[MASK]")[0].choices) == 3
    assert len(fill("[MASK]", top_k=7)[0].choices) == 7
    assert len(fill("[MASK]", top_k=10**6)[0].choices) == 149
    for changes, said in (({"top_k": 0}, "top_k is 0"), ({"top_k": "many"}, "wanted int")):
        with pytest.raises(ConfigError, match=said):
            fill("[MASK]", **changes)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        formers.pipeline("fill-mask", folder("masked_token"), batch_size=0)
    with pytest.raises(ConfigError, match="at most beams, 2"):
        formers.pipeline("translation", folder("t5"), beams=2, num_return=3)
    with pytest.raises(ConfigError, match="max_length is 0"):
        formers.pipeline("ner", folder("token"), max_length=0)
    with pytest.raises(ConfigError, match="stride is -1"):
        formers.pipeline("ner", folder("token"), stride=-1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "a batch of nothing"),
        ("", "text 0 is empty"),
        (["Ada.", " \n"], "text 1 is empty"),
        (["Ada.", None], "text 1 is None"),
        (["Ada.", 3], "text 1 is 3"),
        (7, "found int"),
        ([["Ada.", "Charles."]], "item 0 is two texts"),
        (["Ada.", "\ud800"], "lone surrogate"),
    ],
    ids=repr,
)
def test_what_is_no_text_is_refused_before_anything_runs(folder: Make, given: Any, said: str) -> None:
    ours = formers.pipeline("ner", folder("token"))
    ours.model.body = None  # nothing may run
    with pytest.raises(DataError, match=said):
        ours(given)


def test_each_wants_many_texts(folder: Make) -> None:
    with pytest.raises(DataError, match="found one text"):
        next(formers.pipeline("ner", folder("token")).each("Ada."))


def test_a_text_without_a_mask_and_one_that_is_too_long_are_named(folder: Make) -> None:
    fill = formers.pipeline("fill-mask", folder("masked_token"))
    with pytest.raises(DataError, match=r"text 1 has no \[MASK\](.|\n)*write \[MASK\]"):
        fill(["[MASK]", "Ada met."])
    with pytest.raises(DataError, match=r"text 1 has 83 tokens(.|\n)*at most 64"):
        fill(["[MASK]", "London " * 80 + "[MASK]"])
    with pytest.raises(DataError, match=r"no token of the vocabulary: 'Lovelacex' \(\d tokens\), '🙂'"):
        fill("[MASK]", targets=("London", "Lovelacex", "🙂"))


def test_a_filled_gap_reads_as_it_would_be_written(folder: Make) -> None:
    fill = formers.pipeline("fill-mask", folder("masked_token"), top_k=149)
    (gap,) = fill("They met [MASK] in London.")
    texts = {choice.token: choice.text for choice in gap.choices}
    assert texts["river"] == "They met river in London."
    assert texts["##s"] == "They mets in London."
    assert texts[","] == "They met, in London."
    (gap,) = fill("[MASK] met.")
    assert {choice.token: choice.text for choice in gap.choices}["river"] == "river met."


def test_rows_of_the_model_without_a_token_are_never_chosen(wordpiece: Tokenizer) -> None:
    model = formers.build("bert", preset="nano", head="masked_token", vocab_size=160)
    with torch.no_grad():
        model.head.linear.bias[149:] = 9.0
    (gap,) = formers.pipeline("fill-mask", model, tokenizer=wordpiece, top_k=149)("Ada [MASK].")
    assert max(choice.token_id for choice in gap.choices) == 148


@pytest.mark.parametrize(
    ("task", "name", "options"),
    [("text-classification", "sequence", {}), ("sentence-embedding", "pooler", {})],
)
def test_what_is_longer_than_the_positions_is_cut_with_a_warning(
    pipe: Pipe, task: str, name: str, options: dict[str, Any]
) -> None:
    ours, short, exact = pipe(task, name, **options), "Ada met Charles.", "London " * 62
    ours([short, exact])  # all 64 positions, and no warning
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 64 tokens that are read"):
        found = ours([short, exact + "London"])
    assert str(ours([short, exact])[1]) == str(found[1])
    with pytest.warns(UserWarning, match="the text is longer than the 5 tokens"):
        ours(short + " London", max_length=5)


def test_of_a_pair_the_longer_text_is_cut(pipe: Pipe) -> None:
    ours = pipe("pair-classification", "pair")
    with pytest.warns(UserWarning, match="the text is longer"):
        found = ours(("London " * 90, "met river"))
    assert found == ours(("London " * 59, "met river"))


def test_a_long_source_is_cut_before_its_end_token(pipe: Pipe) -> None:
    ours = pipe("translation", "t5", max_new_tokens=4)
    tokens = ours.tokenizer.encode("Ada met Charles in London.")
    with pytest.warns(UserWarning, match="the text is longer than the 6 tokens"):
        cut = ours("Ada met Charles in London.", max_length=6)
    ids = ours._sources(["Ada met Charles in London."], None)[0]
    assert ids == [*tokens, ours.model.config.end_token]
    with pytest.warns(UserWarning, match="longer than the 6 tokens"):
        assert ours._sources(["Ada met Charles in London."], 6)[0] == [*tokens[:5], ours.model.config.end_token]
    assert cut[0].ids


@pytest.mark.parametrize("settings", [{}, {"max_length": 30, "stride": 10}, {"max_length": 5, "stride": 0}], ids=str)
def test_long_texts_are_tagged_in_windows_and_nothing_is_left_out(
    wordpiece: Tokenizer, settings: dict[str, int]
) -> None:
    sizes = {"vocab_size": 149, "max_length": 64, "num_labels": 2, "labels": ("X", "Y")}  # no O: every token is shown
    model = formers.build("bert", preset="nano", head="token", init_std=0.3, **sizes)
    text = "\n".join([TEXT, TEXT, TEXT])
    found = formers.pipeline("ner", model, tokenizer=wordpiece, aggregation="none", **settings)(text)
    assert [(e.start, e.end) for e in found] == wordpiece.encode_offsets(text)[1]


def test_a_token_of_two_windows_is_tagged_where_it_has_more_text_around_it(pipe: Pipe) -> None:
    """Windows of 28 tokens that share 10: tokens 18..27 stand in both; 18..22 are nearer the middle of the first."""
    ours = pipe("ner", "token", aggregation="none")
    text = " ".join(["London", "Ada", "Charles", "Paris", "Thames"] * 9)[:200]
    ids, places = ours.tokenizer.encode_offsets(text)
    assert len(ids) > 46
    labels, config = {}, ours.model.config
    cls, sep = (ours.tokenizer.special_tokens[name] for name in ("[CLS]", "[SEP]"))
    for first in (0, 18):
        row = torch.tensor([[cls, *ids[first : first + 28], sep]])
        best = ours.model(row).logits[0].argmax(-1).tolist()[1:-1]
        labels[first] = {first + at: config.labels[i] for at, i in enumerate(best)}
    wanted = {at: labels[0][at] for at in range(18)} | {at: labels[0 if at < 23 else 18][at] for at in range(18, 36)}
    found = {e.start: e.label for e in ours(text, max_length=30, stride=10)}
    assert {places[at][0]: label for at, label in wanted.items() if label != "O"} == {
        start: label for start, label in found.items() if start <= places[35][0]
    }
    assert any(labels[0][at] != labels[18][at] for at in range(18, 28))  # or the choice would not matter


def test_words_of_tokenizers_without_marks_are_letters_side_by_side(folder: Make, unigram: Tokenizer) -> None:
    model = formers.build(
        "bert",
        preset="nano",
        vocab_size=101,
        head="token",
        num_labels=2,
        labels=("X", "Y"),
        init_std=0.3,
        max_length=64,
    )
    found = formers.pipeline("ner", model, tokenizer=unigram, aggregation="first")("Ada Lovelace isn't in Paris, no.")
    edges = {entity.start for entity in found} | {entity.end for entity in found}
    assert not edges & {1, 2, 5, 6, 7, 8, 9, 10, 11, 24, 25, 26}  # inside Ada, Lovelace, Paris
    assert all(entity.text == entity.text.strip() for entity in found)


# -- what a folder says of its task -----------------------------------------------------------------------------------


def changed(folder: Path, to: Path, name: str, **settings: Any) -> Path:
    """A copy of a model folder with other settings in one of its JSON files."""
    shutil.copytree(folder, to)
    (to / name).parent.mkdir(exist_ok=True)
    before = json.loads((to / name).read_text()) if (to / name).is_file() else {}
    (to / name).write_text(json.dumps(before | settings))
    return to


@pytest.mark.parametrize(
    ("problem", "scoring"),
    [("multi_label_classification", "sigmoid"), ("regression", "none"), ("single_label_classification", "softmax")],
)
def test_the_problem_type_of_a_folder_says_how_logits_are_scored(
    folder: Make, tmp_path: Path, problem: str, scoring: str
) -> None:
    there = changed(folder("sequence"), tmp_path / "m", "config.json", problem_type=problem)
    found = formers.pipeline("text-classification", there)("Ada met.")
    assert found == formers.pipeline("text-classification", folder("sequence"), scoring=scoring)("Ada met.")


def test_a_single_label_is_scored_by_itself(wordpiece: Tokenizer) -> None:
    model = formers.build("bert", preset="nano", vocab_size=149, head="sequence", num_labels=1)
    (label,) = formers.pipeline("text-classification", model, tokenizer=wordpiece)("Ada met.")
    assert label.label == "LABEL_0"
    assert 0 < label.score < 1


def test_the_prefix_of_a_task_is_read_from_the_folder(folder: Make, tmp_path: Path) -> None:
    params = {"translation_en_to_de": {"prefix": "Ada met "}, "summarization": {"prefix": "Who "}}
    there = changed(folder("t5"), tmp_path / "m", "config.json", task_specific_params=params)
    text, plain = "Charles in London", formers.pipeline("translation", folder("t5"), max_new_tokens=5)
    assert formers.pipeline("translation", there, max_new_tokens=5)(text) == plain(text)
    for task, prefix in (("translation_en_to_de", "Ada met "), ("summarization", "Who ")):
        found = formers.pipeline(task, there, max_new_tokens=5)
        assert found(text)[0].ids == plain(prefix + text)[0].ids
        assert found(text)[0].prompt == text
        assert found(text, prefix="")[0].ids == plain(text)[0].ids


def test_a_folder_of_sentence_transformers_says_how_long_and_what_to_pool(folder: Make, tmp_path: Path) -> None:
    plain, text = formers.pipeline("sentence-embedding", folder("pooler")), "Ada met Charles in London."
    short = changed(folder("pooler"), tmp_path / "a", "sentence_bert_config.json", max_seq_length=5)
    with pytest.warns(UserWarning, match="5 tokens"):
        found = formers.pipeline("sentence-embedding", short)(text)
    with pytest.warns(UserWarning, match="5 tokens"):
        assert torch.equal(found, plain(text, max_length=5))
    first = changed(
        folder("pooler"),
        tmp_path / "b",
        "1_Pooling/config.json",
        pooling_mode_cls_token=True,
        pooling_mode_mean_tokens=False,
    )
    assert torch.equal(formers.pipeline("sentence-embedding", first)(text), plain(text, pooling="first"))
    other = changed(folder("pooler"), tmp_path / "c", "1_Pooling/config.json", pooling_mode_max_tokens=True)
    with pytest.raises(ConfigError, match="pooling_mode_max_tokens"):
        formers.pipeline("sentence-embedding", other)(text)
    assert torch.equal(formers.pipeline("sentence-embedding", other, pooling="mean")(text), plain(text))


def test_an_encoder_decoder_embeds_by_its_encoder(folder: Make) -> None:
    ours = formers.pipeline("sentence-embedding", folder("t5"), normalise=False)
    ids = torch.tensor([[*ours.tokenizer.encode("Ada met."), ours.model.config.end_token]])
    found = ours(["Ada met.", "They spoke of engines."])[0]
    wanted = ours.model.encode(ids).hidden.mean(1)[0].detach()
    assert torch.allclose(found, wanted, atol=1e-5)


def test_text_generation_goes_on_from_nothing_and_stops_at_a_text(folder: Make) -> None:
    ours = formers.pipeline("text-generation", folder("gpt2"), max_new_tokens=12, seed=5)
    assert ours("")[0].ids
    long = ours("Ada")[0].text
    assert ours("Ada", stop=(long[4],))[0].text == long[: long.index(long[4])]
    first, second = ours("Ada", num_samples=2)
    assert (first.text, second.text) == (long, ours("Ada", seed=6)[0].text)
    with pytest.raises(ConfigError, match="num_samples is 2"):
        ours.stream("Ada", num_samples=2)


def test_relative_to_no_text_a_token_gains_what_the_text_adds(folder: Make, pipe: Pipe) -> None:
    fill = pipe("fill-mask", "masked_token", top_k=149)
    (alone,), (gap,) = fill("[MASK]"), fill("London [MASK] the river.")
    base = {choice.token_id: choice.score for choice in alone.choices}
    wanted = {c.token_id: math.log(c.score / base[c.token_id]) for c in gap.choices}
    (found,) = fill("London [MASK] the river.", relative=True)
    assert [c.token_id for c in found.choices] == sorted(wanted, key=lambda i: -wanted[i])
    assert [c.gain for c in found.choices] == pytest.approx([wanted[c.token_id] for c in found.choices], abs=1e-9)
    assert {c.token_id: c.score for c in found.choices} == pytest.approx({c.token_id: c.score for c in gap.choices})
    assert all(choice.gain is None for choice in gap.choices)
    assert [c.token_id for c in found.choices] != [c.token_id for c in gap.choices]


def test_one_beam_is_greedy_whenever_a_search_ends(pipe: Pipe) -> None:
    ours = pipe("translation", "t5", beams=1, max_new_tokens=12)
    texts = ["Ada", *words(20, 12, seed=4)]
    greedy = [row.ids for (row,) in ours(texts)]
    assert any(len(ids) < 12 for ids in greedy)
    for early in ("yes", "never"):
        assert [row.ids for (row,) in ours(texts, early_stopping=early, length_penalty=3.0)] == greedy
