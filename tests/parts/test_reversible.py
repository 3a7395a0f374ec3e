"""A reversible trunk is its slow twin, the same formula through ordinary autograd, in less memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import formers
from formers.errors import ConfigError
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.replay import chosen
from formers.parts.reversible import Reversible, concatenate, set_rebuild
from formers.parts.taps import attach, listen
from formers.parts.trunk import set_recompute

EQUAL = 1e-9
"""In float64: rebuilt streams differ from those that were by roundings."""

REBUILT = 1e-5
"""In float32, relative to the largest number of the stream: 24 and 64 subtractions."""

D = 26


def model(**changes: Any) -> Any:
    """A GPT-2 of prime sizes with a reversible trunk and dropout everywhere, every parameter random."""
    sizes = {"vocab_size": 97, "d_model": D, "num_layers": 3, "num_heads": 2, "d_ff": 53, "max_length": 67}
    drops = {"dropout": 0.2, "attention_dropout": 0.1, "embedding_dropout": 0.1}
    built = formers.build("gpt2", **sizes | drops | {"trunk": "reversible"} | changes).double().train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(around + 0.3 * torch.randn(parameter.shape, generator=generator))
    return built


def text(rows: int = 3, length: int = 19) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(2))


def gradients(built: nn.Module, rebuild: bool, **given: Any) -> list[Tensor]:
    """Loss and every gradient, with the same dropout."""
    set_rebuild(built, rebuild)
    torch.manual_seed(3)
    loss = built(text(), **given).logits.square().sum()
    return [loss.detach(), *torch.autograd.grad(loss, list(built.parameters()))]


def assert_equal(found: list[Tensor], wanted: list[Tensor], tolerance: float = EQUAL) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).abs().max() <= tolerance * other.abs().max().clamp(min=1.0)


class Alone(nn.Module):
    """A block's attention and feed-forward in one sublayer, for blocks of other sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x: Tensor, positions: Positions, state: Any = None, source: Any = None) -> tuple[Tensor, None]:
        return self.linear(x).tanh(), None


class Chooses(Alone):
    """Passes on the half of the features that it chooses: another half every time it is asked."""

    asked = 0

    def choice(self) -> Tensor:
        self.asked += 1
        return (torch.arange(D) + torch.randint(0, 2, ())) % 2 == self.asked % 2

    def forward(self, x: Tensor, positions: Positions, state: Any = None, source: Any = None) -> tuple[Tensor, None]:
        return self.linear(x) * chosen(self.choice), None


def trunk(*blocks: dict[str, nn.Module], **settings: Any) -> Reversible:
    torch.manual_seed(0)
    return Reversible(blocks, lambda: LayerNorm(D, 1e-5), **settings).double()


def trunk_gradients(built: Reversible, rebuild: bool) -> list[Tensor]:
    built.rebuild = rebuild
    x = torch.randn(2, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(2)
    y, _ = built(x, Positions.whole(5))
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *built.parameters()])]


# --- the formula ------------------------------------------------------------------------------------------------------


def test_the_formula_is_the_papers() -> None:
    attention, feed_forward = Alone(), Alone()
    built = trunk({"attention": attention, "feed_forward": feed_forward})
    x, whole = torch.randn(2, 5, D, dtype=torch.float64), Positions.whole(5)
    norms: Any = built.norms[0]
    y1 = x + attention(norms["attention"](x), whole)[0]
    y2 = x + feed_forward(norms["feed_forward"](y1), whole)[0]
    for rebuild in (True, False):
        built.rebuild = rebuild
        assert (built(x, whole)[0] - built.final_norm((y1 + y2) / 2)).abs().max() <= EQUAL


def test_streams_may_be_put_side_by_side_for_a_norm_of_twice_the_width() -> None:
    wide = lambda: LayerNorm(2 * D, 1e-5)  # noqa: E731
    built = trunk({"a": Alone(), "b": Alone()}, merge=concatenate, make_final_norm=wide)
    found, wanted = trunk_gradients(built, True), trunk_gradients(built, False)
    assert found[0].shape == (2, 5, 2 * D)
    assert_equal(found, wanted)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"ff_chunks": 4}, {"num_layers": 12}])
def test_gradients_are_those_of_ordinary_autograd_with_dropout_on(changes: dict[str, Any]) -> None:
    built = model(**changes)
    assert_equal(gradients(built, True), gradients(built, False))


def test_a_model_with_grouped_heads_and_gates_has_the_same_gradients() -> None:
    sizes = {
        "vocab_size": 97,
        "d_model": D,
        "num_layers": 2,
        "num_heads": 6,
        "num_kv_heads": 3,
        "d_head": 10,
        "d_ff": 53,
    }
    built = formers.build("llama", **sizes, max_length=67, attention_dropout=0.2, trunk="reversible").double().train()
    assert_equal(gradients(built, True), gradients(built, False))


def test_without_replay_dropout_would_spoil_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the record is for: drawn anew in the recomputation, gradients are wrong without any error."""
    built = model()
    monkeypatch.setattr("formers.parts.replay.set_random_state", lambda *_: None)
    with pytest.raises(AssertionError):
        assert_equal(gradients(built, True), gradients(built, False))


@pytest.mark.parametrize("sublayers", [1, 2, 3])
@pytest.mark.parametrize("order", [None, (0, 1, 1, 0)])
def test_blocks_of_any_number_of_sublayers_shared_or_not(sublayers: int, order: tuple[int, ...] | None) -> None:
    built = trunk(*({f"{i}": Alone() for i in range(sublayers)} for _ in range(2)), order=order, dropout=0.3)
    assert_equal(trunk_gradients(built, True), trunk_gradients(built, False))


def test_choices_are_made_once_and_replayed() -> None:
    chooser = Chooses()
    built = trunk({"chooses": chooser, "feed_forward": Alone()}, order=(0, 0), dropout=0.3)
    found = trunk_gradients(built, True)
    assert chooser.asked == 2
    assert_equal(found, trunk_gradients(built, False))


def test_a_frozen_parameter_and_a_frozen_input_take_no_part() -> None:
    built = model()
    frozen = [built.tokens.weight, built.places.table.weight, built.trunk.blocks[1]["attention"].mix.linear.weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    learning = [parameter for parameter in built.parameters() if parameter.requires_grad]
    found = []
    for rebuild in (True, False):
        set_rebuild(built, rebuild)
        torch.manual_seed(3)
        found.append(list(torch.autograd.grad(built(text()).logits.square().sum(), learning)))
    assert_equal(*found)


def test_a_backward_pass_can_be_run_twice() -> None:
    built = model()
    torch.manual_seed(3)
    loss = built(text()).logits.square().sum()
    first = torch.autograd.grad(loss, list(built.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(built.parameters()))
    assert_equal(list(second), list(first), 0.0)


def test_micro_batches_add_up() -> None:
    built = model(dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0)
    wanted = gradients(built, False)[1:]
    set_rebuild(built, True)
    for row in text().split(1):
        built(row).logits.square().sum().backward()
    assert_equal([parameter.grad for parameter in built.parameters()], wanted)


def test_a_recomputing_slow_twin_has_the_same_gradients() -> None:
    built = model()
    kept = gradients(built, False)
    set_recompute(built, True)
    assert_equal(gradients(built, False), kept, 0.0)


def test_gradients_of_gradients_are_refused() -> None:
    built = model()
    loss = built(text()).logits.square().sum()
    with pytest.raises(ConfigError, match="gradients of gradients"):
        torch.autograd.grad(loss, built.tokens.weight, create_graph=True)


# --- what is rebuilt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [12, 32])
def test_inputs_of_every_sublayer_are_rebuilt_in_float32(num_layers: int) -> None:
    built = formers.build("gpt2", "nano", num_layers=num_layers, trunk="reversible").train()
    ids, seen = torch.randint(0, 512, (2, 65)), {}
    for name, norm in built.trunk.norms.named_modules():
        if isinstance(norm, LayerNorm):
            norm.register_forward_pre_hook(lambda _, given, n=name: seen.setdefault(n, []).append(given[0].detach()))
    built(ids).logits.logsumexp(-1).sum().backward()
    assert len(seen) == 2 * num_layers
    for forward, rebuilt in seen.values():
        assert (forward - rebuilt).abs().max() <= REBUILT * forward.abs().max()


def test_under_autocast_streams_stay_in_float32_and_gradients_near_ordinary_ones() -> None:
    built = formers.build("gpt2", "nano", num_layers=6, trunk="reversible").train()
    ids, found = torch.randint(0, 512, (2, 65)), []
    for rebuild in (True, False):
        set_rebuild(built, rebuild)
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = built(ids).logits.float().logsumexp(-1).sum()
        found.append(list(torch.autograd.grad(loss, list(built.parameters()))))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= 2**-8 * other.norm()  # a rounding to bfloat16


def test_a_backward_pass_within_autocast_loses_no_gradient() -> None:
    """Casts that a forward without gradients made must not stand in for those that carry them."""
    built = formers.build("gpt2", "nano", trunk="reversible", ff_chunks=2).eval()
    ids, found = torch.randint(0, 512, (2, 33)), []
    for order in ((True,), (True, False), (False,)):
        built.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for rebuild in order:
                set_rebuild(built, rebuild)
                loss = built(ids).logits.float().logsumexp(-1).sum()
            loss.backward()
        found.append([parameter.grad for parameter in built.parameters()])
    for first, second, wanted in zip(*found, strict=True):
        assert (first - wanted).norm() <= 2**-8 * wanted.norm()
        assert (second - wanted).norm() <= 2**-8 * wanted.norm()


def test_only_the_last_streams_are_kept() -> None:
    """What autograd saves does not grow with depth."""
    saved = []
    for num_layers in (2, 8):
        built = model(num_layers=num_layers)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            built(text())
        saved.append(sum(sizes))
    assert saved[0] == saved[1] > 0


# --- states and taps --------------------------------------------------------------------------------------------------


def test_a_state_is_staged_once_and_only_read() -> None:
    built = model()
    found = []
    for rebuild in (True, False):
        state = built.init_state(3, 40, dtype=torch.float64)
        with torch.no_grad():
            state = built.eval()(text(3, 11), state=state).state.commit()
        before = {
            name: tensor.clone() for name, tensor in state.tensors().items() if "key" not in name and "val" not in name
        }
        set_rebuild(built.train(), rebuild)
        torch.manual_seed(4)
        out = built(text(), state=state)
        staged = out.state
        loss = out.logits.square().sum()
        grads = torch.autograd.grad(loss, list(built.parameters()))
        after = state.tensors()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert out.state is staged
        state = staged.commit()
        assert state.next_index.tolist() == [30] * 3
        found.append([loss.detach(), *grads, *(t.double() for t in state.tensors().values())])
    assert_equal(*found)


def test_the_stream_can_be_listened_to_and_replaced() -> None:
    built = model().eval()
    with listen(built, "trunk.stream.*") as seen:
        wanted = built(text()).logits
    assert [len(tensors) for tensors in seen.values()] == [1, 1, 1]
    assert (built.trunk.final_norm(seen["trunk.stream.2"][0]) - built.body(text())[0]).abs().max() <= EQUAL
    with attach(built, {"trunk.stream.1": torch.zeros_like}):
        replaced = built(text())
    assert (replaced.logits - wanted).abs().max() > 0.1
    replaced.logits.sum().backward()
    assert built.trunk.blocks[0]["attention"].mix.linear.weight.grad is None


def test_a_source_is_refused() -> None:
    built = trunk({"a": Alone(), "b": Alone()})
    with pytest.raises(ConfigError, match="a source for Reversible"):
        built(torch.zeros(1, 2, D, dtype=torch.float64), Positions.whole(2), None, torch.zeros(1))


# --- beside the rest --------------------------------------------------------------------------------------------------


def test_a_reversible_model_keeps_every_law() -> None:
    small = {"vocab_size": 97, "d_model": D, "num_layers": 2, "num_heads": 2, "d_ff": 53, "max_length": 67}
    report = formers.certify(formers.build("gpt2", **small, trunk="reversible", ff_chunks=3))
    assert report.ok, report.failed
    assert report.laws["recomputation gives the same gradients"].status == "pass"
    assert 0 < report.laws["recomputation gives the same gradients"].violation < 1e-9


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_it_is_what_it_is_otherwise(backend: str) -> None:
    command = [sys.executable, "-m", "tests.parts.compiled_reversible", backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1e-5, done.stdout


def test_an_unknown_trunk_is_refused() -> None:
    with pytest.raises(ConfigError, match="trunk 'post_norm' is none of pre_norm, reversible"):
        formers.build("gpt2", "nano", trunk="post_norm")
