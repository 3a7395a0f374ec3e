"""T5 against transformers' own, in float64, every parameter random, sizes prime where they can be: with its float32 casts
lifted, and as it is. Sources and targets of different lengths, padded on either side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.t5 import modeling_t5

import formers
from formers.errors import ConfigError, WeightsError
from formers.models.t5 import FOREIGN, T5Config, activations
from tests.parity.harness import float64_throughout, random_ids
from tests.parity.seq2seq import compare, padded, paired_gap, twins, whole

LIFTED = 1e-9
AS_IT_IS = 5e-6
"""transformers computes norms in float32 also in a float64 model: the floor is theirs."""

VARIANTS: dict[str, dict[str, Any]] = {
    "1.0": {},
    "1.1": {"gated": True, "activation": "gelu_tanh", "tie": False, "scale_head": False},
    "own head, scaled": {"tie": False},
    "tied, not scaled": {"scale_head": False},
    "gated SiLU": {"gated": True, "activation": "silu", "num_decoder_layers": None},
    "exact GELU": {"activation": "gelu", "eps": 3e-3},
    "published buckets": {"num_buckets": 32, "max_distance": 128},
    "one layer, one head": {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 1, "d_head": 29},
}


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch, modeling_t5)


# --- forward and backward ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_logits_loss_and_every_gradient_with_their_float32_casts_lifted(variant: str) -> None:
    ours, theirs, table = twins(**VARIANTS[variant])
    for texts in (whole(), padded()):
        found = compare(ours, theirs, table, texts)
        print(f"{variant}: logits {found.logits:.1e}, hidden {max(found.hidden.values()):.1e}, loss {found.loss:.1e},",
              f"gradients {max(found.gradients.values()):.1e}")  # fmt: skip
        found.assert_within(LIFTED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_logits_loss_and_every_gradient_as_it_is(variant: str) -> None:
    ours, theirs, table = twins(**VARIANTS[variant])
    found = compare(ours, theirs, table, padded())
    print(f"{variant}: {found.worst:.1e}")
    found.assert_within(AS_IT_IS)
    assert found.worst > LIFTED, "nothing was lifted that had to be lifted"


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sides", [("left", "left"), ("right", "right"), ("left", "right")])
def test_padding_on_either_side_of_source_and_target(sides: tuple[str, str], attention: str) -> None:
    ours, theirs, table = twins(attention=attention)
    compare(ours, theirs, table, padded(*sides)).assert_within(LIFTED)


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["1.0", "1.1"])
def test_there_and_back_is_bit_identical(variant: str) -> None:
    ours, theirs, table = twins(**VARIANTS[variant])
    written, stored = table.write(ours.state_dict()), theirs.state_dict()
    assert {name for name in stored if name not in written} == {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        *(["lm_head.weight"] if variant == "1.0" else []),
    }
    assert all(torch.equal(written[name], stored[name]) for name in written)
    again, _, _ = twins(seed=2, **VARIANTS[variant])
    again.load_state_dict(table.read(written, {name: tensor.shape for name, tensor in ours.state_dict().items()}))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("variant", ["1.0", "1.1", "tied, not scaled", "gated SiLU"])
def test_what_we_save_opens_with_transformers_and_what_it_saves_with_us(variant: str, tmp_path: Path) -> None:
    ours, _, _ = twins(**VARIANTS[variant])
    formers.save(ours, tmp_path / "ours")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert type(theirs).__name__ == "T5ForConditionalGeneration"
    ids, source = random_ids(2, 11, 101), random_ids(2, 7, 101, seed=1)
    assert gap(ours(ids, source=source).logits, theirs(input_ids=source, decoder_input_ids=ids).logits) <= 5e-6
    assert theirs(input_ids=source, labels=ids).loss.isfinite()  # which needs the ids of padding and of the start
    theirs.save_pretrained(tmp_path / "theirs")
    back = formers.load(tmp_path / "theirs")
    assert back.config == ours.config.__class__(
        **vars(ours.config) | {"num_decoder_layers": ours.config.decoder_layers}
    )
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.state_dict().items())


def gap(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max().detach())


def test_older_files_store_the_embedding_three_times_and_a_table_that_nobody_reads() -> None:
    ours, theirs, table = twins()
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    stored = theirs.state_dict() | {unused: torch.zeros(10, 3)}
    assert {"shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"} <= stored.keys()
    table.read(stored, shapes)
    with pytest.raises(WeightsError, match=r"encoder.embed_tokens.weight differs from the tensor it is tied to"):
        table.read(stored | {"encoder.embed_tokens.weight": stored["shared.weight"] + 1}, shapes)


T5_SMALL = {
    "architectures": ["T5WithLMHeadModel"], "d_ff": 2048, "d_kv": 64, "d_model": 512, "decoder_start_token_id": 0,
    "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0, "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 8, "num_layers": 6,
    "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"num_beams": 4}}, "vocab_size": 32128,
}  # fmt: skip
"""config.json of t5-small as it was published."""

FLAN_SMALL = T5_SMALL | {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "feed_forward_proj": "gated-gelu", "num_heads": 6,
    "num_layers": 8, "num_decoder_layers": 8, "tie_word_embeddings": False, "use_cache": True,
    "relative_attention_max_distance": 128, "transformers_version": "4.23.1",
}  # fmt: skip


def test_the_published_settings_are_read() -> None:
    assert T5Config(**FOREIGN.read(T5_SMALL)) == T5Config()
    flan = formers.models.registry.configure("t5", "v1_1_small")
    assert T5Config(**FOREIGN.read(FLAN_SMALL)) == T5Config(**vars(flan) | {"num_decoder_layers": 8})


def test_settings_that_are_not_implemented_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        FOREIGN.read(
            T5_SMALL | {"is_decoder": True, "is_encoder_decoder": False, "sparse": 3, "chunk_size_feed_forward": 5}
        )
    for name in ("is_decoder=True", "is_encoder_decoder=False", "sparse=3", "chunk_size_feed_forward=5"):
        assert name in str(refused.value)
    for wrong in ({"feed_forward_proj": "gated-mish"}, {"feed_forward_proj": "relu", "is_gated_act": True}):
        with pytest.raises(ConfigError, match="feed_forward_proj"):
            FOREIGN.read(T5_SMALL | wrong)


COUNTS = {
    "small": 60_506_624, "base": 222_903_552, "large": 737_668_096, "3b": 2_851_598_336, "11b": 11_307_321_344,
    "v1_1_small": 76_961_152, "v1_1_base": 247_577_856, "v1_1_large": 783_150_080, "v1_1_xl": 2_849_757_184,
    "v1_1_xxl": 11_135_332_352,
}  # fmt: skip


@pytest.mark.parametrize("preset", COUNTS)
def test_presets_have_the_published_parameter_counts(preset: str) -> None:
    with torch.device("meta"):
        model = formers.build("t5", preset=preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[preset]


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", ["1.0", "1.1"])
def test_what_is_said_to_mean_the_same_does(variant: str) -> None:
    """The pairs of `activations`, each module's output beside the other's."""
    ours, theirs, _ = twins(**VARIANTS[variant])
    pairs, texts = activations(ours.config), whole()
    assert len(pairs) == 3 * 4 + 2 * 6 + 3
    assert paired_gap(ours, theirs, pairs, texts) <= LIFTED
