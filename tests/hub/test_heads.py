"""A stored body under another head: what is read, what is drawn, what is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import formers
from formers.errors import ConfigError, WeightsError
from tests.parity.encoders import twins

SIZES: dict[str, dict[str, Any]] = {
    "bert": {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 29},
    "albert": {
        "vocab_size": 31, "d_embedding": 7, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 29,
    },
    "distilbert": {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 29},
}  # fmt: skip
IDS = torch.arange(11)[None]


def stored(name: str, head: str, folder: Path, **labels: Any) -> Path:
    twins(name, head, **SIZES[name] | labels)[1].save_pretrained(folder)
    return folder


def body(model: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("name", "had", "wanted", "read"),
    [
        ("bert", "pretraining", "masked_token", "all"),
        ("bert", "pretraining", "pair", "all"),
        ("bert", "pretraining", "pooler", "all"),
        ("bert", "pretraining", "sequence", "pool"),
        ("bert", "masked_token", "sequence", "none"),
        ("bert", "pooler", "masked_token", "none"),
        ("bert", "pooler", "sequence", "pool"),
        ("bert", "token", "pooler", "none"),
        ("albert", "pretraining", "token", "none"),
        ("albert", "pooler", "sequence", "pool"),
        ("distilbert", "masked_token", "sequence", "none"),
        ("distilbert", "none", "masked_token", "none"),
        ("distilbert", "masked_token", "none", "all"),
    ],
)
def test_another_head_takes_what_the_folder_has_and_draws_the_rest(
    name: str, had: str, wanted: str, read: str, tmp_path: Path
) -> None:
    folder = stored(name, had, tmp_path)
    before, after, again = formers.load(folder), formers.load(folder, head=wanted), formers.load(folder, head=wanted)
    assert same(body(before), body(after))
    assert same(after.state_dict(), again.state_dict())  # what is drawn is drawn from one seed
    drawn = {n for n, t in after.head.state_dict().items() if n.endswith("bias") and "norm" not in n and not t.any()}
    biases = {n for n in after.head.state_dict() if n.endswith("bias") and "norm" not in n}
    assert drawn == {"all": set(), "pool": {"linear.bias"}, "none": biases}[read]
    assert {t.dtype for t in after.parameters()} == {torch.float64}
    assert after(IDS).logits.isfinite().all()
    if hasattr(after.head, "tie"):
        assert after.head.linear.weight is after.embedding.tokens.weight


def test_more_labels_are_a_new_head(tmp_path: Path) -> None:
    folder = stored("bert", "sequence", tmp_path, num_labels=3)
    assert formers.load(folder)(IDS).logits.shape == (1, 3)
    more = formers.load(folder, num_labels=5)
    assert more(IDS).logits.shape == (1, 5)
    assert torch.equal(more.head.pool.linear.weight, formers.load(folder).head.pool.linear.weight)


def test_labels_of_one_task_are_not_those_of_another(tmp_path: Path) -> None:
    folder = stored("bert", "token", tmp_path, num_labels=3)
    moved = formers.load(folder, head="sequence")
    assert not torch.equal(moved.head.linear.weight, formers.load(folder).head.linear.weight)


def test_what_pretraining_left_in_a_file_is_passed_over(tmp_path: Path) -> None:
    """As in bert-base-uncased: both heads of pretraining, and a config that names one."""
    folder = stored("bert", "pretraining", tmp_path)
    whole = formers.load(folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("BertForPreTraining", "BertForMaskedLM"))
    masked = formers.load(folder)
    assert masked.config.head == "masked_token"
    assert torch.equal(masked(IDS).logits, whole(IDS).logits)


def test_a_file_without_the_bodys_prefix_or_with_it_is_read(tmp_path: Path) -> None:
    folder = stored("bert", "pooler", tmp_path)
    plain = formers.load(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({f"bert.{n}": t for n, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    assert same(formers.load(folder).state_dict(), plain.state_dict())


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_a_body_without_a_pooler_is_the_body_alone_in_both_directions(name: str, tmp_path: Path) -> None:
    """As BertModel(config, add_pooling_layer=False) saves it."""
    _, theirs, _ = twins(name, "pooler", **SIZES[name])
    theirs.pooler = None
    theirs.save_pretrained(tmp_path / "theirs")
    ours = formers.load(tmp_path / "theirs")
    assert ours.config.head == "none"
    assert (ours(IDS).logits - theirs(IDS).last_hidden_state).abs().max() <= 1e-9
    formers.save(ours, tmp_path / "ours")
    stored, written = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert same(stored, written)
    again = type(theirs).from_pretrained(tmp_path / "ours", add_pooling_layer=False)
    read, written = again(IDS).last_hidden_state, theirs(IDS).last_hidden_state
    torch.testing.assert_close(read, written, rtol=0, atol=1e-12)  # where a tensor lies in memory may change its sums
    assert formers.load(tmp_path / "ours", head="token", num_labels=5)(IDS).logits.shape == (1, 11, 5)


def test_of_a_file_with_a_pooler_the_body_alone_can_be_asked_for(tmp_path: Path) -> None:
    whole = formers.load(stored("bert", "pooler", tmp_path))
    alone = formers.load(tmp_path, head="none")
    hidden, _ = whole.body(IDS)
    assert torch.equal(alone(IDS).logits, hidden)


def test_a_head_that_is_missing_without_being_asked_for_is_an_error(tmp_path: Path) -> None:
    folder = stored("bert", "pooler", tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"BertModel"', '"BertForTokenClassification"'))
    with pytest.raises(WeightsError, match=r"missing classifier\.bias(.|\n)*the head 'token'(.|\n)*head='none'"):
        formers.load(folder)
    assert formers.load(folder, head="none")(IDS).logits.shape == (1, 11, 22)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head": "sequense"}, "head 'sequense' is none of masked_token"),
        ({"head": "span", "num_labels": 3}, "head 'span' has 2 labels, num_labels is 3"),
        ({"num_labels": 3, "labels": ("a", "b")}, "num_labels is 3, labels names 2: a, b"),
        ({"num_labels": 0}, "num_labels is 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = stored("bert", "masked_token", tmp_path)
    with pytest.raises(ConfigError, match=said):
        formers.load(folder, **changes)


@pytest.mark.parametrize(("name", "head"), [("bert", "masked_token"), ("albert", "token"), ("distilbert", "sequence")])
def test_transformers_own_class_is_opened_for_comparison(name: str, head: str, tmp_path: Path) -> None:
    from formers.hub.targets import resolve

    folder = stored(name, head, tmp_path)
    theirs = resolve(f"transformers:{folder}").model
    assert isinstance(theirs, transformers.PreTrainedModel)
    wanted, found = theirs(IDS).logits, formers.load(folder)(IDS).logits
    assert (found - wanted).abs().max() <= 1e-9


def test_a_config_that_names_no_class_is_asked_for_it_where_the_first_does_not_fit(tmp_path: Path) -> None:
    folder = stored("bert", "token", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    named = config.pop("architectures")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        WeightsError, match=r"unknown classifier\.bias(.|\n)*names no class(.|\n)*BertForTokenClassification"
    ):
        formers.load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"architectures": named[0]}))  # a text, not a list
    assert formers.load(folder).config.head == "token"
