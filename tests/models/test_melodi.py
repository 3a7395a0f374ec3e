"""MELODI: the formulas of the authors' code written out a window after another, cuts, documents, and what a state takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.cli.main import main
from formers.errors import ConfigError, StateError
from formers.hub.differences import randomise
from formers.inspection.anatomy import cost
from formers.laws import certify
from formers.laws.law import LAWS
from formers.models.melodi import Melodi, MelodiConfig
from formers.parts import compression, windows
from formers.parts.positions import Positions
from formers.parts.trunk import set_recompute

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "d_model": 12,
    "num_layers": 2,
    "num_heads": 3,
    "d_ff": 20,
    "segment_length": 5,
    "summary_length": 2,
    "memory_layers": (1,),
    "memory_increment": 3,
    "memory_windows": 2,
    "num_buckets": 6,
    "max_distance": 9,
}
EXACT = 1e-9
"""The same sums in another order, float64."""
Patch = pytest.MonkeyPatch


def model(seed: int = 1, **changes: Any) -> Any:
    made = formers.build("melodi", **SIZES | changes).double().eval()
    randomise(made, seed)
    return made


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


# --- the slow twin ----------------------------------------------------------------------------------------------------


class Twin:
    """One document, a window after another, a layer after another, a head after another; weights by their names."""

    def __init__(self, made: Melodi) -> None:
        self.config, self.w = made.config, dict(made.named_parameters())

    def logits(self, ids: Tensor) -> Tensor:
        c = self.config
        short: list[Tensor | None] = [None] * c.num_layers
        queue: dict[int, list[Tensor]] = {i: [] for i in c.memory_layers}
        found = []
        for start in range(0, len(ids), c.segment_length):
            here = ids[start : start + c.segment_length]
            n = len(here)
            x = torch.cat([self.w["tokens.weight"][here] * c.d_model**0.5, self.w["trunk.summary"]])
            for i in range(c.num_layers):
                x = self.layer(i, x, n, short[i], queue.get(i, []))
                if n == c.segment_length:  # what is whole is compressed
                    short[i] = self.mixed(f"trunk.short.{i}", x, n)
                    if i in queue:
                        both = x.T @ self.w[f"trunk.long.{i}.linear.weight"].T + self.w[f"trunk.long.{i}.linear.bias"]
                        queue[i] = [*queue[i], both.T][-c.memory_windows :]
                    if i + 1 < c.num_layers:
                        x = torch.cat([x[:n], self.mixed(f"trunk.upward.{i}", x, n)])
            found.append(self.norm("trunk.final_norm", x[:n]) @ self.w["tokens.weight"].T)
        return torch.cat(found)

    def layer(self, i: int, x: Tensor, n: int, short: Tensor | None, queue: list[Tensor]) -> Tensor:
        block, norms = f"trunk.blocks.{i}", f"trunk.norms.{i}"
        before = x[:0] if short is None else short
        see = self.norm(f"{norms}.attention", torch.cat([before, x]))
        long = self.norm(f"{norms}.attention", torch.cat(queue)) if queue else x[:0]
        heads = [self.head(block, h, see, len(before), n, long) for h in range(self.config.num_heads)]
        x = x + torch.cat(heads, 1) @ self.w[f"{block}.attention.mix.linear.weight"].T
        inner = self.norm(f"{norms}.feed_forward", x) @ self.w[f"{block}.feed_forward.expand.weight"].T
        return x + inner.relu() @ self.w[f"{block}.feed_forward.contract.weight"].T

    def head(self, block: str, h: int, see: Tensor, before: int, n: int, long: Tensor) -> Tensor:
        """Of the tokens and the summary behind them; only where n tokens are a window does anybody ask for the latter."""
        c, d = self.config, self.config.d_head
        maps = self.w[f"{block}.attention.project.linear.weight"].view(3, c.num_heads, d, c.d_model)[:, h]
        scale = self.w[f"{block}.attention.turn.scale"][h].abs()
        table = self.w[f"{block}.attention.score.terms.0.table.weight"][:, h] * c.bias_scale
        q, k, v = self.unit(see @ maps[0].T) * scale, self.unit(see @ maps[1].T), see @ maps[2].T
        # short-term memory stands just before the window, the summary behind its last token
        tokens = torch.cat([torch.arange(n), torch.arange(c.summary_length) + c.segment_length])
        places = torch.cat([torch.arange(before) - c.summary_length, tokens])
        rows = []
        for at, place in enumerate(tokens):
            seen = [j for j in range(len(see)) if places[j] <= place]
            bias = torch.stack([table[self.bucket(int(place - places[j]))] for j in seen])
            near = (k[seen] @ q[before + at] + bias).softmax(0) @ v[seen]
            if len(long):
                far = (self.unit(long @ maps[1].T) @ q[before + at]).softmax(0) @ (long @ maps[2].T)
                gate = torch.sigmoid(self.w[f"{block}.attention.gate.logit"][h])
                near = gate * near + (1 - gate) * far
            rows.append(near)
        return torch.stack(rows)

    def mixed(self, name: str, x: Tensor, n: int) -> Tensor:
        both = torch.cat([self.norm(f"{name}.norms.0", x[:n]), self.norm(f"{name}.norms.1", x[n:])])
        return x[n:] + self.w[f"{name}.linear.weight"] @ both + self.w[f"{name}.linear.bias"][:, None]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.config.eps).sqrt() * self.w[f"{name}.weight"]

    def unit(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()

    def bucket(self, distance: int) -> int:
        exact = self.config.num_buckets // 2
        if distance < exact:
            return distance
        further = math.log(distance / exact) / math.log(self.config.max_distance / exact)
        return min(self.config.num_buckets - 1, exact + int(further * (self.config.num_buckets - exact)))


def gap_to_the_twin(made: Any, length: int = 23) -> float:
    """Four windows and a part of one: the queue of two windows has moved on."""
    ids = text(1, length)
    weigh = torch.linspace(-1, 1, length * 31, dtype=torch.float64).view(length, 31)
    found, wanted = made(ids).logits[0], Twin(made).logits(ids[0])
    learns = list(made.parameters())
    gradients = (torch.autograd.grad((o * weigh).sum(), learns, materialize_grads=True) for o in (found, wanted))
    pairs = [(found, wanted), *zip(*gradients, strict=True)]
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize("changes", [{}, {"memory_layers": ()}, {"summary_length": 6, "memory_layers": (0,)}])
def test_it_is_its_slow_twin_forward_and_backward(changes: dict[str, Any]) -> None:
    assert gap_to_the_twin(model(**changes)) <= EXACT


def the_queue_forgets_the_newest(patch: Patch) -> None:
    def queue(self: windows.WindowNode, p: windows.InWindow, k: Tensor, v: Tensor) -> windows.WindowNode:
        room = self.long_keys.shape[2]
        keys, values = torch.cat([k, self.long_keys], 2)[:, :, :room], torch.cat([v, self.long_values], 2)[:, :, :room]
        return replace(self, long_keys=keys.flip(2), long_values=values.flip(2))

    patch.setattr(windows.WindowNode, "queue", queue)


def no_gradient_crosses_windows(patch: Patch) -> None:
    close = windows.WindowNode.close
    patch.setattr(windows.WindowNode, "close", lambda self, p, k, v: close(self, p, k.detach(), v.detach()))


def the_summary_sees_the_window_before_its_layer(patch: Patch) -> None:
    """Mixers are given what a layer was given, not what it gave."""
    compress = compression.Compressing.compress

    def earlier(self: Any, i: int, x: Tensor, p: windows.InWindow, node: Any) -> Any:
        y, node = compress(self, i, x, p, replace(node, outputs=node.outputs * 0))
        return y, node

    patch.setattr(windows.WindowNode, "gave", lambda self, x, p: self)
    patch.setattr(compression.Compressing, "compress", earlier)


@pytest.mark.parametrize(
    "defect",
    [the_queue_forgets_the_newest, no_gradient_crosses_windows, the_summary_sees_the_window_before_its_layer],
    ids=lambda defect: defect.__name__,
)
def test_the_twin_catches_it(defect: Callable[[Patch], None], monkeypatch: Patch) -> None:
    defect(monkeypatch)
    assert gap_to_the_twin(model()) > 1e-4


# --- cuts and documents -----------------------------------------------------------------------------------------------


def in_calls(
    made: Any, ids: Tensor, *lengths: int, positions: Positions | None = None, dynamic: bool = False
) -> Tensor:
    """Logits of `ids` read in calls of these lengths, the last of them repeated to the end."""
    state, found, start = made.init_state(len(ids), ids.shape[1]), [], 0
    state = state.dynamic() if dynamic else state
    while start < ids.shape[1]:
        stop = min(ids.shape[1], start + lengths[min(len(found), len(lengths) - 1)])
        out = made(ids[:, start:stop], positions=positions and positions.slice(start, stop), state=state)
        found.append(out.logits)
        state, start = out.state.commit(), stop
    return torch.cat(found, 1)


def test_any_cut_into_calls_gives_the_same_logits() -> None:
    made, ids = model(), text(2, 18)
    whole = made(ids).logits
    assert (in_calls(made, ids, 7) - whole).abs().max() <= EXACT
    with torch.no_grad():
        for lengths in ((1,), (7,), (5,), (13, 3)):
            assert (in_calls(made, ids, *lengths) - whole).abs().max() <= EXACT, lengths
        assert (in_calls(made, ids, 7, dynamic=True) - whole).abs().max() <= EXACT


@torch.no_grad()
def test_ragged_rows_and_documents_in_any_cut() -> None:
    made, ids = model(), text(3, 23)
    index = torch.tensor(
        [
            [-1] * 4 + [0, 1, 2, -1, -1, *range(3, 17)],
            [*range(12), *range(8), -1, -1, -1],
            [*range(6), *range(3), *range(14)],
        ]
    )
    document = torch.tensor([[4] * 23, [1] * 12 + [2] * 11, [7] * 6 + [8] * 3 + [9] * 14])
    positions = Positions(index, document)
    pieces = [(0, [4, 5, 6, *range(9, 23)]), (1, [*range(12)]), (1, [*range(12, 20)])]
    pieces += [(2, [*range(6)]), (2, [6, 7, 8]), (2, [*range(9, 23)])]
    alone = [made(ids[row, places][None]).logits[0] for row, places in pieces]
    ways = [made(ids, positions=positions).logits]
    ways += [in_calls(made, ids, *lengths, positions=positions) for lengths in ((23,), (1,), (6, 2, 11))]
    for logits in ways:
        for (row, places), wanted in zip(pieces, alone, strict=True):
            assert (logits[row, places] - wanted).abs().max() <= EXACT


@torch.no_grad()
def test_streams_that_promise_where_they_stand_are_read_alike() -> None:
    """Rows begin where windows do; one ends inside a window, stays away for a call, and goes on without the promise."""
    made, ids = model(), text(2, 27)
    index = torch.arange(10).expand(2, -1).clone()
    gone = index.clone()
    gone[1, 8:] = -1
    document, state = torch.zeros_like(index), made.init_state(2, 27).dynamic()
    away = torch.stack([index[0] + 10, torch.full((10,), -1)])
    for columns, place in ((ids[:, :10], gone), (ids[:, 10:20], away)):
        out = made(columns, positions=Positions(place, document, aligned=5), state=state)
        state = out.state.commit()
    assert (out.logits[0] - made(ids[:1]).logits[0, 10:20]).abs().max() <= EXACT
    follow = torch.cat([ids[:1, 20:], ids[1:, 8:15]])
    logits = made(follow, state=state).logits
    assert (logits[0] - made(ids[:1]).logits[0, 20:]).abs().max() <= EXACT
    assert (logits[1] - made(ids[1:]).logits[0, 8:15]).abs().max() <= EXACT


def windows_count_from_the_call(patch: Patch) -> None:
    by_segment = compression.by_segment

    def counted(positions: Positions, size: int) -> Any:
        return by_segment(replace(positions, start=0) if positions.start else positions, size)

    patch.setattr(compression, "by_segment", counted)


@torch.no_grad()
def test_windows_that_count_from_the_call_are_caught_by_any_cut(monkeypatch: Patch) -> None:
    made, ids = model(), text(2, 23)
    whole = made(ids).logits
    windows_count_from_the_call(monkeypatch)
    assert (made(ids).logits - whole).abs().max() == 0
    assert (in_calls(made, ids, 7) - whole).abs().max() > 1e-4


def memories_survive_their_document(patch: Patch) -> None:
    moved = windows.Rows._moved
    patch.setattr(windows.Rows, "_moved", lambda self, *place: replace(moved(self, *place), closed=self.closed))


def a_reset_row_keeps_its_memories(patch: Patch) -> None:
    reset = windows.Rows.reset
    patch.setattr(windows.Rows, "reset", lambda self, rows: replace(reset(self, rows), closed=self.closed))


DEFECTS: dict[Callable[[Patch], None], str] = {
    memories_survive_their_document: "documents stay apart",
    a_reset_row_keeps_its_memories: "a row that is reset begins anew",
}


SHORT: dict[str, Any] = {"segment_length": 3, "memory_layers": (0,), "d_model": 6, "num_heads": 1, "d_ff": 7}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_law_catches_it(defect: Callable[[Patch], None], monkeypatch: Patch) -> None:
    defect(monkeypatch)
    sizes: dict[str, Any] = SIZES | SHORT | {"num_layers": 1}
    made = formers.build("melodi", **sizes)
    assert not certify(made, laws=[DEFECTS[defect]], length=11).ok


def test_the_laws_hold() -> None:
    """But for those of cuts and recomputation, which are tried above and below, and of two on the future the dearer."""
    elsewhere = {"step by step equals whole", "padding changes nothing", "recomputation gives the same gradients"}
    tried = set(LAWS) - elsewhere - {"causal by gradient"}
    report = certify(formers.build("melodi", **SIZES | SHORT), laws=tried, fresh=True, length=7)
    assert report.ok, report.failed
    silent = {v.name for v in report.laws.values() if v.status != "pass"}
    assert silent == {"the tokenizer fits", "segments equal whole", "no weight on the future"}


def test_recomputation_gives_the_same_gradients_bit_for_bit() -> None:
    made, ids, found = model(dropout=0.3).train(), text(2, 18), []
    for on in (False, True):
        set_recompute(made, on)
        torch.manual_seed(5)
        found.append(torch.autograd.grad(made(ids).logits.square().mean(), list(made.parameters())))
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


# --- the state --------------------------------------------------------------------------------------------------------


def bytes_of(config: MelodiConfig, width: int) -> int:
    """Of one row: keys and values of S + W places and outputs of W in each layer, M keys and values in layers with a memory,
    then which tokens of the window were read, and four numbers of 8 bytes."""
    s, w, m = config.summary_length, config.segment_length, config.memory_increment * config.memory_windows
    numbers = config.num_layers * (2 * (s + w) + w) + 2 * m * len(config.memory_layers)
    return numbers * config.d_model * width + w + 4 * 8


@torch.no_grad()
def test_a_state_is_of_one_size_however_long_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    made = model()
    wanted = 2 * bytes_of(made.config, 8)
    for length in (11, 61):
        state = made.init_state(2, length)
        assert state.nbytes == wanted
        state = made(text(2, length), state=state).state.commit()
        assert state.nbytes == wanted
        assert sum(t.untyped_storage().nbytes() for t in state.tensors().values()) == wanted  # and nothing behind it
    nano = formers.build("melodi", preset="nano")
    price = cost(nano)
    assert (price.state_per_token, price.state_bytes, price.state_bound) == (0, *[bytes_of(nano.config, 4)] * 2)
    assert main(["show", "melodi.nano"]) == 0
    assert f"at most {bytes_of(nano.config, 4) / 1e3:.0f} kB" in " ".join(capsys.readouterr().out.split())


@torch.no_grad()
def test_a_prompt_is_taken_back_as_far_as_its_window_is_open() -> None:
    made, ids = model(), text(1, 13)
    state = made(ids, state=made.init_state(1, 20)).state.commit()
    with pytest.raises(StateError, match="before token 9 is compressed"):
        state.keep(9)
    assert (made(ids[:, 11:], state=state.keep(11)).logits - made(ids).logits[:, 11:]).abs().max() <= EXACT


def test_saved_and_loaded_it_is_the_same_model(tmp_path: Path) -> None:
    made = model()
    again = formers.load(formers.save(made, tmp_path / "melodi"))
    assert again.config == made.config
    assert torch.equal(again(text(1, 20)).logits, made(text(1, 20)).logits)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory_windows is 0.*memory_layers are \(3,\)"):
        MelodiConfig(num_layers=3, memory_layers=(3,), memory_windows=0)
