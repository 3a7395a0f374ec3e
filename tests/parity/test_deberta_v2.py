"""DeBERTa, versions 2 and 3, against transformers' own, head by head: float64, every parameter random, sizes prime where
they can be, with its float32 casts lifted and as it is; and the mask decoder of the paper, made of its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import formers
from formers.errors import ConfigError
from formers.models.deberta_v2 import FOREIGN, HEADS, PRESETS, DeBERTaV2, DeBERTaV2Config
from formers.parts.disentangled import log_bucket
from tests.parity.disentangled import AS_IT_IS, EIGHT, LIFTED, OWN, a_table_for_each_layer, given, lift, sides, sizes
from tests.parity.encoder_defects import check_defect
from tests.parity.encoders import check_there_and_back, compare, twins
from tests.parity.harness import randomise

SIZES: dict[str, Any] = {
    "vocab_size": 101, "d_model": 39, "num_layers": 3, "num_heads": 3, "d_ff": 53, "max_length": 71, "max_distance": 17,
    "num_buckets": 8,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "published buckets": {"num_buckets": 256, "max_distance": 512},
    "no buckets": {"num_buckets": 0, "max_distance": 7},
    "maps of their own": {"share_keys": False},
    "no norm of distances": {"norm_distances": False},
    "a convolution": {"convolution_width": 3, "convolution_activation": "gelu"},
    "a wide convolution, maps of their own": {"convolution_width": 5, "share_keys": False},
    "positions and types at the input": {"position_input": True, "num_types": 3},
    "content to position alone": {"score_terms": ("c2p",)},
    "position to content alone, maps of their own": {"score_terms": ("p2c",), "share_keys": False},
    "no distances": {"score_terms": (), "position_input": True, "norm_distances": False, "convolution_width": 3},
    "the authors' names": {"legacy": False},
}


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    lift(monkeypatch)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize(("head", "side"), sides(HEADS))
def test_hidden_states_logits_loss_and_every_gradient_with_their_float32_casts_lifted(head: str, side: str) -> None:
    ours, theirs, table = twins("deberta_v2", head, **sizes(SIZES, head))
    found = compare(ours, theirs, table, given(side, head))
    print(f"deberta_v2 {head} {side}: {found.worst:.1e}")
    found.assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_settings_too(variant: str, side: str) -> None:
    changes = VARIANTS[variant]
    ours, theirs, table = twins("deberta_v2", "masked_token", **sizes(SIZES, "masked_token", **changes))
    compare(ours, theirs, table, given(side, num_types=changes.get("num_types", 0))).assert_within(LIFTED)


@pytest.mark.parametrize("head", HEADS)
def test_hidden_states_logits_loss_and_every_gradient_as_it_is(head: str) -> None:
    ours, theirs, table = twins("deberta_v2", head, **sizes(SIZES, head))
    found = compare(ours, theirs, table, given("right", head))
    print(f"deberta_v2 {head}, as it is: {found.worst:.1e}")
    found.assert_within(AS_IT_IS)
    assert found.worst > LIFTED, "nothing was lifted that had to be lifted"


# --- the mask decoder -------------------------------------------------------------------------------------------------


def decoded(theirs: Any, batch: Any, places: Tensor, steps: int) -> Tensor:
    """Logits of the enhanced mask decoder, made of transformers' layers, which can be given queries of their own."""
    encoder, mask = theirs.deberta.encoder, batch.real.long()
    read = theirs.deberta(batch.ids, attention_mask=mask, output_hidden_states=True)
    h = read.hidden_states[-2]
    seen = {"relative_pos": encoder.get_rel_pos(h), "rel_embeddings": encoder.get_rel_embedding()}
    z = h + F.embedding(batch.positions.index.clamp(min=0), places)
    for _ in range(steps):
        z, _ = encoder.layer[-1](h, encoder.get_attention_mask(mask), query_states=z, **seen)
    return theirs.cls(z)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", [{}, {"share_keys": False, "convolution_width": 3}])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_mask_decoder_is_their_last_layer_again_with_places_in_its_queries(steps: int, variant: dict) -> None:
    theirs = twins("deberta_v2", "masked_token", **sizes(SIZES, "masked_token", **variant))[1]
    ours = formers.build("deberta_v2", **SIZES | variant, mask_decoder="enhanced", decoder_steps=steps).double().eval()
    table = formers.models.deberta_v2.weights(ours.config)
    places = torch.randn(71, 39, dtype=torch.float64, requires_grad=True)
    name, batch = "deberta.embeddings.position_embeddings.weight", given("right")
    stored = theirs.state_dict() | {name: places.detach()}
    ours.load_state_dict(table.read(stored, {n: t.shape for n, t in ours.state_dict().items()}))
    left, right = (
        ours(batch.ids, positions=batch.positions).logits[batch.real],
        decoded(theirs, batch, places, steps)[batch.real],
    )
    assert (left - right).abs().max() <= LIFTED
    weigh = torch.randn(left.shape, dtype=left.dtype)
    their_names = dict(theirs.named_parameters()) | {name: places}
    found = torch.autograd.grad((right * weigh).sum(), list(their_names.values()))
    wanted, problems = table.partial(dict(zip(their_names, found, strict=True)))
    assert not problems
    our_names = dict(ours.named_parameters())
    for our, gradient in zip(
        our_names, torch.autograd.grad((left * weigh).sum(), list(our_names.values())), strict=True
    ):
        assert (gradient - wanted[our]).abs().max() <= LIFTED * max(1.0, float(wanted[our].abs().max())), our


def test_version_1_decodes_as_version_2_does() -> None:
    """The same weights in both, where version 2 has no buckets, maps of its own, and biases of 0 for keys."""
    common = {name: size for name, size in SIZES.items() if name != "num_buckets"} | {"mask_decoder": "enhanced"}
    first = formers.build("deberta", **common).double().eval()
    randomise(first, 1)
    second = (
        formers.build("deberta_v2", **common, num_buckets=0, share_keys=False, norm_distances=False).double().eval()
    )
    state, moved = first.state_dict(), dict[str, Tensor]()
    for name in second.state_dict():
        owner = name.removesuffix("linear.bias")
        if name.endswith("project.linear.bias"):
            q, v = state[f"{owner}query_bias"], state[f"{owner}value_bias"]
            moved[name] = torch.cat([q, torch.zeros_like(q), v])
        elif name.endswith("maps.keys.bias"):
            moved[name] = torch.zeros(39, dtype=torch.float64)
        else:
            moved[name] = state[name]
    second.load_state_dict(moved)
    batch = given("left")
    gap = first(batch.ids, positions=batch.positions).logits - second(batch.ids, positions=batch.positions).logits
    assert gap[batch.real].abs().max() <= LIFTED


@pytest.mark.parametrize("name", ["deberta", "deberta_v2"])
def test_a_folder_with_a_mask_decoder_opens_in_transformers_as_the_body_that_it_is(name: str, tmp_path: Path) -> None:
    small = {n: size for n, size in SIZES.items() if n != "num_buckets" or name == "deberta_v2"}
    ours = formers.build(name, **small, mask_decoder="enhanced").eval()
    formers.save(ours, tmp_path)
    back, ids = formers.load(tmp_path), given("whole").ids
    assert back.config == ours.config
    assert torch.equal(back(ids).logits, ours(ids).logits)
    body = formers.load(tmp_path, head="none")
    theirs = transformers.AutoModel.from_pretrained(tmp_path)
    assert (body(ids).logits - theirs(ids).last_hidden_state).abs().max() <= AS_IT_IS


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical_and_their_auto_class_opens_it(head: str, tmp_path: Path) -> None:
    check_there_and_back(twins("deberta_v2", head, **sizes(SIZES, head))[1], tmp_path)


@pytest.mark.parametrize(
    "variant", ["no buckets", "a wide convolution, maps of their own", "no distances", "the authors' names"]
)
def test_there_and_back_with_other_settings(variant: str, tmp_path: Path) -> None:
    made = twins("deberta_v2", "masked_token", **sizes(SIZES, "masked_token", **VARIANTS[variant]))[1]
    check_there_and_back(made, tmp_path)


V3_BASE = {
    "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 512,
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7, "max_relative_positions": -1, "position_biased_input": False,
    "num_attention_heads": 12, "num_hidden_layers": 12, "type_vocab_size": 0, "vocab_size": 128100,
}  # fmt: skip
"""config.json of deberta-v3-base as its authors published it."""
V2_XLARGE = V3_BASE | {
    "hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 24, "num_hidden_layers": 24,
    "attention_head_size": 64, "conv_kernel_size": 3, "conv_act": "gelu", "pooler_dropout": 0,
    "pooler_hidden_act": "gelu", "pooler_hidden_size": 1536,
}  # fmt: skip


@pytest.mark.parametrize(("published", "preset"), [(V3_BASE, "v3_base"), (V2_XLARGE, "v2_xlarge")])
def test_a_published_config_is_read(published: dict[str, Any], preset: str) -> None:
    assert DeBERTaV2Config(**FOREIGN.read(published)) == DeBERTaV2Config(**PRESETS[preset])


def test_what_is_not_implemented_is_refused_all_at_once() -> None:
    refused = {
        "norm_rel_ebd": "batch_norm",
        "conv_groups": 2,
        "attention_head_size": 32,
        "conv_act": "mish",
        "pos_att_type": "p2p",
        "architectures": ["DebertaV2ForChoosing"],
    }
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read(V3_BASE | refused)
    for name in ("batch_norm", "conv_groups", "attention_head_size", "mish", "p2p", "DebertaV2ForChoosing"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_buckets": 1}, "num_buckets is 1"),
        ({"num_buckets": 64, "max_distance": 33}, "max_distance 33 lies within the 32 exact buckets"),
        ({"convolution_width": 4}, "convolution_width is 4, wanted an odd number"),
        ({"score_terms": ("p2c", "c2p")}, "score_terms"),
        ({"mask_decoder": "enhanced", "position_input": True}, "choose one"),
        ({"mask_decoder": "enhanced", "num_layers": 1}, "at least 2 layers"),
        ({"decoder_steps": 0, "num_heads": 7}, "decoder_steps is 0.*not a multiple of num_heads 7"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DeBERTaV2Config(**SIZES | changes)


@pytest.mark.parametrize(
    ("preset", "millions"), [("v3_xsmall", 71), ("v3_small", 142), ("v3_base", 185), ("v3_large", 435)]
)
def test_the_published_sizes_have_the_published_parameters(preset: str, millions: int) -> None:
    """With the head for masked tokens. The authors count backbone and tokens: 22 + 48, 44 + 98, 86 + 98, 304 + 131."""
    with torch.device("meta"):
        made = DeBERTaV2(DeBERTaV2Config(**PRESETS[preset]))
    assert round(sum(p.numel() for p in made.parameters()) / 1e6) == millions


# --- ten defects ------------------------------------------------------------------------------------------------------


def no_norm_of_distances(model: Any) -> None:
    """Its parameters stay, as named."""
    norm = model.trunk.blocks[0]["attention"].score.terms[0].distances.norm
    norm.forward = lambda rows: rows + 0.0 * (norm.weight + norm.bias)


def exact_distances(model: Any) -> None:
    distances = model.trunk.blocks[0]["attention"].score.terms[0].distances
    distances._bucket = lambda relative: relative


def buckets_half_as_wide(model: Any) -> None:
    distances = model.trunk.blocks[0]["attention"].score.terms[0].distances
    distances._bucket = lambda relative: log_bucket(relative, num_buckets=8, max_distance=16)


TEN = {
    **EIGHT,
    **OWN,
    "a table for each layer": a_table_for_each_layer,
    "no norm of distances": no_norm_of_distances,
    "no buckets": exact_distances,
    "buckets that end one token before": buckets_half_as_wide,
}


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("name", TEN)
def test_parity_catches_the_defect(name: str) -> None:
    assert len(TEN) >= 10
    check_defect(name, TEN[name], "deberta_v2", given("right"), sizes(SIZES, "masked_token"))


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("defect", ["reads the block's output", "reads padding", "no norm"])
def test_parity_catches_a_wrong_convolution(defect: str) -> None:
    changes = {"convolution_width": 3}
    ours, theirs, table = twins("deberta_v2", "masked_token", **sizes(SIZES, "masked_token", **changes))
    assert compare(ours, theirs, table, given("right")).worst <= LIFTED
    trunk = ours.trunk
    if defect == "reads the block's output":
        apply_block = type(trunk).__mro__[1].apply_block

        def wrong(i: int, x: Any, positions: Any, nodes: Any, source: Any) -> Any:
            y, staged = apply_block(trunk, i, x, positions, nodes, source)
            return (trunk.convolution_norm(y + trunk.convolution(y, positions)) if i == 0 else y), staged

        trunk.apply_block = wrong
    elif defect == "reads padding":
        read = trunk.convolution.forward
        trunk.convolution.forward = lambda x, positions: read(x, positions.map(lambda t: t.clamp(min=0)))
    else:
        norm = trunk.convolution_norm
        norm.forward = lambda x: x + 0.0 * (norm.weight + norm.bias)
    assert compare(ours, theirs, table, given("right")).worst > 1e3 * LIFTED
