"""A stepper is the model itself, faster: the same products, the same tensors, the same taps and hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from formers.generation import generate
from formers.generation.few_rows import MOST_ROWS, FewRows, OneCallNorm, stepper_of
from formers.models.registry import build
from formers.parts.norms import RMSNorm
from formers.parts.taps import listen

CLOSE = {  # other orders of summation over 130 products
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


@pytest.mark.parametrize("rows", [1, 2, 8, MOST_ROWS + 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("precision", list(CLOSE), ids=str)
def test_few_rows_equal_the_linear_layer(rows, bias, pack, precision):
    linear = nn.Linear(130, 71, bias=bias).to(precision)
    x = torch.randn(rows, 1, 130, dtype=precision)
    with torch.inference_mode():
        few = FewRows(linear, pack=pack and precision != torch.float64)
        torch.testing.assert_close(few(x), linear(x), **CLOSE[precision])
        torch.testing.assert_close(few(x[:, 0]), linear(x[:, 0]), **CLOSE[precision])


@pytest.mark.parametrize("precision", list(CLOSE), ids=str)
def test_a_norm_by_one_call_gives_the_same_bits(precision):
    norm = RMSNorm(130, 1e-6).to(precision)
    nn.init.normal_(norm.weight)
    x = 3 * torch.randn(5, 1, 130, dtype=precision)
    with torch.inference_mode():
        assert torch.equal(OneCallNorm(norm)(x), norm(x))


def nano(**settings) -> nn.Module:
    return build("gpt2", preset="nano", init_std=0.3, **settings)


def test_a_stepper_holds_the_models_own_tensors():
    model = nano()
    stepper = stepper_of(model, 1, 8)
    assert {id(p) for p in stepper.parameters()} == {id(p) for p in model.parameters()}
    assert any(isinstance(m, FewRows) for m in stepper.modules())
    assert not any(isinstance(m, FewRows) for m in model.modules())
    ids = torch.tensor([[5]])
    with torch.no_grad():
        before = stepper(ids).logits
        model.trunk.final_norm.bias += 1.0
        torch.testing.assert_close(stepper(ids).logits, model.eval()(ids).logits)
        assert not torch.allclose(stepper(ids).logits, before)


def test_a_stepper_is_in_evaluation_mode_whatever_the_model_is_in():
    model = nano(dropout=0.9).train()
    stepper = stepper_of(model, 1, 8)
    ids = torch.tensor([[5]])
    with torch.no_grad():
        torch.testing.assert_close(stepper(ids).logits, model.eval()(ids).logits)
        model.train()
        assert not stepper.training


def test_taps_and_hooks_of_the_model_are_heard_in_steps():
    model, calls = nano(), []
    model.trunk.blocks[0]["feed_forward"].expand.register_forward_hook(lambda *_: calls.append("hook"))
    with listen(model, "*.attention.pattern") as seen:
        generate(model, [[1, 2, 3]], max_new_tokens=5)
    assert [len(found) for found in seen.values()] == [5] * model.config.num_layers
    assert calls == ["hook"] * 5


@pytest.mark.parametrize("batch", [1, 3])
def test_packing_changes_no_greedy_token(batch):
    model, prompts = nano(), [[1 + row, 2] for row in range(batch)]
    with_packs, without = (generate(model, prompts, temperature=0.0, max_new_tokens=40, pack=p) for p in (True, False))
    assert torch.equal(with_packs, without)


def test_modules_that_are_more_than_their_attributes_step_themselves():
    model = nano()
    block = model.trunk.blocks[0]["feed_forward"]
    calls, forward = [], block.forward
    block.forward = lambda *given: calls.append(1) or forward(*given)  # as torch.compile and many wrappers do
    generate(model, [[1, 2, 3]], max_new_tokens=5)
    assert len(calls) == 5


def test_autocast_reaches_the_steps():
    model = nano()
    with torch.autocast("cpu", torch.bfloat16):
        stepper = stepper_of(model, 1, 8)
        assert not any(isinstance(m, FewRows) for m in stepper.modules())
        assert stepper(torch.tensor([[5]])).logits.dtype == torch.bfloat16


def test_only_what_steps_is_packed():
    """The encoder of an encoder-decoder reads its source once, before any step."""
    model = build("t5", preset="nano", init_factor=3.0).eval()
    stepper = stepper_of(model, 3, 64, pack=True)
    state = model.init_state(3, 64, source=torch.ones(3, 5, dtype=torch.long))
    with torch.inference_mode():
        stepper(torch.tensor([[5]] * 3), state=state)
    packed = {name: m._layout is not None for name, m in stepper.named_modules() if isinstance(m, FewRows)}
    assert {name for name, done in packed.items() if not done} == {
        name for name in packed if name.startswith("encoder.") or name.endswith(".source")
    }
