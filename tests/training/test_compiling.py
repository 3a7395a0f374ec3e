"""A compiler's file that a killed process left half written costs a step's repetition; other failures are one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch._inductor.exc import InductorError

from formers.errors import RunError
from formers.training import distributed, train
from formers.training.compiling import make_anew
from tests.training import small


def compiled_by(failures: list[Exception]):
    """In the place of `compile_module`: the first calls fail, the others run as they are."""

    def compile_module(module) -> None:
        def call(*arguments, **given):
            if failures:
                raise InductorError(failures.pop(0), None)
            return module._call_impl(*arguments, **given)

        module._compiled_call_impl = call

    return compile_module


def trained(out: Path, monkeypatch: pytest.MonkeyPatch, *failures: Exception, **changes):
    monkeypatch.setattr(distributed, "compile_module", compiled_by([*failures]))
    settings = small.settings(steps=3, compile="on", **changes)
    return train(small.gpt2(), settings, small.windows(), None, out=out, progress=False)


def test_a_file_that_was_cut_off_is_removed_and_the_step_made_again(tmp_path, monkeypatch):
    cut = tmp_path / "cached.main.so"
    cut.write_bytes(b"")
    mended = trained(tmp_path / "one", monkeypatch, ImportError(f"{cut}: file too short"))
    assert not cut.exists()
    assert "was cut off" in (tmp_path / "one" / "metrics.jsonl").read_text()
    assert small.digest(mended.model) == small.digest(trained(tmp_path / "two", monkeypatch).model)


def test_any_other_failure_of_the_compiler_is_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"torch\.compile failed: .*no such register") as raised:
        trained(tmp_path / "run", monkeypatch, ValueError("no such register"))
    assert "--train.compile off" in str(raised.value)


def test_what_is_not_the_compilers_stays_what_it_is():
    error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory") as raised:
        make_anew(error, small.gpt2())
    assert raised.value is error
