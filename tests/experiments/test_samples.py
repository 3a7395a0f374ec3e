"""Whether a text is Python, and the draws that a model has to beat."""

from __future__ import annotations

import pytest

import formers
from formers import data
from formers.experiments.samples import drawn, is_tokenizable, judge, whole_lines, written


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> data.Shards:
    folder = tmp_path_factory.mktemp("samples")
    (folder / "a.txt").write_text("".join(f"x{n} = ({n}, [{n}])\n" for n in range(400)))
    data.build([folder / "a.txt"], folder / "shards", tokenizer="byte", quiet=True)
    return data.open_shards(folder / "shards")


@pytest.mark.parametrize(
    "text", ["x = 1\n", "def f(x):\n    return x\n", "# a remark\n", "x = [\n  1,\n]\n", '"""a\nb"""\n', "if x:\n"]
)
def test_python_passes(text: str):
    assert is_tokenizable(text)


@pytest.mark.parametrize(
    "text", ["", "\n\n", "x = (\n", 'x = """a\n', "x = 'a\n", "if x:\n        y\n    z\n", "x = $\n", "x = ?\n"]
)
def test_what_is_no_python_does_not(text: str):
    assert not is_tokenizable(text)


def test_a_sample_is_judged_up_to_its_last_whole_line():
    assert whole_lines("x = 1\ny = (2") == "x = 1\n"
    assert whole_lines("x = 1") == ""
    assert judge(["x = 1\ny = (2", "x = 1", "x = (\n"]).good == 1


def test_the_example_shown_is_the_first_that_counts():
    assert judge(["x = (\n", "y = 2\nz", "w = 3\n"]).example == "y = 2\n"
    assert judge(["x = (\n", "y = ["]).example == "x = (\n"


def test_draws_have_the_length_and_the_letters_of_the_text(shards: data.Shards):
    found = drawn(shards, "x", count=5, tokens=300)
    assert [len(text) for text in found.texts] == [301] * 5
    assert set("".join(found.texts)) <= set("x0123456789 =(),[]\n")
    assert judge(found.texts) == found
    assert len(set(found.texts)) == 5


def test_samples_and_draws_are_the_same_for_the_same_seed(shards: data.Shards):
    model = formers.build("gpt2", preset="nano", vocab_size=shards.vocab_size)
    for make in (
        lambda seed: written(model, shards, "x", count=2, tokens=9, seed=seed),
        lambda seed: drawn(shards, "x", count=2, tokens=9, seed=seed),
    ):
        assert make(1) == make(1) != make(5)
