"""What is measured is kept for the weights, text and code that it was measured with, and for no others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from formers import recipes
from formers.data import Shards
from formers.errors import RunError
from formers.experiments import contest, run
from formers.experiments.compare import make_plan
from formers.experiments.contest import Contestant, check_contestant, read_all, train_all
from formers.experiments.entrants import Entry, entries, reading
from formers.experiments.reading import Scores
from formers.experiments.run import changed_since
from formers.recipes import with_seed
from tests.experiments.compared import QUICK, recipe, settings, shards, texts

OWN = """
import dataclasses
from formers import recipes
from formers.models.gpt2 import GPT2, GPT2Config

@dataclasses.dataclass(frozen=True)
class Own(GPT2Config):
    architecture = "own"

    def build(self, seed=0):
        return GPT2(self, seed=seed)

def small():
    base = recipes.get("gpt2.nano")
    model = Own(vocab_size=257, d_model=8, num_layers=1, num_heads=2, max_length=64)
    return dataclasses.replace(base, name="mine", model=model)
"""


@pytest.fixture(scope="module", autouse=True)
def short_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_TOKENS", 1)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return shards(tmp_path_factory.mktemp("text"))


def contestant(seed: int = 0, base: Any = None) -> Contestant:
    plain = base or recipe()
    train = dataclasses.replace(plain.train, steps=1, eval_every=0, eval_batches=1, batch_size=2, seq_len=16, **QUICK)
    made = with_seed(dataclasses.replace(plain, train=train), seed)
    return Contestant("it", made, reading=reading(made))


def test_scores_of_other_weights_or_another_text_are_measured_anew(text: Shards, tmp_path: Path) -> None:
    documents = [int(d) for d in text.rows("validation")[:3]]
    said: list[str] = []
    assert train_all([contestant()], text, tmp_path, progress=False) is None
    first = read_all([contestant()], text, documents, tmp_path, say=said.append)
    assert read_all([contestant()], text, documents, tmp_path, say=said.append) == first
    assert len(said) == 1
    shutil.rmtree(tmp_path / "it")
    assert train_all([contestant(seed=1)], text, tmp_path, progress=False) is None
    again = read_all([contestant(seed=1)], text, documents, tmp_path, say=said.append)
    assert len(said) == 2
    assert len(again) == 3
    assert all(a["loss"] != b["loss"] for a, b in zip(first, again, strict=True))
    kept = Scores(tmp_path)
    of = {"contestant": "it", "reading": "windows of 16"}
    made = {"weights": again[0]["weights"], "text": again[0]["text"]}
    assert kept.missing(documents, of, made) == []
    assert kept.missing(documents, of, {**made, "text": "another"}) == documents
    assert kept.rows == []


def test_rows_of_before_that_do_not_say_what_they_come_of_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text(json.dumps({"contestant": "it", "document": 4, "loss": 1.0}) + "\n")
    assert Scores(tmp_path).missing([4, 5], {"contestant": "it"}, {"weights": "0", "text": "1"}) == [5]


def test_what_was_measured_and_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text("{")
    (tmp_path / "costs.json").write_text("[1")
    with pytest.raises(RunError, match=r"scores\.jsonl is damaged .*\n.*\n.*remove"):
        Scores(tmp_path)
    with pytest.raises(RunError, match=r"costs\.json is damaged"):
        contest.read_kept(tmp_path / "costs.json")


def test_a_text_that_was_built_anew_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    text = shards(tmp_path / "text")
    assert train_all([contestant()], text, tmp_path / "out", progress=False) is None
    assert changed_since(tmp_path / "out" / "it", text, None) == ""
    joining = entries([str(tmp_path / "out" / "it")])
    assert make_plan(joining, settings(budget=None)).shards.folder == text.folder
    shutil.rmtree(text.folder)
    other = shards(tmp_path / "text", documents=texts(40, seed=9))
    fresh = dataclasses.replace(contestant(seed=5), name="another")
    with pytest.raises(RunError, match=r"the text in .* has changed since .*it was begun"):
        train_all([fresh, contestant()], other, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "another").exists()
    with pytest.raises(RunError, match=r"has changed since it .* was trained on it"):
        make_plan(joining, settings(budget=None))


def test_a_file_of_ones_own_is_kept_with_the_run_and_a_change_in_it_is_no_silent_thing(
    text: Shards, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    own = contestant(base=recipes.get(f"{file}:small"))
    assert train_all([own], text, tmp_path / "out", progress=False) is None
    before = read_all([own], text, [int(text.rows("validation")[0])], tmp_path / "out")
    file.write_text(OWN + "\n# another day\n")
    with pytest.raises(RunError, match=r"mine\.py has changed since"):
        check_contestant(own, tmp_path / "out" / "it", text.vocab_size, text)
    kept = tmp_path / "out" / "it" / "mine.py"
    assert kept.read_text() == OWN
    (joined,) = entries([str(tmp_path / "out" / "it")])
    entrant = make_plan([joined], settings(budget=None, code=f"{kept}:small")).entrants[0]
    rows = contest.read_all(entrant.contestants, text, [int(text.rows("validation")[0])], tmp_path / "all")
    assert (
        rows[0]["tokens"] == before[0]["tokens"]
    )  # the version that the run keeps still loads, beside the changed one
    with pytest.warns(UserWarning, match=r"mine\.py has changed since"):
        run.Run(own.recipe, text, tmp_path / "out" / "it", resume=True).start(progress=False)


def test_the_same_recipe_at_sizes_of_its_own_has_the_same_seeds(text: Shards) -> None:
    named = [Entry("small", recipe(), parameters=8_000), Entry("large", recipe(), parameters=16_000)]
    plan = make_plan([*named, Entry("like", recipe(d_model=32))], settings(seeds=2, tolerance=0.02), data=text.folder)
    assert [[c.recipe.seed for c in entrant.contestants] for entrant in plan.entrants] == [[0, 1]] * 3
    sizes = [match.after for match in plan.matches]
    assert sizes == pytest.approx([8_000, 16_000, 8_000], rel=0.03)  # who has no size of its own is made like the first
