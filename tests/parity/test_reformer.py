"""Reformer against transformers' own, in float64, every parameter random, with their hash seeds: as it is, for nothing in it
is computed in float32. Gradients of whole texts, whose length their training asks for; every other length in evaluation.

Their head's bias is tied to its map again, as transformers 4 has it: 5 stores it and does not add it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.reformer import modeling_reformer

import formers
from formers.config import replace
from formers.errors import ConfigError, WeightsError
from formers.models.reformer import FOREIGN, MODEL, PRESETS, ReformerConfig, activations, weights
from formers.models.registry import configure
from formers.parts import chunk_plan, hashing, lsh
from formers.parts.positions import Positions
from formers.parts.reversible import average
from tests.parity.harness import NO_SPECIAL_TOKENS, carry, random_ids, randomise

EXACT = 1e-9
WHOLE = 48
"""Tokens: a multiple of both chunk lengths, and all that the grid of places has."""
SIZES: dict[str, Any] = {
    "vocab_size": 53, "d_model": 12, "num_layers": 3, "layers": ("lsh", "local"), "num_heads": 3, "d_head": 5, "d_ff": 17,
    "max_length": WHOLE, "axial_shape": (6, 8), "axial_widths": (5, 7), "lsh_chunk": 4, "local_chunk": 6, "num_buckets": 6,
    "hash_seed": 3, "dropout": 0.0, "local_dropout": 0.0, "eps": 1e-5,
}  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "one round": {},
    "three rounds": {"rounds": 3},
    "factorised buckets": {"rounds": 3, "num_buckets": (2, 4)},
    "buckets by length": {"rounds": 2, "num_buckets": None},
    "lsh alone": {"layers": ("lsh",), "rounds": 2},
    "local alone": {"layers": ("local",)},
    "a table of places": {"axial_shape": None},
    "two chunks before": {"lsh_before": 2, "local_before": 2, "rounds": 3},
    "gelu": {"activation": "gelu"},
    "encoder, one round": {"head": "masked_token"},
    "encoder, three rounds": {"head": "masked_token", "rounds": 3},
    "encoder that looks both ways": {"head": "masked_token", "rounds": 2, "lsh_after": 1, "local_after": 1},
    "labels of texts": {"head": "sequence", "num_labels": 3},
    "spans": {"head": "span", "rounds": 2},
    "causal spans": {"head": "span", "causal": True},
    "the body": {"head": "none", "rounds": 2},
}


def twins(*, seed: int = 1, **changes: Any) -> tuple[Any, Any]:
    """Our model and theirs with the same random weights, float64."""
    config = ReformerConfig(**SIZES | changes)
    settings = FOREIGN.write(config) | NO_SPECIAL_TOKENS | {"pad_token_id": 0}
    named = {k: v for k, v in settings.items() if k != "model_type"}
    theirs = getattr(transformers, settings["architectures"][0])(transformers.ReformerConfig(**named)).double().eval()
    randomise(theirs, seed)
    ours = MODEL(config).double().eval()
    carry(theirs, ours, weights(config))
    if hasattr(theirs, "lm_head"):
        theirs.lm_head.decoder.bias = theirs.lm_head.bias
    return ours, theirs


def their_logits(theirs: nn.Module, ids: Tensor, **given: Any) -> Tensor:
    out = theirs(input_ids=ids, **given)
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], -1)
    return out.logits if "logits" in out else out.last_hidden_state


def gap(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max().clamp(min=1.0))


def worst(ours: Any, theirs: Any, ids: Tensor, present: Tensor | None = None) -> float:
    """The largest difference of logits and of every parameter's gradient, on texts of WHOLE tokens."""
    theirs.train()
    given = {} if present is None else {"positions": Positions.from_attention_mask(present)}
    asked = {} if present is None else {"attention_mask": present.long()}
    mine, other = ours(ids, **given).logits, their_logits(theirs, ids, **asked)
    if present is not None and mine.ndim == 3:
        mine, other = mine[present], other[present]
    scale = torch.randn(mine.shape, generator=torch.Generator().manual_seed(0), dtype=mine.dtype)
    named = dict(ours.named_parameters())
    found = dict(zip(named, torch.autograd.grad((mine * scale).sum(), list(named.values())), strict=True))
    (other * scale).sum().backward()  # their reversible layers know of no other way
    gradients = {name: p.grad for name, p in theirs.named_parameters() if name != "lm_head.decoder.bias"}
    wanted, problems = weights(ours.config).partial(gradients)
    assert not problems, problems
    assert wanted.keys() == found.keys()
    return max(gap(mine, other), *(gap(found[name], wanted[name]) for name in found))


# --- forward and backward ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_every_gradient_as_it_is(variant: str) -> None:
    ours, theirs = twins(**VARIANTS[variant])
    found = worst(ours, theirs, random_ids(2, WHOLE, 53))
    print(f"{variant}: {found:.1e}")
    assert found <= EXACT


@pytest.mark.parametrize("variant", ["three rounds", "encoder, three rounds", "spans", "labels of texts"])
def test_padding_on_the_right_with_gradients(variant: str) -> None:
    ours, theirs = twins(**VARIANTS[variant])
    present = torch.arange(WHOLE) < torch.tensor([WHOLE, 31, 5])[:, None]
    assert worst(ours, theirs, random_ids(3, WHOLE, 53), present) <= EXACT


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_length_which_they_fill_up_in_evaluation(variant: str) -> None:
    if variant == "two chunks before":  # their ring shows chunks several times where it has fewer than are seen
        lengths = [37, 48]
    else:
        lengths = [1, 4, 5, 7, 13, 37, 47]
    for n in lengths:
        ours, theirs = twins(**VARIANTS[variant])  # theirs keeps the number of buckets of its first text
        ids = random_ids(2, n, 53, seed=n)
        assert gap(ours(ids).logits, their_logits(theirs, ids)) <= EXACT, n


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_hash_seed(seed: int) -> None:
    ours, theirs = twins(rounds=3, hash_seed=seed)
    assert worst(ours, theirs, random_ids(1, WHOLE, 53)) <= EXACT


def test_another_seed_is_another_answer() -> None:
    ours, theirs = twins(rounds=1, hash_seed=0)
    theirs.reformer.encoder.layers[0].attention.self_attention.hash_seed = 1
    assert worst(ours, theirs, random_ids(2, WHOLE, 53)) > 1e-3


@torch.no_grad()
def test_without_the_tie_their_logits_lack_the_bias_that_the_head_stores() -> None:
    ours, theirs = twins()
    theirs.lm_head.decoder.bias = None
    ids = random_ids(1, 20, 53)
    assert gap(ours(ids).logits - ours.head.linear.bias, their_logits(theirs, ids)) <= EXACT


# --- there and back ---------------------------------------------------------------------------------------------------

HEADS = [None, "masked_token", "sequence", "span", "none"]


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical_and_opens_without_a_word(head: str | None, tmp_path: Path) -> None:
    ours, theirs = twins(head=head, layers=("local", "lsh"), num_buckets=(2, 4))
    if head is None or head == "masked_token":
        del theirs.lm_head.decoder._parameters["bias"]
        theirs.lm_head.decoder.bias = None
    theirs = theirs.float()
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = formers.load(tmp_path / "theirs")
    assert loaded.config == replace(ours.config, hash_seed=3)
    formers.save(loaded, tmp_path / "ours")
    again, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said.values()), said
    stored = theirs.state_dict()
    assert stored.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in stored.items())
    assert again.config.attn_layers == theirs.config.attn_layers
    assert list(again.config.num_buckets) == [2, 4]


CRIME_AND_PUNISHMENT = {
    "architectures": ["ReformerModelWithLMHead"], "attention_head_size": 64, "attention_probs_dropout_prob": 0.1,
    "attn_layers": ["local", "lsh", "local", "lsh", "local", "lsh"], "axial_norm_std": 1.0, "axial_pos_embds": True,
    "axial_pos_embds_dim": [64, 192], "axial_pos_shape": [512, 1024], "chunk_size_feed_forward": 0, "chunk_size_lm_head": 0,
    "eos_token_id": 2, "feed_forward_size": 512, "hash_seed": None, "hidden_act": "relu", "hidden_dropout_prob": 0.05,
    "hidden_size": 256, "initializer_range": 0.02, "is_decoder": True, "layer_norm_eps": 1e-12,
    "local_attention_probs_dropout_prob": 0.05, "local_attn_chunk_length": 64, "local_num_chunks_after": 0,
    "local_num_chunks_before": 1, "lsh_attention_probs_dropout_prob": 0.0, "lsh_attn_chunk_length": 64,
    "lsh_num_chunks_after": 0, "lsh_num_chunks_before": 1, "max_position_embeddings": 524288, "model_type": "reformer",
    "num_attention_heads": 2, "num_buckets": [64, 128], "num_chunks_after": 0, "num_chunks_before": 1, "num_hashes": 1,
    "num_hidden_layers": 6, "output_past": True, "pad_token_id": 0, "vocab_size": 320,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 100}},
}  # fmt: skip
"""config.json of google/reformer-crime-and-punishment, as it was published."""


def test_the_published_settings_are_read() -> None:
    assert ReformerConfig(**FOREIGN.read(CRIME_AND_PUNISHMENT)) == configure("reformer", "crime_and_punishment")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_of_the_size_that_transformers_makes_them(preset: str) -> None:
    config = configure("reformer", preset)
    named = {k: v for k, v in FOREIGN.write(config).items() if k != "model_type"}
    with torch.device("meta"):
        sizes = [
            MODEL(config),
            transformers.ReformerModelWithLMHead(transformers.ReformerConfig(**named, pad_token_id=0)),
        ]
    ours, theirs = (sum(p.numel() for p in model.parameters()) for model in sizes)
    assert ours == theirs


def test_settings_that_are_not_implemented_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        FOREIGN.read(CRIME_AND_PUNISHMENT | {"chunk_size_lm_head": 7, "tie_word_embeddings": True, "sparse": 3})
    for name in ("chunk_size_lm_head=7", "tie_word_embeddings=True", "sparse=3"):
        assert name in str(refused.value)
    with pytest.raises(ConfigError, match="causal is False"):
        ReformerConfig(**FOREIGN.read(CRIME_AND_PUNISHMENT | {"is_decoder": False}))


def test_old_files_store_constants_and_the_bias_twice() -> None:
    ours, theirs = twins()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    attention = "reformer.encoder.layers.0.attention.self_attention"
    bias = theirs.state_dict()["lm_head.bias"]
    stored = theirs.state_dict() | {
        f"{attention}.self_mask_value_float16": torch.tensor(-1e3),
        "lm_head.decoder.bias": bias,
    }
    weights(ours.config).read(stored, shapes)
    with pytest.raises(WeightsError, match=r"lm_head\.decoder\.bias differs"):
        weights(ours.config).read(stored | {"lm_head.decoder.bias": bias + 1}, shapes)


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_modules_that_are_named_as_the_same_give_the_same(head: str | None) -> None:
    ours, theirs = twins(head=head)
    seen: list[dict[str, Tensor]] = []
    ids = random_ids(1, WHOLE, 53)
    pairs = activations(ours.config)
    for model, side in ((ours, 0), (theirs, 1)):
        found: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(pair[side]).register_forward_hook(
                lambda m, given, out, name=pair[0], found=found: found.setdefault(name, out)
            )
            for pair in pairs
        ]
        model(ids)
        seen.append(found)
        for hook in hooks:
            hook.remove()
    assert seen[0].keys() == seen[1].keys() == {our for our, _ in pairs}
    assert all(gap(seen[0][name], seen[1][name]) <= EXACT for name in seen[0])


# --- defects ----------------------------------------------------------------------------------------------------------


def lsh_layer(model: Any) -> Any:
    return model.trunk.blocks[0]["attention"]


def scale_twice(model: Any, patch: pytest.MonkeyPatch) -> None:
    lsh_layer(model).queries.listeners.append(lambda q: q * q.shape[-1] ** -0.5)


def normalise_queries_too(model: Any, patch: pytest.MonkeyPatch) -> None:
    lsh_layer(model).queries.listeners.append(lambda q: lsh.unit(q, 1e-6))


def forget_the_self_mask(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chunk_plan, "SELF", 0.0)


def let_rounds_start_over(model: Any, patch: pytest.MonkeyPatch) -> None:
    """A mean of the rounds in place of one softmax."""
    whole = chunk_plan.Plan.merged

    def mean(self: Any, out: Tensor, sums: Any) -> tuple[Tensor, Tensor]:
        _, kept = whole(self, out, sums)
        return self.summed(out) / self.count, kept

    patch.setattr(chunk_plan.Plan, "merged", mean)


def sort_by_place_alone(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lsh, "sort", hashing.coded)


def hash_once_for_all_rounds(model: Any, patch: pytest.MonkeyPatch) -> None:
    drawn = hashing.rotations
    patch.setattr(hashing, "rotations", lambda *a: drawn(*a)[..., :1, :].expand(-1, -1, a[1], -1))


def see_the_next_chunk_instead(model: Any, patch: pytest.MonkeyPatch) -> None:
    layer = lsh_layer(model)
    window = layer.window
    layer.window = chunk_plan.Window(window.chunk, 0, 1, window.multiple, causal=True, shared=True)


def use_the_papers_rules(model: Any, patch: pytest.MonkeyPatch) -> None:
    layer = lsh_layer(model)
    layer.rules = lsh.RULES["paper"]
    layer.window = chunk_plan.Window(
        layer.window.chunk, 1, 0, layer.window.multiple, causal=True, shared=True, same_bucket=True
    )


def average_the_streams(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.trunk.merge = lambda a, b: torch.cat([average(a, b)] * 2, -1)


def swap_the_streams(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.trunk.merge = lambda a, b: torch.cat([b, a], -1)


@torch.no_grad()
def transpose_the_grid(model: Any, patch: pytest.MonkeyPatch) -> None:
    columns = model.places.columns.num_embeddings
    model.places.register_forward_pre_hook(
        lambda m, given: (Positions(given[0].index % columns * 6 + given[0].index // columns),)
    )


def local_sees_one_chunk_more(model: Any, patch: pytest.MonkeyPatch) -> None:
    layer = model.trunk.blocks[1]["attention"]
    layer.window = chunk_plan.Window(layer.window.chunk, 2, 0, layer.window.multiple, causal=True)


def another_key_norm(model: Any, patch: pytest.MonkeyPatch) -> None:
    lsh_layer(model).eps = 1e-2


def rotations_drawn_by_another_seed(model: Any, patch: pytest.MonkeyPatch) -> None:
    layer = lsh_layer(model)
    layer.hashing = hashing.Hashing(layer.hashing.rounds, 6, 4, 4, WHOLE)


DEFECTS: list[Callable[[Any, pytest.MonkeyPatch], None]] = [
    scale_twice, normalise_queries_too, forget_the_self_mask, let_rounds_start_over, sort_by_place_alone,
    hash_once_for_all_rounds, see_the_next_chunk_instead, use_the_papers_rules, average_the_streams, swap_the_streams,
    transpose_the_grid, local_sees_one_chunk_more, another_key_norm, rotations_drawn_by_another_seed,
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_each_of_fourteen_defects_is_seen(defect: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = twins(rounds=3)
    ids = random_ids(2, WHOLE, 53)
    assert worst(ours, copy.deepcopy(theirs), ids) <= EXACT
    defect(ours, monkeypatch)
    assert worst(ours, theirs, ids) > 1e-6


def test_their_module_computes_nothing_in_float32_that_would_have_to_be_lifted() -> None:
    """Their one buffer of float32 numbers follows the model's type."""
    _, theirs = twins()
    assert all(tensor.dtype == torch.float64 for tensor in theirs.buffers() if tensor.is_floating_point())
    source = Path(modeling_reformer.__file__).read_text(encoding="utf-8")
    assert ".float()" not in source
    assert "to(torch.float32)" not in source
