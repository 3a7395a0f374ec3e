"""The models of the package on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from formers import pretrained
from tests.cli.commands import Formers


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """No verb leaves anything in the package."""
    before = sorted(pretrained.HOME.glob("*stdlib/**/*"))
    yield
    assert sorted(pretrained.HOME.glob("*stdlib/**/*")) == before


def test_models_lists_them_with_size_and_score(formers: Formers) -> None:
    printed, facts = formers("models").out, pretrained.facts("gpt2-stdlib")
    assert f"{facts.scored:.3f}" in printed
    assert f"{facts.bytes / 1e6:.2f}" in printed
    by_name = {row["name"]: row for row in formers("models", "--json").json}
    assert [each["name"] for each in by_name["gpt2"]["pretrained"]] == ["gpt2-stdlib"]
    assert by_name["llama"]["pretrained"] == []


def test_generate_writes_at_once(formers: Formers) -> None:
    outcome = formers("generate", "memory_mosaics-stdlib", "class ", "--max-new-tokens", "8")
    assert outcome.code == 0
    assert outcome.out.startswith("class ")
    assert len(outcome.out) > len("class \n")


def test_eval_finds_the_text(formers: Formers) -> None:
    row = formers("eval", "gpt2-stdlib", "--batches", "1", "--json").json
    assert row["bits_per_byte"] < row["baselines"]["gzip_bits_per_byte"]
    assert Path(row["data"]).resolve() == pretrained.HOME / "stdlib"


def test_certify_keeps_no_certificate(formers: Formers, monkeypatch: pytest.MonkeyPatch) -> None:
    report = SimpleNamespace(ok=True, to_dict=lambda: {"ok": True})
    monkeypatch.setattr("formers.laws.certify", lambda *_, **__: report)
    assert formers("certify", "gpt2-stdlib", "--json").json == {"ok": True}
    assert not (pretrained.HOME / "gpt2-stdlib" / "certificate.json").exists()


def test_a_report_goes_into_the_present_folder(formers: Formers, tmp_path: Path) -> None:
    assert formers("report", "gpt2-stdlib").code == 0
    assert "gpt2-stdlib" in (tmp_path / "report.html").read_text()


def test_resuming_a_training_there_is_refused(formers: Formers) -> None:
    said = formers.refuses("train", "--resume", "--out", pretrained.HOME / "gpt2-stdlib")
    assert "belongs to a model that comes with formers" in said


def test_a_wrong_name_in_a_comparison_is_suggested(formers: Formers) -> None:
    assert "did you mean 'gpt2-stdlib'?" in formers.refuses("compare", "gpt2-stdlb", "memory_mosaics-stdlib")


def test_text_is_cut_by_the_tokenizer_of_a_packaged_model_or_of_a_run(formers: Formers, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("class Stack:\n    pass\n" * 30)
    for name, choice in {"name": "gpt2-stdlib", "run": str(pretrained.find("gpt2-stdlib"))}.items():
        built = ("--out", str(tmp_path / name), "--tokenizer", choice, "--json")
        assert formers("data", "build", str(text), *built).json["vocab_size"] == 2048
    assert "no tokenizer 'gpt3-stdlib'" in formers("data", "build", str(text), "--tokenizer", "gpt3-stdlib").err
