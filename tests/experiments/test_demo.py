"""Where a demo stands: what is gone on with, what is replaced, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from formers.errors import RunError
from formers.experiments import demo


def test_a_demo_that_was_interrupted_goes_on_and_one_that_ended_makes_room(tmp_path: Path):
    out = tmp_path / "demo"
    assert not demo.find(out, minutes=1)
    demo.begin(out, minutes=1)
    (out / "gpt2.seed-0").mkdir()
    (out / "gpt2.seed-0" / "recipe.json").write_text("{}")
    assert demo.find(out, minutes=1)
    demo.end(out, minutes=1, seeds=1, found={})
    assert not demo.find(out, minutes=1)
    assert demo.find(out, minutes=1, seeds=2), "what is trained is not trained again"
    assert (out / "gpt2.seed-0").exists(), "finding changes nothing"
    demo.begin(out, minutes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert [path.name for path in out.iterdir()] == [demo.MARK]


def test_trainings_of_other_minutes_are_not_mixed(tmp_path: Path):
    out = tmp_path / "demo"
    demo.begin(out, minutes=1)
    assert not demo.find(out, minutes=2), "nothing is trained yet"
    (out / "gpt2.seed-0").mkdir()
    (out / "gpt2.seed-0" / "recipe.json").write_text("{}")
    with pytest.raises(RunError, match="--minutes 1"):
        demo.find(out, minutes=2)
    demo.end(out, minutes=1, seeds=1, found={})
    assert not demo.find(out, minutes=2, seeds=3)


def test_the_demo_replaces_only_a_demo(tmp_path: Path):
    out = tmp_path / "demo"
    out.mkdir()
    assert not demo.find(out, minutes=1), "an empty folder will do"
    (out / "diary.txt").write_text("precious")
    with pytest.raises(RunError, match="no folder of the demo"):
        demo.find(out, minutes=1)
    (out / "recipe.json").write_text('{"name": "gpt2.tiny"}')
    with pytest.raises(RunError, match="no folder of the demo"):
        demo.find(out, minutes=1)
    out.joinpath("diary.txt").unlink()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(RunError, match="no folder of the demo"):
        demo.find(file, minutes=1)
