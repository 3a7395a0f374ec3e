"""The report is one file that needs nothing else, keeps its size, and never runs what a model wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from formers.comparison import read_run, write_report
from formers.comparison.budget import fair, limit
from formers.comparison.escaping import clip, embed, text
from formers.comparison.evidence import chosen_samples, settings
from formers.comparison.report import fill
from formers.errors import RunError

from .runfolders import CERTIFICATE, LEAKING, Rows, metrics_of, recipe_of, sample_rows, train_rows, write_run

EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> {{data}} \u2028 \x00 \udcff \u202e & \"'"


class Page(HTMLParser):
    """The page as a browser takes it apart: tags with their attributes, scripts, and text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.inside: tuple[str, dict[str, str | None]] = ("", {})
        self.content = path.read_text(encoding="utf-8")
        self.feed(self.content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = (tag, dict(attrs))
        self.tags.append(self.inside)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self.inside
        if tag == "script":
            self.scripts.append((attributes, data))
        elif tag == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    def data(self) -> dict:
        return json.loads(next(body for attributes, body in self.scripts if attributes.get("id") == "report-data"))


def demo(tmp_path: Path, name: str = "demo", rows: Rows | None = None, **more) -> Path:
    return write_run(tmp_path / name, metrics_of(60) if rows is None else rows, recipe=recipe_of(steps=60), **more)


def evil_run(tmp_path: Path) -> Path:
    rows = train_rows(20)
    rows.append({"kind": "sample", "step": 20, "prompt": EVIL, "text": EVIL})
    rows.append({"kind": "event", "step": 20, "level": EVIL, "message": EVIL})
    law = {"name": EVIL, "status": EVIL, "violation": None, "tolerance": None, "blame": EVIL, "detail": EVIL}
    recipe = {**recipe_of(EVIL), "architecture": EVIL, "data": {EVIL: EVIL}}
    return write_run(
        tmp_path / "<b>evil", rows, recipe=recipe, environment={EVIL: EVIL}, certificate={"ok": True, "laws": [law]}
    )


def test_a_report_says_what_happened(tmp_path: Path) -> None:
    page = Page(write_report([demo(tmp_path, certificate=CERTIFICATE)], tmp_path / "new" / "report.html"))
    words = " ".join(page.words)
    for part in (
        "Training report: demo",
        "1.38 million parameters",
        "60 steps",
        "causal by perturbation",
        "not applicable",
        "model.d_model",
    ):
        assert part in words
    for part in (
        "def read",
        "nats per token",
        "bits per byte",
        "started",
        "a processor with <angle> brackets & more",
        "gzip\u00a0-9",
    ):
        assert part in words
    assert page.data()["runs"][0]["train"]["step"] == list(range(1, 61))


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = Page(write_report([demo(tmp_path)], tmp_path / "report.html"))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "base", "img"})
    assert "url(" not in "".join(page.styles)
    assert "@import" not in "".join(page.styles)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)


def test_only_our_two_scripts_may_run_and_only_as_they_are(tmp_path: Path) -> None:
    page = Page(write_report([evil_run(tmp_path)], tmp_path / "report.html"))
    policy = str(next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"))
    running = [body for attributes, body in page.scripts if attributes.get("type") != "application/json"]
    allowed = re.search(r"script-src ([^;]*)", policy)
    assert allowed
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in running]
    assert allowed[1].split() == hashes
    assert len(hashes) == 2


def test_foreign_text_is_text_wherever_it_stands(tmp_path: Path) -> None:
    clean = Page(write_report([demo(tmp_path), demo(tmp_path, "other")], tmp_path / "clean.html"))
    page = Page(write_report([evil_run(tmp_path), demo(tmp_path, "third")], tmp_path / "evil.html"))
    assert len(page.scripts) == len(clean.scripts) == 3
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags} | {"code"}
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert "<script>alert(1)</script>" in "".join(page.words)
    assert "{{data}}" in "".join(page.words)
    assert page.data()["runs"][0]["name"] == "<b>evil"
    assert "\x00" not in page.content
    assert "\u202e" not in page.content


def test_json_in_a_script_cannot_end_the_script() -> None:
    embedded = embed({"name": EVIL})
    assert json.loads(embedded)["name"] == EVIL
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert embedded.isascii()


def test_text_is_safe_and_clipped_by_its_bytes() -> None:
    assert text("<a b=\"c\" d='e'>&\x1b") == "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;&amp;␛"
    assert clip("short", 10) == "short"
    for long in ('"' * 1000, "語" * 1000, "a" * 1000):
        assert 60 < len(clip(long, 100).encode()) <= 103
        assert clip(long, 100).endswith("…")


def test_what_is_filled_in_is_not_filled_again() -> None:
    assert fill("{{a}}-{{b}}", {"a": "{{b}}", "b": "x"}) == "{{b}}-x"


def test_a_hundred_thousand_steps_stay_within_the_limit_and_the_page_says_how(tmp_path: Path) -> None:
    run = write_run(tmp_path / "long", metrics_of(100_000, every=500), recipe=recipe_of(steps=100_000))
    out = write_report([run], tmp_path / "report.html")
    assert out.stat().st_size <= limit(1) == 520_000
    assert "recorded 100,000 training steps" in out.read_text()
    assert "mean of each bin" in out.read_text()


def test_many_wordy_runs_stay_within_the_limit(tmp_path: Path) -> None:
    rows = metrics_of(400, every=4)
    for row in rows:
        if row["kind"] == "sample":
            row["text"] = '"語<' * 5000
        if row["kind"] == "train":
            row["tokens"] = row["step"] * 1_234_567 + row["step"] % 3
    rows += [{"kind": "event", "step": 400, "level": "warning", "message": '"' * 3000} for _ in range(1000)]
    runs = []
    for i in range(25):
        wordy = {f"setting-{k}": f'"{i}' * 500 for k in range(300)}
        runs.append(write_run(tmp_path / f"run-{i}", rows, recipe={**recipe_of(), "data": wordy}, certificate=LEAKING))
    out = write_report(runs, tmp_path / "report.html")
    assert out.stat().st_size <= limit(25) == 1_000_000


def test_a_run_cut_off_in_a_line_is_reported_with_a_note(tmp_path: Path) -> None:
    page = Page(write_report([demo(tmp_path, tail='{"kind":"train","st')], tmp_path / "report.html"))
    assert "unfinished" in " ".join(page.words)


def test_a_run_without_a_single_step_has_a_page(tmp_path: Path) -> None:
    page = Page(write_report([write_run(tmp_path / "empty")], tmp_path / "report.html"))
    assert "It has not made a training step yet." in " ".join(page.words)
    assert page.data()["runs"][0]["train"] == {}


def test_a_loss_that_is_not_finite_is_valid_json_and_said(tmp_path: Path) -> None:
    rows = [*train_rows(5), {"kind": "train", "step": 6, "loss": float("nan")}]
    page = Page(write_report([write_run(tmp_path / "nan", rows)], tmp_path / "report.html"))
    assert page.data()["runs"][0]["train"]["loss"][-1] is None
    assert "not finite" in " ".join(page.words)


def test_a_failing_certificate_is_the_first_thing_said_about_trust(tmp_path: Path) -> None:
    page = Page(write_report([demo(tmp_path, certificate=LEAKING)], tmp_path / "report.html"))
    words = " ".join(page.words)
    assert "Its certificate fails: causal by gradient." in words
    assert "trunk.blocks.0.attention" in words
    assert ("div", {"class": "fail"}) in page.tags


def test_settings_that_differ_stand_first_and_what_is_the_same_once() -> None:
    documents = [{"model": {"d_model": 64, "num_layers": 2}}, {"model": {"d_model": 96, "num_layers": 2, "d_ff": 7}}]
    words = re.sub(r"<[^>]*>", " ", settings(documents, ["a", "b"], fair(2))).split()
    assert (
        words == "Setting a b What differs model.d_model 64 96 model.d_ff 7 The same in all model.num_layers 2".split()
    )


def test_samples_show_the_start_and_the_end() -> None:
    rows = [row for step in (10, 20, 30) for row in sample_rows(step)]
    assert [(row["step"], row["prompt"]) for row in chosen_samples(rows, 3)] == [
        (10, "def read"),
        (30, "def read"),
        (30, "import "),
    ]
    assert chosen_samples(rows[:2], 3) == rows[:2]


def test_one_bad_run_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(RunError, match="not a folder"):
        write_report([demo(tmp_path), tmp_path / "absent"], out)
    assert not out.exists()
    with pytest.raises(RunError, match="is a folder"):
        write_report([demo(tmp_path)], tmp_path)


def test_a_full_disk_leaves_the_old_report_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_report(demo(tmp_path), tmp_path / "out" / "report.html")
    before = out.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_report(demo(tmp_path, "second"), out)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_records_and_folders_are_taken_alike(tmp_path: Path) -> None:
    folder = demo(tmp_path)
    one, other = write_report(str(folder), tmp_path / "a.html"), write_report([read_run(folder)], tmp_path / "b.html")
    assert Page(one).data() == Page(other).data()


def test_the_vendored_script_is_the_one_that_its_note_names() -> None:
    from importlib.resources import files

    vendor = files("formers.comparison") / "vendor"
    for line in (vendor / "VERSION.txt").read_text().split("sha256\n")[1].splitlines():
        digest, name = line.split()
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (vendor / "LICENSE").read_text()
