"""A batch gives every row what it would get alone; a state changes the speed and nothing else; bad input is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import formers
from formers.errors import ConfigError, DataError, TargetError
from formers.generation import GenerateSettings, complete, generate, generate_stream

RAGGED = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [3, 5, 8, 9, 7, 9, 3, 2]]
SAMPLING = [
    {"temperature": 0.0},
    {"temperature": 0.9, "top_k": 20},
    {"top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0, "repetition_penalty": 1.3, "no_repeat_ngram": 3},
    {"frequency_penalty": 0.5, "presence_penalty": 0.2},
]


@pytest.mark.parametrize("settings", SAMPLING, ids=str)
def test_ragged_prompts_together_equal_one_by_one(model, settings):
    seeds = [5, 6, 7, 8]
    together = complete(model, RAGGED, max_new_tokens=24, seeds=seeds, **settings)
    for row, (prompt, seed) in enumerate(zip(RAGGED, seeds, strict=True)):
        alone = complete(model, [prompt], max_new_tokens=24, seeds=[seed], **settings)
        assert together.new[row] == alone.new[0]


@pytest.mark.parametrize("settings", SAMPLING[:2], ids=str)
def test_a_module_without_state_generates_the_same_text(gpt2, plain, settings):
    with_state = generate(gpt2, RAGGED, max_new_tokens=12, **settings)
    assert torch.equal(generate(plain, RAGGED, max_new_tokens=12, **settings), with_state)


class Wrapped(nn.Module):
    """A user's own module that follows the contract of models without being one of ours."""

    inputs = frozenset({"positions", "state"})

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config, self.init_state = inner, inner.config, inner.init_state

    def forward(self, input_ids: torch.Tensor, *, positions=None, state=None) -> object:
        return self.inner(input_ids, positions=positions, state=state)


def test_a_users_module_with_a_state_of_its_own_steps_through_it(gpt2):
    expected = generate(gpt2, RAGGED, max_new_tokens=12)
    assert torch.equal(generate(Wrapped(gpt2), RAGGED, max_new_tokens=12), expected)


def test_greedy_tokens_are_the_argmax_of_the_whole_forward(model):
    ids = generate(model, [RAGGED[0]], max_new_tokens=40, temperature=0.0)
    model.eval()
    for n in range(5, 45):
        assert model(ids[:, :n]).logits[0, -1].argmax() == ids[0, n]


def test_greedy_tokens_equal_those_of_transformers(gpt2):
    transformers = pytest.importorskip("transformers")
    c = gpt2.config
    config = transformers.GPT2Config(
        vocab_size=c.vocab_size, n_embd=c.d_model, n_layer=c.num_layers, n_head=c.num_heads, n_positions=c.max_length
    )
    reference = transformers.GPT2LMHeadModel(config).double().eval()
    table = formers.models()["gpt2"].load().weights(c)
    reference.load_state_dict(table.write(gpt2.state_dict()), strict=False)
    prompt = torch.tensor([RAGGED[3]])
    theirs = reference.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=50,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(generate(gpt2, prompt, max_new_tokens=50, temperature=0.0), theirs)


def test_prompts_may_be_a_tensor_a_list_or_lists(gpt2):
    wanted = generate(gpt2, [[1, 2, 3]], max_new_tokens=3)
    for same in (
        torch.tensor([[1, 2, 3]]),
        torch.tensor([1, 2, 3], dtype=torch.int32),
        [1, 2, 3],
        [torch.tensor([1, 2, 3])],
        [(1, 2, 3)],
    ):
        assert torch.equal(generate(gpt2, same, max_new_tokens=3), wanted)
    assert wanted[0, :3].tolist() == [1, 2, 3]


def test_a_seed_decides_the_text_and_rows_have_their_own(gpt2):
    same = [[1, 2, 3]] * 3
    first, again, other = (generate(gpt2, same, max_new_tokens=20, seed=seed) for seed in (0, 0, 10))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row.tolist()) for row in first}) == 3
    assert torch.equal(generate(gpt2, [[1, 2, 3]], max_new_tokens=20, seed=2)[0], first[2])


def test_longer_text_begins_with_the_shorter(gpt2):
    short, long = (generate(gpt2, [[1, 2]], max_new_tokens=n, seed=3) for n in (10, 90))
    assert torch.equal(long[:, :12], short)


def test_a_stop_token_ends_its_row_alone_and_is_its_last(gpt2):
    free = complete(gpt2, RAGGED, max_new_tokens=30, seed=1)
    stop = free.new[1][4]
    stopped = complete(gpt2, RAGGED, max_new_tokens=30, seed=1, stop_tokens=(stop,))
    for whole, cut, why in zip(free.new, stopped.new, stopped.ended, strict=True):
        if stop in whole:
            assert cut == whole[: whole.index(stop) + 1]
            assert why == "stop_token"
        else:
            assert cut == whole
            assert why == "length"
    assert stopped.ended[1] == "stop_token"


def test_rows_that_ended_are_padded_and_the_loop_ends_with_the_last(gpt2):
    first = int(generate(gpt2, [[1, 2]], max_new_tokens=1)[0, -1])
    ids = generate(gpt2, [[1, 2], [4, 5, 6]], max_new_tokens=20, seeds=[0, 0], stop_tokens=(first,))
    assert ids[0, :4].tolist() == [first, 1, 2, first]
    assert set(ids[0, 4:].tolist()) <= {first}
    steps = list(generate_stream(gpt2, [[1, 2]], max_new_tokens=20, stop_tokens=(first,)))
    assert len(steps) == 1
    assert steps[0].tokens == (first,)
    assert steps[0].ended == ("stop_token",)


def test_a_stream_yields_what_generate_returns_step_by_step(gpt2):
    heard = []
    ids = generate(gpt2, RAGGED, max_new_tokens=9, on_step=heard.append)
    steps = list(generate_stream(gpt2, RAGGED, max_new_tokens=9))
    assert steps == heard
    assert torch.equal(torch.tensor([step.tokens for step in steps]).T, ids[:, -9:])


class _Modes(nn.Module):
    """Dropout that would be seen, in a mode of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.frozen, self.dropout = inner, nn.Dropout(0.5).eval(), nn.Dropout(0.5)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        assert not self.training
        return self.dropout(self.inner(input_ids).logits)


def test_generation_runs_in_evaluation_mode_and_restores_every_module(gpt2):
    model = _Modes(gpt2).train()
    model.frozen.eval()
    modes = [module.training for module in model.modules()]
    first = generate(model, [[1, 2, 3]], max_new_tokens=8)
    assert torch.equal(first, generate(model, [[1, 2, 3]], max_new_tokens=8))
    stream = generate_stream(model, [[1, 2, 3]], max_new_tokens=8)
    next(stream)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_what_is_returned_can_be_trained_on(gpt2):
    ids = generate(gpt2, [[1, 2, 3]], max_new_tokens=4)
    gpt2(ids).logits.sum().backward()
    assert all(p.grad is not None for p in gpt2.parameters())


def test_only_the_first_ids_are_drawn_where_a_vocabulary_is_padded(gpt2):
    ids = generate(gpt2, [[1, 2]] * 4, max_new_tokens=60, vocab_size=7, temperature=3.0)
    assert int(ids.max()) < 7


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_a_text_beyond_the_positions_is_refused_before_anything_runs(gpt2, plain, kind):
    model = gpt2 if kind == "ours" else plain
    if kind == "theirs":
        plain.config = type("Config", (), {"n_positions": 97, "max_length": 20})()
    assert generate(model, [[1] * 90], max_new_tokens=7).shape == (1, 97)
    with pytest.raises(ConfigError, match=r"prompt of 90 tokens and 8 new ones make 98(.|\n)*97(.|\n)*at most 7 new"):
        generate_stream(model, [[1], [1] * 90], max_new_tokens=8)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], DataError, "no prompts"),
        ([[1], []], DataError, "prompt 1 is empty"),
        (torch.zeros(2, 0, dtype=torch.long), DataError, "prompt 0, 1 is empty"),
        ([[1, 61, 4, -3, 99]], DataError, "outside the vocabulary: -3, 61, 99"),
        (torch.zeros(1, 3), DataError, "float32"),
        (torch.zeros(1, 1, 3, dtype=torch.long), DataError, "shape"),
        ("text", DataError, "generate_text"),
        ([[1.5]], DataError, "1.5"),
        ([[1], 2], DataError, "list of lists"),
    ],
    ids=str,
)
def test_bad_prompts_are_named(gpt2, prompts, error, message):
    with pytest.raises(error, match=message):
        generate(gpt2, prompts, max_new_tokens=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
        ({"temperature": "hot"}, "wanted float"),
        ({"seeds": [1]}, "1 seeds for 2 prompts"),
        ({"seed": -1}, "seed is below 0"),
        ({"stop_strings": ["a"]}, "without a tokenizer"),
        ({"stop_strings": [""]}, "a stop string is empty"),
    ],
    ids=str,
)
def test_bad_settings_are_named(gpt2, settings, message):
    with pytest.raises(ConfigError, match=message):
        generate(gpt2, [[1], [2]], **settings)


def test_settings_may_come_as_one_object(gpt2):
    settings = GenerateSettings(max_new_tokens=5, temperature=0.0)
    assert torch.equal(generate(gpt2, [1], settings=settings), generate(gpt2, [1], max_new_tokens=5, temperature=0.0))
    assert generate(gpt2, [1], settings=settings, max_new_tokens=6).shape == (1, 7)


def test_a_forward_that_gives_no_logits_is_named():
    class Wrong(nn.Module):
        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": input_ids}

    with pytest.raises(TargetError, match="gave dict"):
        generate(Wrong(), [[1]], max_new_tokens=1)
