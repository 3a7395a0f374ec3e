"""`formers pipe`: texts from arguments, files and standard input; results for people and as JSON; what it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import formers as library
from formers.tasks.names import TASKS
from tests.cli.commands import Formers, in_a_fresh_process
from tests.tasks.conftest import model_folders

TEXT = "Ada met Charles in London."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return model_folders(tmp_path_factory.mktemp("models"))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """`typed(text)`: what stands on standard input."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_tasks_are_listed_and_a_wrong_one_gets_a_suggestion(formers: Formers) -> None:
    listed = formers("pipe", "--help").out
    assert all(f"  {task.name} " in listed for task in TASKS.values())
    assert "did you mean 'fill-mask'?" in formers.refuses("pipe", "fill-maks", "--model", "x", "y")
    assert "no task is named" in formers.refuses("pipe")
    assert "no task is named" in formers.refuses("pipe", "--model", "x")


@pytest.mark.parametrize("task", TASKS)
def test_every_option_of_a_task_is_on_its_page_and_in_its_help(formers: Formers, task: str) -> None:
    page = (
        (Path(__file__).parents[2] / "docs" / "tasks.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    )
    told = formers("pipe", task, "--help").out
    for name in TASKS[task].options.__dataclass_fields__:
        flag = name.replace("_", "-")
        assert f"--{flag} " in told or f"--no-{flag} " in told
        assert f"`{name}`" in page


@pytest.mark.parametrize(
    "arguments",
    [
        ("pipe",),
        ("pipe", "--help"),
        ("pipe", "ner", "--help"),
        ("pipe", "nre", "x"),
        ("pipe", "ner", "x"),
        ("pipe", "ner", "--model", "nowhere", "x"),
        ("pipe", "ner", "--model", "nowhere", "--top-k", "3", "x"),
        ("pipe", "fill-mask", "--model", "nowhere", "--top-k", "0", "x"),
    ],
    ids=" ".join,
)
def test_what_needs_no_model_costs_no_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    outcome = in_a_fresh_process(*arguments, cwd=tmp_path)
    assert outcome.err.endswith("NO TORCH\n"), outcome.err
    assert outcome.code in (0, 2)
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ner", TEXT], "no model is named"),
        (["ner", "--model", "."], "no text is given"),
        (["ner", "--model", ".", "-", TEXT], "- and texts beside it"),
        (["ner", "--model", ".", TEXT, "--pair", "x"], "--pair with ner"),
        (["pair-classification", "--model", ".", TEXT], "the second text is missing"),
        (["question-answering", "--model", ".", "a", "b", "c"], "the second text is missing"),
        (["question-answering", "--model", ".", "a", "--pair", "b", "--pair-file", "c"], "both --pair and --pair-file"),
        (["ner", "--model", ".", TEXT], "config.json"),
        (["ner", "--model", "bert.nano", TEXT], "bert.nano has no tokenizer"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_at_once(formers: Formers, arguments: list[str], said: str) -> None:
    assert said in formers.refuses("pipe", *arguments)


CASES: list[tuple[str, str, list[str], list[str]]] = [
    ("fill-mask", "masked_token", ["Ada met [MASK] in London.", "--top-k", "2"], ["Token", "Probability"]),
    ("ner", "token", [TEXT, "--aggregation", "simple"], ["Entity", "Characters"]),
    ("text-classification", "sequence", [TEXT], ["so so", "good"]),
    ("pair-classification", "pair", [TEXT, "They spoke."], ["follows", "does not follow"]),
    ("question-answering", "span", ["Who met?", "--pair", TEXT, "--top-k", "2"], ["Answer", "Characters"]),
    ("summarization", "t5", [TEXT, "--max-new-tokens", "5", "--beams", "2", "--num-return", "2"], ["--- 2 ---"]),
]


@pytest.mark.parametrize(
    ("task", "name", "arguments", "shown"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_result_for_people_and_the_same_as_json(
    formers: Formers,
    folder: Any,
    task: str,
    name: str,
    arguments: list[str],
    shown: list[str],
) -> None:
    outcome = formers("pipe", task, "--model", folder(name), *arguments)
    assert outcome.code == 0, outcome.err
    assert all(word in outcome.out for word in shown)
    (row,) = formers("pipe", task, "--model", folder(name), *arguments, "--json").json
    assert row["text"] == arguments[0]
    assert row["result"]
    first = row["result"][0]
    text = first.get("text") or first.get("label") or first["choices"][0]["token"]
    assert text in outcome.out


def test_lines_of_standard_input_are_texts_and_pairs(formers: Formers, folder: Any, typed: Any) -> None:
    typed(f"{TEXT}\nThe sea.\n")
    rows = formers("pipe", "ner", "--model", folder("token"), "-", "--json").json
    assert [row["text"] for row in rows] == [TEXT, "The sea."]
    wanted = library.pipeline("ner", folder("token"))([TEXT, "The sea."])
    assert [[e["text"] for e in row["result"]] for row in rows] == [[e.text for e in found] for found in wanted]
    typed("Ada met.\tThey spoke.\nThe sea.\tThe river.\n")
    rows = formers("pipe", "pair-classification", "--model", folder("pair"), "-", "--json").json
    assert [(row["text"], row["pair"]) for row in rows] == [("Ada met.", "They spoke."), ("The sea.", "The river.")]
    typed("Ada met.\n")
    assert "has no tab" in formers.refuses("pipe", "pair-classification", "--model", folder("pair"), "-")
    typed("")
    assert "a batch of nothing" in formers.refuses("pipe", "ner", "--model", folder("token"), "-")
    typed("Ada met.\n\nThe sea.\n")
    assert "text 1 is empty" in formers.refuses("pipe", "ner", "--model", folder("token"), "-")


def test_standard_input_that_is_no_text_is_one_error(
    formers: Formers, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Ada met.\n\xff\n"), "utf-8"))
    said = formers.refuses("pipe", "ner", "--model", folder("token"), "-")
    assert "standard input is no UTF-8 text (invalid start byte)" in said


def test_results_of_lines_come_while_lines_still_do(
    formers: Formers,
    folder: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: list[str] = []

    def lines():
        yield "Ada met.\n"
        yield "They spoke.\n"
        shown.append(capsys.readouterr().out)
        yield "The sea.\n"

    monkeypatch.setattr("sys.stdin", lines())
    assert formers("pipe", "text-classification", "--model", folder("sequence"), "-", "--batch-size", 1).code == 0
    assert "Ada met." in shown[0]
    assert "The sea." not in shown[0]


def test_files_are_read_whole(formers: Formers, folder: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ada met\nCharles.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    ask = ["pipe", "question-answering", "--model", folder("span"), "Who met?", "When?", "--json"]
    rows = formers(*ask, "--pair-file", tmp_path / "a.txt").json
    assert [row["pair"] for row in rows] == ["Ada met\nCharles.\n"] * 2
    assert len(formers("pipe", "ner", "--model", folder("token"), "--file", tmp_path / "a.txt", "--json").json) == 1
    assert "b.txt is no UTF-8" in formers.refuses(
        "pipe", "ner", "--model", folder("token"), "--file", tmp_path / "b.txt"
    )


def test_text_is_streamed_and_each_sample_has_its_seed(formers: Formers, folder: Any) -> None:
    ask = ["pipe", "text-generation", "--model", folder("gpt2"), "Ada met", "--num-samples", 2, "--max-new-tokens", 6]
    (row,) = formers(*ask, "--json").json
    out = formers(*ask).out
    for number, sample in enumerate(row["result"]):
        assert f"--- sample {number + 1} (seed {number}) ---\nAda met{sample['text']}" in out


def test_one_text_gives_its_vector_and_several_how_near_they_are(formers: Formers, folder: Any) -> None:
    ask = ["pipe", "sentence-embedding", "--model", folder("pooler"), TEXT]
    (row,) = formers(*ask, "--json").json
    assert [float(value) for value in formers(*ask).out.split()] == pytest.approx(row["result"], abs=1e-6)
    assert sum(value * value for value in row["result"]) == pytest.approx(1, abs=1e-5)
    assert "1.000" in formers(*ask, "The sea.").out


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line_and_stdout_stays_json(formers: Formers, folder: Any) -> None:
    outcome = formers("pipe", "text-classification", "--model", folder("sequence"), "Ada " * 90, "--json")
    assert "warning: the text is longer than the 64 tokens" in outcome.err
    assert len(json.loads(outcome.out)) == 1


# -- formers generate --beams ------------------------------------------------------------------------------------------


def test_generate_searches_beams(formers: Formers, folder: Any) -> None:
    ask = ["generate", folder("gpt2"), "Ada met", "--beams", 3, "--max-new-tokens", 6]
    found = formers(*ask, "--num-samples", 2, "--length-penalty", 0.5, "--json").json
    from formers.generation import search_text
    from formers.text import load_tokenizer

    tokenizer, model = load_tokenizer(folder("gpt2")), library.load(folder("gpt2"))
    (wanted,) = search_text(
        model, tokenizer, "Ada met", num_beams=3, num_return=2, max_new_tokens=6, length_penalty=0.5
    )
    assert [row["text"] for row in found] == [one.text for one in wanted]
    assert [row["score"] for row in found] == pytest.approx([one.score for one in wanted])
    out = formers(*ask, "--num-samples", 2, "--length-penalty", 0.5).out
    assert f"--- 2 (score {wanted[1].score:.4f}) ---\nAda met{wanted[1].text}" in out
    assert formers(*ask).out == f"Ada met{formers(*ask, '--json').json[0]['text']}\n"


def test_generate_from_a_source_prints_what_is_written_alone(formers: Formers, folder: Any) -> None:
    ask = ["generate", folder("t5"), TEXT, "--beams", 2, "--max-new-tokens", 5, "--early-stopping", "yes"]
    assert formers(*ask).out == formers(*ask, "--json").json[0]["text"] + "\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--beams", "3", "--temperature", "2", "--top-k", "3"], "--beams 3 and --temperature and --top-k"),
        (["--length-penalty", "2"], "--beams 0 and --length-penalty"),
        (["--beams", "-1"], "--beams -1"),
        (["--beams", "2", "--num-samples", "3"], "num_return is 3, wanted at most num_beams, 2"),
    ],
    ids=str,
)
def test_options_of_sampling_and_of_a_search_are_not_mixed(
    formers: Formers,
    folder: Any,
    options: list[str],
    said: str,
) -> None:
    assert said in formers.refuses("generate", folder("gpt2"), "Ada", *options)
