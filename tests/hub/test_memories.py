"""Memories on disk: whole or not at all, one writer, and nobody looks into the memory of another model."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import nn

from formers.errors import FormersError, RunError, StateError, TargetError
from formers.hub.memories import (
    MANIFEST,
    TENSORS,
    fingerprint,
    load_memories,
    save_memories,
    temporary_folder,
    writing,
)
from formers.parts.forgetting import LeastUsed, Policy
from formers.parts.masks import EarlierSegment
from formers.parts.memory import Memory, recall
from formers.parts.positions import Positions
from tests.parts.test_memory_histories import POLICIES, history

MODEL = "a" * 64


def _memory(slots: int = 20, d: int = 5, storage: torch.dtype = torch.float32, **kind: Policy) -> Memory:
    memory = Memory.empty(2, 3, slots, d, 4, storage=storage, **kind)
    return memory.add(torch.randn(2, 3, 31, d), torch.randn(2, 3, 31, 4), Positions.whole(31))


def _same(a: Memory, b: Memory) -> bool:
    return all(torch.equal(tensor, b.tensors()[name]) for name, tensor in a.tensors().items())


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_saved_is_loaded_and_found(tmp_path: Path, storage: torch.dtype, mapped: bool) -> None:
    memory = _memory(storage=storage, policy=LeastUsed(grace=3))
    save_memories(tmp_path / "m", {"layer 4": memory}, model=MODEL)
    loaded = load_memories(tmp_path / "m", model=MODEL, like={"layer 4": memory}, mapped=mapped)["layer 4"]
    assert _same(loaded, memory)
    assert (loaded.policy, loaded.read_only) == (LeastUsed(grace=3), mapped)
    q, k, v = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 4)
    call = {"mask": EarlierSegment(31), "most": 6}
    a, b = (recall(m, q, k, v, Positions.offset(31, 4), **call)[0] for m in (memory, loaded))
    assert torch.equal(a.keys, b.keys)
    assert torch.equal(a.index, b.index)


def test_a_loaded_memory_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    memory = _memory()
    save_memories(tmp_path / "m", {"a": memory, "b": _memory(7)}, model=MODEL)
    loaded = load_memories(tmp_path / "m")["a"]
    more = torch.randn(2, 3, 6, 5), torch.randn(2, 3, 6, 4), Positions.offset(31, 6)
    assert _same(memory.add(*more), loaded.add(*more))


@hypothesis.given(data=st.data(), policy=st.sampled_from(list(POLICIES.values())))
def test_random_histories_through_files_agree_with_lists(data: st.DataObject, policy: Policy) -> None:
    with temporary_folder() as folder:

        def through(memory: Memory) -> Memory:
            save_memories(folder / "m", {"a": memory}, model=MODEL, replace=True)
            return load_memories(folder / "m", like={"a": memory})["a"]

        history(policy, data, through)


def test_a_mapped_memory_is_not_read_into_memory_and_not_written(tmp_path: Path) -> None:
    """40 MB of keys are opened and one entry is read: the process grows by far less."""
    slots = 80_000
    memory = Memory.empty(1, 1, slots, 128, 1)
    memory = memory.add(torch.ones(1, 1, slots, 128), torch.ones(1, 1, slots, 1), Positions.whole(slots))
    save_memories(tmp_path / "m", {"a": memory}, model=MODEL)
    del memory
    script = f"""
        from pathlib import Path
        import psutil, torch
        from formers.hub.memories import load_memories
        before = psutil.Process().memory_info()
        memory = load_memories({str(tmp_path / "m")!r}, mapped=True, verify=False)["a"]
        assert float(memory.keys.gather(torch.tensor([17])).sum()) == 128
        after = psutil.Process().memory_info()
        print(after.rss - before.rss)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert int(run.stdout or "1000000000") < 20e6, run.stderr
    with pytest.raises(StateError, match="read-only"):
        load_memories(tmp_path / "m", mapped=True)["a"].remove(0, numbers=[1])


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_memory_of_another_model_is_refused(tmp_path: Path) -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    save_memories(tmp_path / "m", {"a": _memory()}, model=fingerprint(a))
    load_memories(tmp_path / "m", model=fingerprint(a))
    with pytest.raises(StateError, match="memorise the text again"):
        load_memories(tmp_path / "m", model=fingerprint(b))
    with torch.no_grad():
        a.weight[0, 0] += 1e-6
    with pytest.raises(StateError, match="was memorised by a model"):
        load_memories(tmp_path / "m", model=fingerprint(a))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: _memory(d=6), "d_key 5, not 6"),
        (lambda: _memory(storage=torch.bfloat16), "dtype float32, not bfloat16"),
        (lambda: Memory.empty(2, 1, 20, 5, 4), "heads 3, not 1"),
    ],
)
def test_other_dimensions_and_types_are_refused(tmp_path: Path, other, says: str) -> None:
    save_memories(tmp_path / "m", {"layer 4": _memory()}, model=MODEL)
    with pytest.raises(StateError, match=says):
        load_memories(tmp_path / "m", like={"layer 4": other()})


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    save_memories(tmp_path / "m", {"layer 4": _memory()}, model=MODEL)
    with pytest.raises(StateError, match="no memory 'layer 5' did you mean 'layer 4'"):
        load_memories(tmp_path / "m", like={"layer 5": _memory()})


def _cut(folder: Path) -> None:
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: len(data) // 2])


def _flip(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-3] ^= 1
    (folder / TENSORS).write_bytes(bytes(data))


def _lose(folder: Path) -> None:
    (folder / TENSORS).unlink()


def _break(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-9])


def _age(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps(json.loads((folder / MANIFEST).read_text()) | {"version": 99}))


@pytest.mark.parametrize("damage", [_cut, _flip, _lose, _break, _age])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_damaged_folder_is_one_clear_error(tmp_path: Path, damage, mapped: bool) -> None:
    save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL)
    damage(tmp_path / "m")
    with pytest.raises(RunError) as error:
        load_memories(tmp_path / "m", mapped=mapped)
    assert error.value.do


def test_a_folder_that_is_no_memory_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(TargetError, match="no memory folder"):
        load_memories(tmp_path / "notes")
    with pytest.raises(RunError, match="something else"):
        save_memories(tmp_path / "notes", {"a": _memory()}, model=MODEL, replace=True)
    save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL)
    with pytest.raises(RunError, match="holds files already"):
        save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL)


# --- processes --------------------------------------------------------------------------------------------------------

HOLDS = """
    import sys
    from formers.hub.memories import writing
    with writing({folder!r}):
        print("holding", flush=True)
        sys.stdin.read()
"""


def test_a_second_writer_is_refused_readers_are_not_and_the_dead_hold_nothing(tmp_path: Path) -> None:
    memory, folder = _memory(), tmp_path / "m"
    save_memories(folder, {"a": memory}, model=MODEL)
    script = textwrap.dedent(HOLDS).format(folder=str(folder))
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(StateError, match="another process is writing"):
            save_memories(folder, {"a": _memory()}, model=MODEL, replace=True)
        assert _same(load_memories(folder)["a"], memory)
        holder.kill()
    save_memories(folder, {"a": memory}, model=MODEL, replace=True)


def test_a_process_may_save_while_it_holds_the_folder(tmp_path: Path) -> None:
    with writing(tmp_path / "m"):
        save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL)
        save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL, replace=True)


@pytest.mark.parametrize("point", ["save_file", "write_json"])
def test_a_crash_while_saving_leaves_the_old_memory_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    memory, folder = _memory(), tmp_path / "m"
    save_memories(folder, {"a": memory}, model=MODEL)
    with monkeypatch.context() as patch:
        patch.setattr(f"formers.hub.memories.{point}", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_memories(folder, {"a": _memory()}, model=MODEL, replace=True)
    assert _same(load_memories(folder)["a"], memory)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("m", ".m.lock")] == []


@pytest.mark.parametrize("error", [None, FormersError, KeyboardInterrupt])
def test_a_temporary_folder_is_gone_however_the_block_ends(error: type[BaseException] | None) -> None:
    seen = []

    def use() -> None:
        with temporary_folder() as folder:
            seen.append(folder)
            save_memories(folder / "m", {"a": _memory()}, model=MODEL)
            if error is not None:
                raise error("x")

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert not seen[0].exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "float99"}, "lacks the dtype of a"),
        ({"dtype": "nn"}, "lacks the dtype of a"),
        ({"heads": None}, "lacks the heads of a"),
        ({"policy": {}}, "forgets by None"),
        ({"policy": {"kind": "Oldest", "grace": 3}}, "forgets by Oldest in no way that there is"),
        ({"policy": {"kind": "LeastUsed", "grace": "long"}}, "grace is 'long', wanted int"),
        ({"slots": -4}, "lacks the slots of a"),
        ({"heads": 2}, "holds other keys, values than"),
        ({"slots": 21}, "holds other"),
        ({"dtype": "int8"}, "is damaged"),
    ],
)
def test_a_manifest_that_says_something_else_than_the_file_is_one_clear_error(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL)
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text())
    manifest["memories"]["a"] |= change
    (tmp_path / "m" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=says):
        load_memories(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": 7}, "lacks the model"),
        ({TENSORS: {"bytes": "many", "sha256": MODEL}}, f"lacks the bytes of {TENSORS}"),
        ({TENSORS: {"bytes": 9, "sha256": None}}, f"lacks the sha256 of {TENSORS}"),
        ({"memories": ["a"]}, "lacks what memories there are"),
    ],
)
def test_a_manifest_with_something_else_where_model_or_file_should_stand_is_one_clear_error(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    save_memories(tmp_path / "m", {"a": _memory()}, model=MODEL)
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text()) | change
    (tmp_path / "m" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=says):
        load_memories(tmp_path / "m", model=MODEL)
