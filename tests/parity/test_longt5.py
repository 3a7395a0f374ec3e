"""LongT5 with local attention against transformers' own, in float64, every parameter random: with its float32 casts lifted, and
as it is. Sources shorter and longer than the window, and than the blocks that long ones are run in, padded on either side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.longt5 import modeling_longt5

import formers
from formers.errors import ConfigError
from formers.hub import as_transformers
from formers.models.t5 import FOREIGN, T5, T5Config, activations
from formers.parts import attend
from formers.parts.masks import Causal, SameDocument, Window
from formers.parts.terms import T5Bias
from tests.parity.harness import float64_throughout, random_ids, randomise
from tests.parity.seq2seq import SIZES, Texts, compare, gap, logits_gap, padded, paired_gap, twins, whole

LIFTED = 1e-9
AS_IT_IS = 5e-6
"""transformers computes norms and the softmax of the encoder in float32 also in a float64 model: the floor is theirs."""

RADIUS = 13
GATED = {"gated": True, "activation": "gelu_tanh", "tie": False, "scale_head": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "1.0": {},
    "1.1": GATED,
    "tied, not scaled": {"scale_head": False},
    "published buckets and radius": GATED | {"num_buckets": 32, "max_distance": 128, "local_radius": 127},
    "a radius of one": {"local_radius": 1, "num_layers": 2, "num_decoder_layers": 1},
}
SOURCES = {
    "within the radius": lambda: whole(11),
    "whole": lambda: whole(541),
    "padded": lambda: padded("right", "left", (541, 7, 263)),
    "padded on the left": lambda: padded("left", "right", (541, 7, 263)),
    "a few tokens": lambda: padded(),
}
"""Lengths of 512 and more are run in blocks (of 64 queries here, 127 by the published radius), shorter ones dense."""


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch, modeling_longt5)


def long_twins(**changes: Any) -> Any:
    return twins(attention="eager", **{"local_radius": RADIUS} | changes)


# --- forward and backward ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_logits_loss_and_every_gradient_with_their_float32_casts_lifted(variant: str) -> None:
    ours, theirs, table = long_twins(**VARIANTS[variant])
    assert type(theirs).__name__ == "LongT5ForConditionalGeneration"
    for source, texts in SOURCES.items():
        found = compare(ours, theirs, table, texts())
        print(f"{variant}, {source}: logits {found.logits:.1e}, hidden {max(found.hidden.values()):.1e},",
              f"loss {found.loss:.1e}, gradients {max(found.gradients.values()):.1e}")  # fmt: skip
        found.assert_within(LIFTED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_logits_loss_and_every_gradient_as_it_is(variant: str) -> None:
    ours, theirs, table = long_twins(**VARIANTS[variant])
    found = compare(ours, theirs, table, SOURCES["padded"]())
    print(f"{variant}: {found.worst:.1e}")
    found.assert_within(AS_IT_IS)
    assert found.worst > LIFTED, "nothing was lifted that had to be lifted"


def test_long_sources_are_run_in_blocks_and_short_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, chosen = long_twins()[0], []
    choose = attend.choose

    def noted(case: Any) -> str:
        if case.mask == Window(RADIUS + 1) & SameDocument():
            chosen.append(choose(case))
        return choose(case)

    monkeypatch.setattr(attend, "choose", noted)
    for texts, runner in (("whole", "blocks"), ("padded", "blocks"), ("a few tokens", "dense")):
        chosen.clear()
        made = SOURCES[texts]()
        ours(made.ids, source=made.source)
        assert chosen == [runner] * SIZES["num_layers"]


def test_a_window_that_holds_the_source_is_no_window() -> None:
    """The weights of a T5 give what they gave, where every token is within the radius of every other."""
    short = T5(T5Config(**SIZES)).double().eval()
    randomise(short, 3)
    long = formers.lengthen(short, windows=2 * RADIUS)
    for source, same in ((RADIUS + 1, True), (RADIUS + 2, False)):
        texts = whole(source)
        beside = gap(long(texts.ids, source=texts.source).logits, short(texts.ids, source=texts.source).logits)
        assert (beside <= LIFTED) == same


# --- what it would catch ------------------------------------------------------------------------------------------------


def set_masks(mask: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for block in model.encoder.blocks:
            block["attention"].score.mask = mask

    return change


def one_sided_buckets(model: Any) -> None:
    term = model.encoder.blocks[0]["attention"].score.terms[0]
    one_sided = T5Bias(3, num_buckets=10, max_distance=17, bidirectional=False)
    term.past, term.future, term.buckets = one_sided.past, one_sided.future, one_sided.buckets


def scaled_queries(model: Any) -> None:
    model.encoder.blocks[1]["attention"].score.scale = 7**-0.5


DEFECTS: dict[str, Callable[[Any], None]] = {
    "a window one too wide": set_masks(Window(RADIUS + 2) & SameDocument()),
    "a window one too narrow": set_masks(Window(RADIUS) & SameDocument()),
    "a causal window": set_masks(Window(RADIUS + 1) & Causal() & SameDocument()),
    "one-sided buckets": one_sided_buckets,
    "scaled queries": scaled_queries,
}


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("texts", ["padded", "a few tokens"])
@pytest.mark.parametrize("name", DEFECTS)
def test_parity_catches_the_defect(name: str, texts: str) -> None:
    ours, theirs, _ = long_twins()
    made: Texts = SOURCES[texts]()
    assert logits_gap(ours, theirs, made) <= LIFTED
    DEFECTS[name](ours)
    assert not logits_gap(ours, theirs, made) <= 1e3 * LIFTED


@pytest.mark.usefixtures("lifted")
def test_parity_catches_biases_of_other_distances_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, _ = long_twins()
    chosen = T5Bias.prepare

    def moved(self: Any, project: Any, positions: Any) -> Any:
        term = chosen(self, project, positions)
        shift = lambda p: p.map(lambda index: index + 1)  # noqa: E731
        return attend.ByDistance(lambda q, k, at, seen: term(q, k, at, shift(seen)))

    monkeypatch.setattr(T5Bias, "prepare", moved)
    assert not logits_gap(ours, theirs, SOURCES["padded"]()) <= 1e3 * LIFTED


# --- there and back -----------------------------------------------------------------------------------------------------


CLASSES = {None: "LongT5ForConditionalGeneration", "none": "LongT5Model", "encoder": "LongT5EncoderModel"}


@pytest.mark.parametrize("variant", ["1.0", "1.1"])
@pytest.mark.parametrize("head", CLASSES)
def test_folders_there_and_back_are_bit_identical(head: str | None, variant: str, tmp_path: Path) -> None:
    config = T5Config(**SIZES | VARIANTS[variant] | {"local_radius": RADIUS, "head": head})
    ours = T5(config).eval()
    randomise(ours, 1)
    formers.save(ours, tmp_path / "ours")
    kind = getattr(transformers, CLASSES[head])
    theirs, said = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said.values()), said
    assert (theirs.config.model_type, theirs.config.local_radius) == ("longt5", RADIUS)
    assert gap(output(head, ours, theirs=False), output(head, theirs, theirs=True)) <= AS_IT_IS
    theirs.save_pretrained(tmp_path / "theirs")
    back = formers.load(tmp_path / "theirs")
    assert back.config == config
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.state_dict().items())
    formers.save(back, tmp_path / "again")
    stored, again = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "again"))
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)


def output(head: str | None, model: Any, *, theirs: bool) -> Tensor:
    ids, source = random_ids(2, 11, 101), random_ids(2, 43, 101, seed=1)
    if head == "encoder":
        out = model(source)
    else:
        out = model(input_ids=source, decoder_input_ids=ids) if theirs else model(ids, source=source)
    return out.logits if not theirs or head is None else out.last_hidden_state


def test_a_head_that_they_have_no_class_for_is_stored_as_ours(tmp_path: Path) -> None:
    config = T5Config(**SIZES, local_radius=RADIUS, head="sequence", num_labels=3)
    model = T5(config, seed=2).eval()
    formers.save(model, tmp_path)
    back = formers.load(tmp_path)
    assert back.config == config
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


LOCAL_BASE = {
    "architectures": ["LongT5ForConditionalGeneration"], "d_ff": 2048, "d_kv": 64, "d_model": 768, "decoder_start_token_id": 0,
    "dropout_rate": 0.1, "encoder_attention_type": "local", "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
    "global_block_size": 16, "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
    "local_radius": 127, "model_type": "longt5", "n_positions": 4096, "num_decoder_layers": 12, "num_heads": 12,
    "num_layers": 12, "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False, "use_cache": True, "vocab_size": 32128,
}  # fmt: skip
"""A config.json of the size and settings of long-t5-local-base."""


def test_their_settings_are_read_and_other_attention_is_one_clear_error() -> None:
    base = formers.models.registry.configure("t5", "long_base")
    assert T5Config(**FOREIGN.read(LOCAL_BASE)) == T5Config(**vars(base) | {"num_decoder_layers": 12})
    with pytest.raises(ConfigError, match="encoder_attention_type='transient-global' is not implemented") as refused:
        FOREIGN.read(LOCAL_BASE | {"encoder_attention_type": "transient-global"})
    assert str(refused.value).count("not implemented (") == 1
    with pytest.raises(ConfigError, match=r"T5ForConditionalGeneration.* is not implemented"):
        FOREIGN.read(LOCAL_BASE | {"architectures": ["T5ForConditionalGeneration"]})


@pytest.mark.parametrize(("preset", "short"), [("long_base", "v1_1_base"), ("long_large", "v1_1_large")])
def test_presets_are_those_of_1_1_with_the_published_radius(preset: str, short: str) -> None:
    long, without = (formers.models.registry.configure("t5", name) for name in (preset, short))
    assert T5Config(**vars(without) | {"local_radius": 127}) == long


@pytest.mark.usefixtures("lifted")
def test_what_is_said_to_mean_the_same_does() -> None:
    ours, theirs, _ = long_twins()
    pairs, texts = activations(ours.config), whole(541)
    assert len(pairs) == 3 * 4 + 2 * 6 + 3
    assert paired_gap(ours, theirs, pairs, texts) <= LIFTED


def test_as_transformers_its_loss_is_theirs() -> None:
    ours, theirs, _ = long_twins()
    texts = padded("right", "right", (541, 7, 263))
    given = {"input_ids": texts.source.input_ids, "labels": texts.labels}
    given |= {"attention_mask": texts.source.placed.present.long()}
    assert gap(as_transformers(ours)(**given).loss, theirs(**given).loss) <= AS_IT_IS
