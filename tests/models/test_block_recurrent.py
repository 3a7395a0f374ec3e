"""The Block-Recurrent Transformer: its slow twin, a loop over blocks and heads, and what a state carries (2203.07852)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError, StateError
from formers.laws import certify
from formers.parts import block_recurrence
from formers.parts.block_recurrence import Course, Run
from formers.parts.positions import Positions
from formers.parts.state_cell import StateCell
from formers.parts.terms import t5_bucket
from formers.parts.trunk import set_recompute
from tests.parity.harness import random_ids, randomise

EXACT = 1e-9
"""Other shapes, so other orders of summation, in float64."""

SIZES: dict[str, Any] = {
    "vocab_size": 43, "d_model": 22, "num_layers": 3, "num_heads": 2, "d_ff": 31, "block_length": 5, "num_states": 3,
    "recurrent_layers": (1,), "num_buckets": 6, "max_distance": 9,
}  # fmt: skip
BLOCK, TEXT = SIZES["block_length"], 23

VARIANTS: dict[str, dict[str, Any]] = {
    "fixed skip": {},
    "lstm skip": {"gate": "lstm"},
    "fixed dual": {"structure": "dual"},
    "lstm single": {"gate": "lstm", "structure": "single"},
    "meliad": {"own_token": False, "previous_block": True},
    "two layers": {"recurrent_layers": (0, 2), "num_states": 7},
}


def model(**changes: Any) -> Any:
    made = formers.build("block_recurrent", **SIZES | changes).double().eval()
    randomise(made, 1)
    return made


def text(batch: int = 2, length: int = TEXT, seed: int = 0) -> Tensor:
    return random_ids(batch, length, SIZES["vocab_size"], seed=seed)


# --- the slow twin ------------------------------------------------------------------------------------------------------


class Twin:
    """Logits [seq, vocab] of one row from the parameters by name: a loop over layers, blocks, tokens or states, and heads."""

    def __init__(self, made: Any) -> None:
        self.config, self.w = made.config, dict(made.named_parameters())

    def logits(self, ids: Tensor) -> Tensor:
        w, c = self.w, self.config
        x = w["tokens.weight"][ids] * c.d_model**0.5
        for layer in range(c.num_layers):
            here = f"trunk.norms.{layer}."
            x = x + self.attention(layer, self.norm(x, here + "attention.weight"))
            y = self.norm(x, here + "feed_forward.weight")
            maps = f"trunk.blocks.{layer}.feed_forward."
            x = x + (y @ w[maps + "expand.weight"].T).relu() @ w[maps + "contract.weight"].T
        return self.norm(x, "trunk.final_norm.weight") @ w["tokens.weight"].T

    def norm(self, x: Tensor, gain: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.config.eps).sqrt() * self.w[gain]

    def attention(self, layer: int, x: Tensor) -> Tensor:
        name = f"trunk.blocks.{layer}.attention."
        q, k, v = self.heads(x, name + "project.linear.weight", 3)
        scale = self.w[name + "turn.scale"].abs()
        near = torch.stack([self.near(name, i, q[i], k, v, scale) for i in range(len(x))])
        if layer not in self.config.recurrent_layers:
            return near.flatten(1) @ self.w[name + "mix.linear.weight"].T
        (asked,) = self.heads(x, name + "ask.linear.weight", 1)
        told, states = [], self.w[name + "cell.first"]
        for start in range(0, len(x), self.config.block_length):
            stop = start + self.config.block_length
            k_s, v_s, q_s, q_tokens = self.look(name + "cell.", states)
            turn_states = self.w[name + "turn_states.scale"].abs()
            told += [self.weigh(unit(q) * turn_states[:, None], k_s, v_s) for q in asked[start:stop]]
            since = max(0, start - self.config.block_length) if self.config.previous_block else start
            among = torch.stack([self.weigh(q, k_s, v_s) for q in q_s])
            read = torch.stack([self.weigh(q, unit(k[since:stop]), v[since:stop]) for q in q_tokens])
            states = self.update(name + "cell.update.", states, torch.cat([among, read], 1).flatten(1))
        return torch.cat([near, torch.stack(told)], 1).flatten(1) @ self.w[name + "mix.linear.weight"].T

    def heads(self, x: Tensor, weight: str, kinds: int) -> tuple[Tensor, ...]:
        """[rows, heads, d_head] of each kind."""
        return (x @ self.w[weight].T).view(len(x), kinds, self.config.num_heads, -1).unbind(1)

    def near(self, name: str, i: int, q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        """What token i sees of itself and of the tokens before it."""
        keys = range(max(0, i - self.config.block_length), i + self.config.own_token)
        if not keys:
            return torch.zeros_like(q)
        bucket = t5_bucket(torch.tensor([j - i for j in keys]), num_buckets=6, max_distance=9, bidirectional=False)
        bias = self.w[name + "score.terms.0.table.weight"][bucket] * self.config.bias_scale
        return self.weigh(unit(q) * scale[:, None], unit(k[keys]), v[keys], bias.T)

    def weigh(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """softmax(q k^T + bias) v of one query [heads, d_head]."""
        scores = torch.einsum("hd,khd->hk", q, k)
        return torch.einsum("hk,khd->hd", (scores if bias is None else scores + bias).softmax(-1), v)

    def look(self, name: str, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.norm(states, name + "norm.weight") + self.w[name + "ids"]
        q, k, v = self.heads(x, name + "project.linear.weight", 3)
        (q_tokens,) = self.heads(x, name + "ask.linear.weight", 1)
        among, read = (self.w[f"{name}{turn}.scale"].abs()[:, None] for turn in ("turn", "turn_tokens"))
        return unit(k), v, unit(q) * among, unit(q_tokens) * read

    def update(self, name: str, c: Tensor, h: Tensor) -> Tensor:
        expand = self.w.get(name + "expand.weight")
        if self.config.structure == "skip":
            return self.gate(name + "gate.", c, h)
        assert expand is not None
        if self.config.structure == "single":
            return self.gate(name + "gate.", c, (h @ expand.T).relu())
        between = self.gate(name + "gate.", c, h)
        return self.gate(name + "second.", between, (self.norm(between, name + "norm.weight") @ expand.T).relu())

    def gate(self, name: str, c: Tensor, h: Tensor) -> Tensor:
        w, z = self.w, h @ self.w[name + "value.weight"].T
        if self.config.gate == "fixed":
            g = torch.sigmoid(w[name + "bias"])
            return g * c + (1 - g) * z
        forget, write = (h @ w[f"{name}{kind}.weight"].T + w[f"{name}{kind}.bias"] for kind in ("forget", "write"))
        return torch.sigmoid(forget + 1) * c + torch.sigmoid(write - 1) * z.tanh()


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def gap_to_the_twin(made: Any, ids: Tensor) -> float:
    """The largest difference of logits and of every parameter's gradient."""
    weigh = torch.linspace(-1, 1, len(ids) * 43, dtype=torch.float64).view(len(ids), 43)
    found, wanted = made(ids[None]).logits[0], Twin(made).logits(ids)
    gradients = (_gradients((out * weigh).sum(), made) for out in (found, wanted))
    pairs = [(found, wanted), *zip(*gradients, strict=True)]
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


def _gradients(loss: Tensor, made: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, list(made.parameters()), materialize_grads=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_its_slow_twin_forward_and_backward(variant: str) -> None:
    assert gap_to_the_twin(model(**VARIANTS[variant]), text()[0]) < EXACT


def the_cell_sees_the_block_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(block_recurrence.RecurrentAttention, "_of_block", lambda self, n, slots, fresh, seen: seen)
    patch.setattr(
        "formers.models.block_recurrent.Segments", lambda size, before: formers.parts.masks.Segments(size, size)
    )


def states_lose_their_ids(patch: pytest.MonkeyPatch) -> None:
    look = StateCell.look
    patch.setattr(StateCell, "look", lambda self, c: look(self, c - self.ids))


def no_gradient_goes_through_the_states(patch: pytest.MonkeyPatch) -> None:
    behind = Course.behind
    patch.setattr(Course, "behind", lambda self, run, states: behind(self, run, states.detach()))


@pytest.mark.parametrize(
    "defect",
    [the_cell_sees_the_block_before, states_lose_their_ids, no_gradient_goes_through_the_states],
    ids=lambda defect: defect.__name__,
)
def test_what_is_broken_is_not_the_twin(defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: Any) -> None:
    defect(monkeypatch)
    assert gap_to_the_twin(model(), text()[0]) > 1e-4


# --- calls, documents, states -------------------------------------------------------------------------------------------


def read(made: Any, ids: Tensor, cuts: list[int], state: Any = None) -> tuple[Tensor, Any]:
    """Logits of `ids` in calls of these lengths, and the state after them."""
    state, found = state or made.init_state(len(ids), ids.shape[1]), []
    for piece in ids.split(cuts, 1):
        out = made(piece, state=state)
        state = out.state.commit()
        found.append(out.logits.detach())
    return torch.cat(found, 1), state


CUTS = {"ones": [1] * TEXT, "sevens": [7, 7, 7, 2], "primes": [11, 5, 2, 5], "blocks": [5] * 4 + [3]}


@pytest.mark.parametrize("cut", CUTS)
def test_what_a_token_is_given_does_not_depend_on_how_a_text_was_cut(cut: str) -> None:
    """In evaluation and with gradients, where the ring goes other ways; with and without a promise of where rows stand."""
    for variant in ("fixed skip", "meliad") if cut != "ones" else ("fixed skip",):
        made, ids = model(**VARIANTS[variant]), text()
        whole = made(ids).logits.detach()
        with torch.no_grad():
            assert (read(made, ids, CUTS[cut])[0] - whole).abs().max() < EXACT
        if cut != "ones":
            told_nothing = made.init_state(2, TEXT).dynamic()
            assert (read(made, ids, CUTS[cut], told_nothing)[0] - whole).abs().max() < EXACT


def test_streams_that_promise_where_they_stand_are_read_alike() -> None:
    for before in (False, True):
        made, ids = model(previous_block=before), text(2, 30)
        wanted, state = made(ids).logits, made.init_state(2, 30).dynamic()
        for start, stop in ((0, 10), (10, 15), (15, 30)):
            index = torch.arange(start, stop).expand(2, -1)
            at = Positions(index, torch.zeros_like(index), aligned=5)
            out = made(ids[:, start:stop], positions=at, state=state)
            assert (out.logits - wanted[:, start:stop]).abs().max() < EXACT
            state = out.state.commit()


def test_documents_and_padding_in_a_row_change_nothing() -> None:
    """Two documents and padding around each, cut anywhere: each reads as it does alone. The first ends within a block."""
    made, one, two = model(), text(1, 12, seed=1), text(1, 6, seed=2)
    pad = torch.zeros(1, 2, dtype=torch.long)
    ids = torch.cat([pad, one, pad, two, pad], 1)
    index = torch.cat([pad - 1, torch.arange(12)[None], pad - 1, torch.arange(6)[None], pad - 1], 1)
    document = torch.cat([torch.full((1, 14), 4), torch.full((1, 10), 9)], 1)
    for cuts, gradients in (([24], True), ([1, 7, 3, 2, 1, 9, 1], True), ([3, 1, 1, 1, 8, 4, 1, 1, 1, 3], False)):
        state, found, start = made.init_state(1, 24), [], 0
        for length in cuts:
            here = slice(start, start + length)
            with torch.set_grad_enabled(gradients):
                out = made(ids[:, here], positions=Positions(index[:, here], document[:, here]), state=state)
            state, start = out.state.commit(), start + length
            found.append(out.logits)
        logits = torch.cat(found, 1)
        assert (logits[:, 2:14] - made(one).logits).abs().max() < EXACT
        assert (logits[:, 16:22] - made(two).logits).abs().max() < EXACT


def test_while_nothing_learns_state_vectors_are_mapped_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    look, looks = StateCell.look, []
    monkeypatch.setattr(StateCell, "look", lambda self, c: looks.append(len(c)) or look(self, c))
    made, ids = model(), text(2, 11)
    with torch.no_grad():
        _, state = read(made, ids, [1] * 11)
        assert len(looks) == 3
        rows = torch.tensor([False, True])
        again = made(ids[:, :1], state=state.reset(rows)).logits  # one row goes on within its block, one begins
        assert (again[0, 0] - made(torch.cat([ids, ids[:, :1]], 1)).logits[0, 11]).abs().max() < EXACT
        assert (again[1] - made(ids[:, :1]).logits[1]).abs().max() < EXACT


def test_state_vectors_reach_where_no_window_does() -> None:
    """In a stack of three layers windows hand a token on 15 further; the state vectors hand it to all that follow its block."""
    ids = text(1, 41)
    other = ids.clone()
    other[0, 1] = (other[0, 1] + 1) % 43
    for layers, furthest in (((), 1 + 15), ((1,), 40)):
        made = model(recurrent_layers=layers)
        moved = (made(ids).logits - made(other).logits)[0].abs().amax(-1) > EXACT
        assert int(moved.nonzero().max()) == furthest


def test_gradients_go_through_state_vectors_within_a_call_and_end_where_it_began() -> None:
    made, ids = model(num_layers=1, recurrent_layers=(0,)), text(1, 25)
    embedded: list[Tensor] = []
    made.tokens.register_forward_hook(lambda m, args, out: embedded.append(out.requires_grad_()))
    (whole,) = torch.autograd.grad(made(ids).logits[:, 24].square().sum(), embedded)
    assert whole[0, :5].abs().amax(-1).gt(1e-9).all()  # from the first block, which the window does not reach
    embedded.clear()
    state = made(ids[:, :10], state=made.init_state(1, 25)).state.commit()
    assert not any(t.requires_grad for t in state.tensors().values())
    first, rest = embedded[0], made(ids[:, 10:], state=state).logits[:, 14]
    before, after = torch.autograd.grad(rest.square().sum(), [first, embedded[1]], allow_unused=True)
    assert before is None
    assert after[0, :5].abs().amax(-1).gt(1e-9).all()


def test_a_state_is_of_one_size_however_long_the_text() -> None:
    made = model()
    sizes = [made.init_state(2, length).nbytes for length in (2 * BLOCK, 1_000_000)]
    assert sizes[0] == sizes[1]
    after = [read(made, text(2, length), [length])[1].nbytes for length in (13, 101)]
    assert after == [sizes[0]] * 2


def test_a_row_that_is_reset_begins_with_learned_state_vectors() -> None:
    made, ids, more = model(), text(2, 13), text(2, 12, seed=3)
    _, state = read(made, ids, [13], made.init_state(2, 40))
    logits = made(more, state=state.reset(torch.tensor([True, False]))).logits
    assert (logits[0] - made(more).logits[0]).abs().max() < EXACT
    assert (logits[1] - made(torch.cat([ids, more], 1)).logits[1, 13:]).abs().max() < EXACT


def test_a_state_is_kept_within_the_block_that_it_is_in_and_no_further_back() -> None:
    made, ids = model(), text(1, 8)
    wanted = made(ids).logits
    _, state = read(made, ids, [8], made.init_state(1, 8))
    state = state.keep(6)
    assert (made(ids[:, 6:], state=state).logits - wanted[:, 6:]).abs().max() < EXACT
    assert (made(ids[:, 3:], state=state.keep(3)).logits - wanted[:, 3:]).abs().max() < EXACT
    shorter = model(block_length=3, num_layers=1, recurrent_layers=(0,))
    with pytest.raises(StateError, match="state vectors behind 6 tokens do not know what they were behind 4"):
        read(shorter, ids[:, :6], [6])[1].keep(4)


def test_recomputation_gives_the_same_gradients() -> None:
    made, ids, found = model().train(), text(), []
    _, state = read(made, ids, [TEXT], made.init_state(2, 60))
    for on in (False, True):
        set_recompute(made, on)
        found.append(torch.autograd.grad(made(ids, state=state).logits.square().sum(), list(made.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_laws_of_rows_hold_over_several_blocks() -> None:
    """Certifying by the command line takes all laws, over one block and what follows it."""
    small = {"block_length": 3, "num_layers": 1, "recurrent_layers": (0,)}
    laws = ["rows independent", "documents stay apart", "padding changes nothing", "every parameter gets a gradient"]
    report = certify(formers.build("block_recurrent", **SIZES | small), laws=laws, length=11)
    assert {verdict.status for verdict in report.laws.values()} == {"pass"}, report.failed


def test_a_state_that_takes_in_unfinished_blocks_is_found_by_cutting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "ends", lambda self, size: self.any)
    monkeypatch.setattr(block_recurrence, "_may_end", lambda *given: True)
    made, ids = model(), text()
    assert (read(made, ids, CUTS["sevens"])[0] - made(ids).logits).abs().max() > 1e-4


def test_settings_that_make_no_model_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        formers.build("block_recurrent", **SIZES | {"recurrent_layers": (3,), "num_states": 0, "activation": "tanh"})
    for told in ("num_states is 0", "recurrent_layers are (3,), wanted different ones of 0 to 2", "activation 'tanh'"):
        assert told in str(caught.value)
