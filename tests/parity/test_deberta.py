"""DeBERTa, version 1, against transformers' own, head by head: float64, every parameter random, sizes prime where they can
be, with its float32 casts lifted and as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import formers
from formers.errors import ConfigError, WeightsError
from formers.models.deberta import FOREIGN, HEADS, PRESETS, DeBERTa, DeBERTaConfig, weights
from tests.parity.disentangled import AS_IT_IS, EIGHT, LIFTED, OWN, given, lift, sides, sizes
from tests.parity.encoder_defects import check_defect
from tests.parity.encoders import check_there_and_back, compare, twins

SIZES: dict[str, Any] = {
    "vocab_size": 101, "d_model": 39, "num_layers": 3, "num_heads": 3, "d_ff": 53, "max_length": 71, "max_distance": 7,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "every distance its row": {"max_distance": 71},
    "positions and types at the input": {"position_input": True, "num_types": 3},
    "content to position alone": {"score_terms": ("c2p",)},
    "position to content alone": {"score_terms": ("p2c",)},
    "no distances": {"score_terms": (), "position_input": True},
    "other curves": {"activation": "gelu_tanh", "eps": 3e-3},
    "one head": {"num_heads": 1},
    "the authors' names": {"legacy": False},
}


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    lift(monkeypatch)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize(("head", "side"), sides(HEADS))
def test_hidden_states_logits_loss_and_every_gradient_with_their_float32_casts_lifted(head: str, side: str) -> None:
    ours, theirs, table = twins("deberta", head, **sizes(SIZES, head))
    found = compare(ours, theirs, table, given(side, head))
    print(f"deberta {head} {side}: {found.worst:.1e}")
    found.assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_settings_too(variant: str) -> None:
    changes = VARIANTS[variant]
    ours, theirs, table = twins("deberta", "masked_token", **sizes(SIZES, "masked_token", **changes))
    compare(ours, theirs, table, given("right", num_types=changes.get("num_types", 0))).assert_within(LIFTED)


@pytest.mark.parametrize("head", HEADS)
def test_hidden_states_logits_loss_and_every_gradient_as_it_is(head: str) -> None:
    ours, theirs, table = twins("deberta", head, **sizes(SIZES, head))
    found = compare(ours, theirs, table, given("right", head))
    print(f"deberta {head}, as it is: {found.worst:.1e}")
    found.assert_within(AS_IT_IS)
    assert found.worst > LIFTED, "nothing was lifted that had to be lifted"


@pytest.mark.usefixtures("lifted")
def test_a_pooler_of_another_curve() -> None:
    ours, theirs, table = twins("deberta", "sequence", **sizes(SIZES, "sequence", pooler_activation="tanh"))
    compare(ours, theirs, table, given("right", "sequence")).assert_within(LIFTED)


# --- there and back ---------------------------------------------------------------------------------------------------


def in_float32(head: str, **changes: Any) -> Any:
    """Theirs makes two biases of a block float32, whatever a folder holds."""
    return twins("deberta", head, **sizes(SIZES, head, **changes))[1].float()


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical_and_their_auto_class_opens_it(head: str, tmp_path: Path) -> None:
    check_there_and_back(in_float32(head), tmp_path)


@pytest.mark.parametrize(
    "variant", ["positions and types at the input", "position to content alone", "the authors' names"]
)
def test_there_and_back_with_other_settings(variant: str, tmp_path: Path) -> None:
    check_there_and_back(in_float32("masked_token", **VARIANTS[variant]), tmp_path)


PUBLISHED = {
    "model_type": "deberta", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 512,
    "relative_attention": True, "pos_att_type": "c2p|p2c", "layer_norm_eps": 1e-7, "padding_idx": 0,
    "max_relative_positions": -1, "position_biased_input": False, "num_attention_heads": 12, "num_hidden_layers": 12,
    "type_vocab_size": 0, "vocab_size": 50265, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 768,
}  # fmt: skip
"""config.json of deberta-base as its authors published it."""


def test_a_published_config_is_read() -> None:
    assert DeBERTaConfig(**FOREIGN.read(PUBLISHED)) == DeBERTaConfig()


def authors_file(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """A folder as the authors publish them: their head's own names, places that transformers does not read, no class."""
    theirs = twins("deberta", "masked_token", **sizes(SIZES, "masked_token", legacy=False))[1]
    theirs.save_pretrained(folder)
    config = (folder / "config.json").read_text().replace('"legacy": false,', "").replace("DebertaForMaskedLM", "")
    (folder / "config.json").write_text(config.replace('"architectures": [\n    ""\n  ],', ""))
    stored = load_file(folder / "model.safetensors")
    stored["deberta.embeddings.position_embeddings.weight"] = torch.randn(71, 39, dtype=torch.float64)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return theirs, stored


def test_the_authors_files_are_read_by_the_names_of_their_tensors(tmp_path: Path) -> None:
    theirs, stored = authors_file(tmp_path)
    ours, ids = formers.load(tmp_path), given("whole").ids
    assert not ours.config.legacy
    assert ours.config.mask_decoder == "none"
    assert (ours(ids).logits - theirs(ids).logits).abs().max() <= AS_IT_IS
    places = stored["deberta.embeddings.position_embeddings.weight"]
    assert torch.equal(formers.load(tmp_path, mask_decoder="enhanced").trunk.places.table.weight, places)
    assert formers.load(tmp_path, head="token", num_labels=5)(ids).logits.shape == (4, 23, 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relative_attention": False}, "relative_attention=False"),
        ({"pos_att_type": "c2p|p2p"}, "p2p"),
        ({"pos_att_type": None}, "pos_att_type=None with relative_attention=True"),
        ({"talking_head": True}, "talking_head"),
        ({"pooler_dropout": 0.2}, "pooler_dropout"),
        ({"pooler_hidden_size": 40}, "pooler_hidden_size=40"),
        ({"embedding_size": 17}, "embedding_size=17"),
        ({"hidden_act": "mish"}, "mish"),
        ({"architectures": ["DebertaForMultipleChoice"]}, "DebertaForMultipleChoice"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"position_buckets": 256}, "position_buckets=256 is unknown"),
    ],
)
def test_what_is_not_implemented_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FOREIGN.read(PUBLISHED | changes)


def test_what_is_not_implemented_is_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read(
            PUBLISHED | {"talking_head": True, "pos_att_type": "p2p", "embedding_size": 17, "hidden_act": "mish"}
        )
    for name in ("talking_head", "p2p", "embedding_size", "mish"):
        assert name in str(caught.value)


def test_a_projection_that_heads_do_not_divide_is_a_misfit_and_no_crash() -> None:
    config = DeBERTaConfig(**SIZES)
    stored = {"deberta.encoder.layer.0.attention.self.in_proj.weight": torch.zeros(10, 39)}
    _, problems = weights(config).partial(stored)
    assert any("in_proj.weight has 10 rows, which 3 heads do not divide" in problem for problem in problems)
    with pytest.raises(WeightsError, match="missing"):
        weights(config).read(stored, {})


@pytest.mark.parametrize(("preset", "millions"), [("base", 139), ("large", 406), ("xlarge", 759)])
def test_the_published_sizes_have_the_published_parameters(preset: str, millions: int) -> None:
    """With the head for masked tokens; the authors count 140, 400 and 750 million."""
    with torch.device("meta"):
        made = DeBERTa(DeBERTaConfig(**PRESETS[preset]))
    assert round(sum(p.numel() for p in made.parameters()) / 1e6) == millions


# --- ten defects ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def heads_split_by_thirds(model: Any) -> None:
    """As GPT-2's map is, where theirs lies head by head."""
    weight = model.trunk.blocks[1]["attention"].project.linear.weight
    weight.copy_(weight.unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2).clone())


TEN = {**EIGHT, **OWN, "heads split by thirds": heads_split_by_thirds}


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("name", TEN)
def test_parity_catches_the_defect(name: str) -> None:
    assert len(TEN) >= 10
    check_defect(name, TEN[name], "deberta", given("right"), sizes(SIZES, "masked_token"))
