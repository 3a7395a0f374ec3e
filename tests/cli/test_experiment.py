"""`formers experiment`: what there is, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formers.experiments import recall, worth
from tests.cli.commands import Formers, in_a_fresh_process


def shards_of(run: Path) -> str:
    return json.loads((run / "recipe.json").read_text())["shards"]["folder"]


def test_without_a_name_it_lists_them_and_a_wrong_one_gets_the_right_one() -> None:
    listed = in_a_fresh_process("experiment")
    assert listed.code == 0
    assert all(name in listed.out for name in ("recall", "memory-size", "packages"))
    wrong = in_a_fresh_process("experiment", "memory-sise")
    assert wrong.code == 2
    assert "did you mean 'memory-size'" in wrong.err
    assert listed.err.endswith("NO TORCH\n")
    assert wrong.err.endswith("NO TORCH\n")


def test_memory_size_writes_data_and_plots_and_says_its_verdict(formers: Formers, run: Path) -> None:
    formers("graft", run, "--layers", "-1", "--size", "50", "--segment", "16", "--out", "remembering")
    asked = ["experiment", "memory-size", "remembering", "--data", shards_of(run), "--sizes", 0, 8, "--longer-than", 20]
    found = formers(*asked, "--documents", 3, "--out", "sizes", "--json")
    assert found.code == 0, found.err
    assert found.json["verdict"]["word"] == "not reproduced"  # its gates are shut
    assert found.json["steps"][0]["interval"]["mean"] == 0
    for name in ("memory-size.json", "memory-size.svg", "memory-position.svg", "scores.jsonl"):
        assert (Path("sizes") / name).is_file()
    assert "not reproduced: a larger memory" in formers(*asked, "--documents", 3, "--out", "sizes").out


def test_memory_size_refuses_a_model_without_one_and_sizes_that_fall(formers: Formers, run: Path) -> None:
    assert "memory_size" in formers.refuses("experiment", "memory-size", run, "--longer-than", 20)
    assert "rising" in formers.refuses("experiment", "memory-size", run, "--sizes", 8, 4)
    assert "has no memory to look things up in" in formers.refuses("experiment", "search", run)


def test_packages_writes_them_and_refuses_what_is_too_long(formers: Formers, tmp_path: Path) -> None:
    assert "no package of" in formers.refuses("experiment", "packages", "--least", 10**12)


def test_recall_prints_a_table_and_keeps_it(formers: Formers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "STAGES", (recall.Stage(32, 4, 0, 1), recall.Stage(96, 4, 8, 1)))
    outcome = formers("experiment", "recall", "--out", "pairs", "--documents", 2)
    assert outcome.code == 0, outcome.err
    assert "no memory" in outcome.out
    assert json.loads((Path("pairs") / "recall.json").read_text())["verdict"]["word"] in (
        "not reproduced",
        "smaller effect",
    )
    assert (Path("pairs") / "recall.svg").is_file()


def test_memory_trains_the_contestants_and_prints_the_verdicts(
    formers: Formers, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "segment_length": 16, "cache_length": 16}
    monkeypatch.setattr(worth, "MODEL", {**worth.MODEL, **small, "memory_layers": (1,), "neighbours": 4})
    asked = ["experiment", "memory", "--data", shards_of(run), "--steps", 1, "--documents", 2, "--longer-than", 20]
    outcome = formers(*asked, "--out", "contest")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("produced: ") + outcome.out.count("smaller effect: ") == 5
    assert json.loads((Path("contest") / "memory.json").read_text())["contestants"].keys() >= {"plain", "late"}
    assert (Path("contest") / "memory.svg").is_file()
    assert "does not exist" in formers.refuses("experiment", "memory", "--data", "nowhere")


def test_grid_prints_every_combination_and_what_it_costs(formers: Formers, run: Path) -> None:
    formers("graft", run, "--layers", "-1", "--size", "50", "--segment", "16", "--out", "remembering")
    asked = ["experiment", "grid", "remembering", "--data", shards_of(run), "--longer-than", 20, "--documents", 2]
    vary = ["--vary", "neighbours=1,8", "memory-size=0,20"]
    found = formers(*asked, *vary, "--out", "grid", "--json")
    assert found.code == 0, found.err
    assert [cell["settings"] for cell in found.json["cells"]] == [
        {"neighbours": n, "memory_size": size} for n in (1, 8) for size in (0, 20)
    ]
    assert (Path("grid") / "grid.json").is_file()
    assert (Path("grid") / "grid.svg").is_file()
    assert "Change from the first" in formers(*asked, *vary, "--out", "grid").out
    assert "no --vary" in formers.refuses(*asked)
    assert "two values or more" in formers.refuses(*asked, "--vary", "neighbours=1")
    assert "unknown" in formers.refuses(*asked, "--vary", "neighbors=1,2")
    assert "NAME=VALUE" in formers.refuses(*asked, "--vary", "neighbours")


def test_search_prints_what_share_is_found_at_each_size(formers: Formers, run: Path) -> None:
    pytest.importorskip("faiss", reason="the extra `search` is not installed")
    formers("graft", run, "--layers", "-1", "--size", "50", "--segment", "16", "--out", "remembering")
    asked = ["experiment", "search", "remembering", "--data", shards_of(run), "--neighbours", 4, "--rounds", 1]
    outcome = formers(*asked, "--sizes", 64, 128, "--queries", 16, "--out", "found")
    assert outcome.code == 0, outcome.err
    assert "Recall at 4" in outcome.out
    assert "approximate look-ups find 90%" in outcome.out
    assert len(json.loads((Path("found") / "search.json").read_text())["rows"]) == 2
    assert (Path("found") / "search.svg").is_file()


def test_vocabulary_prints_a_table_and_keeps_data_and_plot(formers: Formers, tmp_path: Path) -> None:
    files = tmp_path / "texts"
    files.mkdir()
    for name in "abcd":
        (files / name).write_text(f"the {name} ran, the other {name} sang " * 20 + name)
    asked = ["experiment", "vocabulary", "--data", files, "--kinds", "bpe", "wordpiece", "--sizes", 40, 260]
    found = formers(*asked, "--out", "sizes")
    assert found.code == 0, found.err
    assert "not possible" in found.out
    assert "measured on" in found.out
    kept = json.loads((Path("sizes") / "vocabulary.json").read_text())
    assert [row["size"] for row in kept["rows"]] == [40, 260, 40, 260]
    assert (Path("sizes") / "vocabulary.svg").is_file()
    assert formers(*asked, "--out", "sizes", "--json").json["rows"] == kept["rows"]
    assert "documents that differ" in formers.refuses("experiment", "vocabulary", "--data", files / "a")
    assert "wanted some of" in formers.refuses("experiment", "vocabulary", "--kinds", "worpiece")
