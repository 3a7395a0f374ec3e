"""Longformer against transformers' own, head by head: float64, every parameter random, sizes prime where they can be, with its
float32 casts lifted and as it is; global tokens from none to all, padding, texts shorter than the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.longformer import modeling_longformer

import formers
from formers.errors import ConfigError, DataError
from formers.models.longformer import FOREIGN, HEADS, PRESETS, Longformer, LongformerConfig, question_tokens
from formers.parts.masks import GlobalTokens, SameDocument, Window
from formers.parts.positions import Positions
from tests.parity import encoder_defects
from tests.parity.encoders import Batch, Differences, batch, check_there_and_back, compare, twins
from tests.parity.harness import float64_throughout

LIFTED, AS_IT_IS = 1e-9, 5e-6
SIZES: dict[str, Any] = {
    "vocab_size": 101, "d_model": 39, "num_layers": 3, "num_heads": 3, "d_ff": 53, "max_length": 71, "num_types": 3,
    "windows": (4, 6, 12),
}  # fmt: skip
LABELS = {"sequence": 5, "token": 7}
GLOBALS = ("none", "first", "ragged", "all")


def sizes(head: str) -> dict[str, Any]:
    return SIZES | {"num_labels": LABELS.get(head, 2)}


def given(side: str, head: str = "masked_token", which: str = "ragged") -> Batch:
    """Texts of 23, 17, 5 and 1 tokens, padded on a side, of which some tokens are global."""
    made = batch(side, vocab_size=101, num_labels=LABELS.get(head, 2), num_types=3)
    rows, length = made.ids.shape
    place = torch.arange(length).expand(rows, -1)
    chosen = {
        "none": torch.zeros(rows, length, dtype=torch.bool),
        "first": place == 0,
        "ragged": (place % 5 == 3) & (place < torch.tensor([[23], [9], [4], [0]])),  # 4, 2, 1 and none at all
        "all": torch.ones(rows, length, dtype=torch.bool),
    }[which]
    return replace(made, positions=replace(made.positions, is_global=chosen))


def pair(head: str, *, random: bool = True, **changes: Any) -> Any:
    """Ours and theirs. Theirs is told of global tokens, and places begin at the row that ours begins at."""
    ours, theirs, table = twins("longformer", head, random=random, attention="eager", **sizes(head) | changes)
    return ours, theirs, table


def same(ours: Any, theirs: nn.Module, table: Any, one: Batch) -> Differences:
    first = ours.config.first_position
    index = one.positions.index.expand_as(one.ids)

    def tell(module: nn.Module, args: Any, inputs: dict[str, Any]) -> Any:
        ids = inputs["input_ids"]
        assert one.positions.is_global is not None
        inputs["position_ids"] = torch.where(index >= 0, index + first, 1).view_as(ids)
        inputs["global_attention_mask"] = (one.positions.is_global & (index >= 0)).long().view_as(ids)
        return args, inputs

    hook = theirs.register_forward_pre_hook(tell, with_kwargs=True)
    found = compare(ours, theirs, table, one)
    hook.remove()
    return found


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch, modeling_longformer)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("which", GLOBALS)
@pytest.mark.parametrize("side", ["whole", "right"])
def test_hidden_states_logits_loss_and_every_gradient_with_their_float32_casts_lifted(side: str, which: str) -> None:
    found = same(*pair("masked_token"), given(side, which=which))
    print(f"longformer {side} {which}: {found.worst:.1e}")
    found.assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("head", HEADS)
def test_every_head_too(head: str) -> None:
    found = same(*pair(head), given("right", head))
    print(f"longformer {head}: {found.worst:.1e}")
    found.assert_within(LIFTED)


@pytest.mark.parametrize("head", HEADS)
def test_hidden_states_logits_loss_and_every_gradient_as_it_is(head: str) -> None:
    """Rows of 12 tokens, which theirs does not pad to a multiple of the window, with a global token each: see the next test."""
    found = same(*pair(head), cut(given("whole", head, "first"), 12))
    print(f"longformer {head}, as it is: {found.worst:.1e}")
    found.assert_within(AS_IT_IS)
    assert found.worst > LIFTED, "nothing was lifted that had to be lifted"


def test_padding_and_ragged_numbers_of_global_tokens_as_it_is_forward() -> None:
    """In float64 their smallest number becomes -inf in a float32 softmax, so that rows that see nothing, of padding and of the
    global tokens that a text has fewer than another, get NaN: it is set to 0 afterwards, but its gradient stays."""
    found = same(*pair("masked_token"), given("right"))
    assert max(*found.hidden.values(), found.logits, found.loss) <= AS_IT_IS
    assert all(gap != gap for gap in found.gradients.values() if not gap <= AS_IT_IS)


def cut(one: Batch, length: int) -> Batch:
    """The first tokens of every row."""
    return replace(
        one,
        ids=one.ids[:, :length],
        positions=one.positions.slice(0, length),
        types=None if one.types is None else one.types[:, :length],
        tokens=one.tokens[:, :length],
        starts=one.starts.clamp(max=length - 1),
        ends=one.ends.clamp(max=length - 1),
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "the same window in all layers": {"windows": 4},
    "a window wider than the text": {"windows": 64},
    "places from another row": {"first_position": 1},
    "other curves": {"activation": "gelu_tanh", "eps": 3e-3},
    "one head": {"num_heads": 1},
}


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_settings_too(variant: str) -> None:
    same(*pair("masked_token", **VARIANTS[variant]), given("right")).assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
def test_in_blocks_too() -> None:
    """Texts of this size are run by the kernel with a mask; what long ones are run by is asked for by name."""
    ours, theirs, table = pair("masked_token")
    for one in ours.trunk.blocks:
        one["attention"].runner = "blocks"
    for side in ("whole", "right"):
        same(ours, theirs, table, given(side)).assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("way", ["of_few", "of_many"])
@pytest.mark.parametrize("which", ["first", "ragged", "all"])
def test_global_tokens_either_way(way: str, which: str) -> None:
    """Few are taken through the maps to the tokens; for many, every token gives a key and a value."""
    ours, theirs, table = pair("masked_token")
    for one in ours.trunk.blocks:
        one["attention"].of_global_tokens = getattr(one["attention"], way)
    same(ours, theirs, table, given("right", which=which)).assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("side", ["whole", "right"])
def test_where_nothing_is_said_the_first_token_of_a_text_to_label_is_global(side: str) -> None:
    ours, theirs, table = pair("sequence")
    told = given(side, "sequence", "first")
    silent = replace(told, positions=replace(told.positions, is_global=None))
    with torch.no_grad():
        assert torch.equal(
            ours(told.ids, positions=silent.positions).logits, ours(told.ids, positions=told.positions).logits
        )
    same(ours, theirs, table, told).assert_within(LIFTED)


def test_a_window_as_wide_as_the_text_and_no_global_token_is_full_attention() -> None:
    ours, _, _ = pair("none", windows=64)
    one = given("right", "none", "none")
    with torch.no_grad():
        narrow = ours(one.ids, positions=one.positions).logits
        for made in ours.trunk.blocks:
            made["attention"].score.mask = SameDocument()
        gap = (ours(one.ids, positions=one.positions).logits - narrow)[one.real].abs().max()
    assert gap <= LIFTED


def test_every_parameter_gets_a_gradient_where_a_token_is_global() -> None:
    made = formers.build("longformer", **SIZES)
    is_global = torch.zeros(2, 13, dtype=torch.bool)
    is_global[0, 3] = True
    made(torch.randint(0, 101, (2, 13)), is_global=is_global).logits.square().sum().backward()
    silent = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


# --- the tokens of a question -----------------------------------------------------------------------------------------


def test_a_question_is_all_before_the_first_of_three_separators() -> None:
    ids = torch.tensor([[0, 7, 8, 2, 2, 9, 2, 1], [0, 2, 2, 9, 9, 9, 9, 2]])
    assert question_tokens(ids, 2).tolist() == [[True] * 3 + [False] * 5, [True] + [False] * 7]


@pytest.mark.parametrize("row", [[0, 7, 2, 9, 2], [0, 2, 2, 2, 2], [0, 1, 3, 4, 5]])
def test_a_row_without_exactly_three_separators_is_refused(row: list[int]) -> None:
    with pytest.raises(DataError, match="separators"):
        question_tokens(torch.tensor([row]), 2)


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [head for head in HEADS if head != "none"])
def test_a_folder_goes_there_and_back_bit_for_bit(head: str, tmp_path: Path) -> None:
    check_there_and_back(pair(head)[1].float(), tmp_path)


def test_settings_go_there_and_back() -> None:
    config = LongformerConfig(**SIZES, first_position=4, separator=7)
    theirs = FOREIGN.write(config)
    assert (theirs["pad_token_id"], theirs["max_position_embeddings"], theirs["attention_window"]) == (
        3,
        75,
        [4, 6, 12],
    )
    assert formers.config.from_dict(LongformerConfig, FOREIGN.read(theirs)) == config


def test_settings_that_are_not_implemented_are_all_named() -> None:
    asked = FOREIGN.write(LongformerConfig()) | {
        "architectures": ["LongformerForChoosing"], "attention_mode": "n2", "is_decoder": True, "hidden_act": "mish",
        "onnx_export": True, "new_setting": 3,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read(asked)
    for name in ("LongformerForChoosing", "attention_mode", "is_decoder", "mish", "onnx_export", "new_setting"):
        assert name in str(caught.value)


@pytest.mark.parametrize("windows", [7, 0, (4, 6), (4, 6, 5)])
def test_windows_are_even_and_one_a_layer(windows: Any) -> None:
    with pytest.raises(ConfigError, match="windows"):
        LongformerConfig(**SIZES | {"windows": windows})


@pytest.mark.parametrize(("preset", "parameters"), [("base", 148_659_456), ("large", 434_600_960)])
def test_the_published_sizes_have_the_published_parameters(preset: str, parameters: int) -> None:
    with torch.device("meta"):
        made = Longformer(LongformerConfig(**PRESETS[preset], head="pooler"))
    assert sum(p.numel() for p in made.parameters()) == parameters


# --- defects ------------------------------------------------------------------------------------------------------------


def of_layer(model: Any, i: int = 1) -> Any:
    return model.trunk.blocks[i]["attention"]


def one_sided(model: Any) -> None:
    """`windows` taken for what lies on each side, as in the authors' own code."""
    for attention, window in zip((of_layer(model, i) for i in range(3)), (4, 6, 12), strict=True):
        attention.score.mask = (Window(window + 1) | GlobalTokens()) & SameDocument()


def too_narrow(model: Any) -> None:
    of_layer(model).score.mask = (Window(3) | GlobalTokens()) & SameDocument()


def global_keys_not_seen(model: Any) -> None:
    of_layer(model).score.mask = Window(4) & SameDocument()


def global_rows_by_local_maps(model: Any) -> None:
    of_layer(model).project_global = of_layer(model).project


def local_rows_by_global_keys(model: Any) -> None:
    attention = of_layer(model)
    attention.project = attention.project_global


def global_rows_unscaled(model: Any) -> None:
    attention = of_layer(model)
    whole = attention.of_global_tokens

    def unscaled(x: Tensor, positions: Positions, slots: Tensor) -> Tensor:
        scale, attention.score.scale = attention.score.scale, 1.0
        out = whole(x, positions, slots)
        attention.score.scale = scale
        return out

    attention.of_global_tokens = unscaled


def global_rows_see_the_window(model: Any) -> None:
    attention = of_layer(model)
    attention.of_global_tokens = lambda x, positions, slots: attention.weigh(
        *attention.look(x, positions, None)[:3], positions, positions
    ).gather(2, slots.clamp(min=0)[:, None, :, None].expand(-1, 3, -1, 13))


def places_without_offset(model: Any) -> None:
    model.embedding.places.first = 0


OWN: dict[str, Callable[[Any], None]] = {
    "a window of w on each side": one_sided,
    "a window one narrower": too_narrow,
    "global keys are not seen": global_keys_not_seen,
    "global rows by the local maps": global_rows_by_local_maps,
    "local rows by the global maps": local_rows_by_global_keys,
    "global rows not scaled": global_rows_unscaled,
    "global rows see the window alone": global_rows_see_the_window,
    "places without the offset": places_without_offset,
}
SHARED = {
    name: seed for name, seed in encoder_defects.NINE.items() if name not in ("a causal mask", "positions off by one")
}


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("name", OWN | SHARED)
def test_parity_catches_the_defect(name: str) -> None:
    assert len(OWN | SHARED) >= 10
    ours, theirs, table = pair("masked_token")
    if name == "wrong epsilon":
        ours.trunk.norms[1]["attention"].eps = 1e-4
    else:
        (OWN | SHARED)[name](ours)
    found = worst_of(ours, theirs, table)
    print(f"longformer, {name}: {found:.1e}")
    assert found > 1e3 * LIFTED


def worst_of(ours: Any, theirs: nn.Module, table: Any) -> float:
    """Parameters that a defect has made two into one are left out of the gradients, which only makes it harder to see."""
    return same(ours, theirs, table, given("right")).worst
