"""What a Reformer may have beyond the paper: full attention for short texts, local heads, product-key memories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.errors import ConfigError, WeightsError
from formers.models.reformer import ReformerConfig
from formers.parts.product_keys import ProductKeyMemory, usage
from formers.parts.reversible import set_rebuild
from formers.parts.taps import listen
from formers.training.loss import cross_entropy
from tests.models.test_reformer import EQUAL, EXCEPTED, SILENT, SIZES, ids, model
from tests.training.small import job

MEMORY: dict[str, Any] = {
    "memory_layers": (1,), "memory_keys": 9, "memory_heads": 2, "memory_d_key": 6, "memory_best": 4,
}  # fmt: skip


def verdicts(report: Any) -> set[str]:
    assert report.ok, report.failed
    return {v.name for v in report.laws.values() if v.status != "pass"}


# --- full attention below a length --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["paper", "transformers"])
def test_where_no_text_is_hashed_no_law_is_excepted(rules: str) -> None:
    assert verdicts(formers.certify(model(rules=rules, full_below=65), length=29)) == SILENT


def test_where_long_texts_are_hashed_the_exceptions_stay_and_padding_joins_them() -> None:
    made = model(rules="paper", full_below=64)
    assert set(made.law_exceptions) == EXCEPTED | {"padding changes nothing"}
    assert "full_below" in made.law_exceptions["padding changes nothing"]
    assert set(model(rules="paper").law_exceptions) == EXCEPTED


def test_an_encoder_of_hashed_layers_alone_that_hashes_nothing_keeps_every_law_of_encoders() -> None:
    made = model(head="masked_token", layers=("lsh",), full_below=65)
    assert made.law_exceptions == {}
    report = formers.certify(made, length=29)
    assert report.ok, report.failed
    assert report.laws["padding changes nothing"].status == report.laws["documents stay apart"].status == "pass"


@torch.no_grad()
def test_the_whole_model_below_the_threshold_is_that_of_one_chunk() -> None:
    short, one = (model(rules="paper", **more) for more in ({"full_below": 30}, {"lsh_chunk": 40, "num_buckets": 1}))
    text = ids(29)
    assert float((short(text).logits - one(text).logits).abs().max()) <= EQUAL
    assert float((short(ids(31)).logits - model(rules="paper")(ids(31)).logits).abs().max()) == 0.0


def test_gradients_are_rebuilt_with_dropout_and_a_state() -> None:
    made = model(num_layers=4, full_below=65, dropout=0.3, lsh_dropout=0.3, local_dropout=0.3).train()
    text, found = ids(37), []
    for rebuild in (True, False):
        set_rebuild(made, rebuild)
        torch.manual_seed(5)
        hidden, _ = made.body(text)
        total, count = cross_entropy(hidden, made.head, text)
        found.append(torch.autograd.grad(total / count, list(made.parameters())))
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) <= EQUAL


# --- local heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["paper", "transformers"])
def test_laws_hold_where_some_heads_are_local(rules: str) -> None:
    wanted = EXCEPTED | SILENT | ({"padding changes nothing"} if rules == "transformers" else set())
    assert verdicts(formers.certify(model(rules=rules, local_heads=1), length=29)) == wanted


# --- product-key memories -----------------------------------------------------------------------------------------------


def test_laws_hold_with_memories_in_place_of_feed_forwards() -> None:
    report = formers.certify(model(**MEMORY, full_below=65), length=29)
    assert verdicts(report) == SILENT
    assert report.laws["first loss near ln V"].status == "pass"


def test_norms_of_the_batch_are_excepted_by_name() -> None:
    made = model(**MEMORY, memory_norm="batch", full_below=65)
    assert verdicts(formers.certify(made, length=29)) == SILENT | {
        "rows independent",
        "training differs only by dropout",
    }
    assert "batch" in made.law_exceptions["rows independent"]


def test_a_batchs_norm_is_not_excepted_for_nothing() -> None:
    made = model(**MEMORY, memory_norm="batch", full_below=65)
    made.law_exceptions = {}
    failed = formers.certify(made, laws=["rows independent", "training differs only by dropout"], length=29).failed
    assert len(failed) == 2


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
def test_a_memory_is_saved_and_loaded(norm: str, tmp_path: Path) -> None:
    made = formers.build("reformer", "nano", **MEMORY, memory_norm=norm)
    made.train()(ids(20) % 512)
    loaded = formers.load(formers.save(made.eval(), tmp_path / "memory"))
    assert loaded.config == made.config
    assert made.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in made.state_dict().items())
    assert json.loads((tmp_path / "memory" / "config.json").read_text())["model_type"] == "formers-reformer"
    assert torch.equal(made(ids(20)).logits, loaded(ids(20)).logits)


def test_a_folder_without_memories_is_not_made_one_with(tmp_path: Path) -> None:
    folder = formers.save(formers.build("reformer", "nano"), tmp_path / "plain")
    with pytest.raises(WeightsError, match="half_keys"):
        formers.load(folder, **MEMORY)
    assert formers.load(folder, full_below=100, local_heads=1).config.full_below == 100


@pytest.mark.parametrize("changes", [{}, {"memory_norm": "batch"}, {"ff_chunks": 3}])
def test_rebuilt_gradients_are_those_of_activations_that_are_kept(changes: dict[str, Any]) -> None:
    made, text, found, averages = model(num_layers=4, **MEMORY, **changes, dropout=0.3).train(), ids(37), [], []
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    for rebuild in (True, False):
        made.load_state_dict(before)
        set_rebuild(made, rebuild)
        torch.manual_seed(5)
        hidden, _ = made.body(text)
        total, count = cross_entropy(hidden, made.head, text)
        found.append(torch.autograd.grad(total / count, list(made.parameters())))
        averages.append([tensor.clone() for tensor in made.buffers()])
    assert max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) <= EQUAL
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))


def test_a_model_with_memories_learns_a_text_by_heart_and_says_what_of_them_it_uses() -> None:
    made = formers.build("reformer", "nano", **MEMORY | {"memory_keys": 16}, dropout=0.0, local_dropout=0.0)
    optimizer, losses, text = torch.optim.AdamW(made.parameters(), lr=3e-3), [], ids(33)
    for _ in range(40):
        total, count = cross_entropy(made.body(text[:, :-1])[0], made.head, text[:, 1:])
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float((total / count).detach()))
    assert losses[-1] < losses[0] / 4, losses[::10]
    name = "trunk.blocks.1.feed_forward"
    with torch.no_grad(), listen(made.eval(), f"{name}.slots", f"{name}.weights") as seen:
        made(text)
    found = usage(seen[f"{name}.slots"][0], seen[f"{name}.weights"][0], 256)
    assert 0 < found.share < 1
    assert 0 < found.divergence < 5.6


def test_only_the_named_layers_have_one_and_the_same_seed_gives_the_same_weights() -> None:
    made = formers.build("reformer", "nano", num_layers=3, **MEMORY, seed=4)
    kinds = [isinstance(block["feed_forward"], ProductKeyMemory) for block in made.trunk.blocks]
    assert kinds == [False, True, False]
    again = formers.build("reformer", "nano", num_layers=3, **MEMORY, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"full_below": -1}, "full_below is -1, wanted at least 0"),
        ({"local_heads": 3}, "local_heads is 3, wanted 0 to num_heads, 2"),
        ({"memory_layers": (0, 2)}, "memory_layers has 2, wanted 0 to 1"),
        ({"memory_keys": 5, "memory_best": 26}, "memory_best is 26 of memory_keys.* = 25 values"),
        ({"memory_d_key": 5}, "memory_d_key is 5, wanted an even number"),
        ({"memory_layers": (0,), "memory_norm": "batch", "ff_chunks": 2}, "memory_norm is batch"),
    ],
)
def test_settings_that_do_not_fit_are_one_error_that_names_them(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ReformerConfig(**SIZES | changes)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"memory_norm is 'group', wanted 'layer' \| 'batch' \| 'none'"):
        formers.build("reformer", memory_norm="group")


def test_a_run_from_before_these_settings_is_the_same_run() -> None:
    """Its checkpoint names none of them, so none may stand in what it is compared with."""
    named = {
        "full_below",
        "local_heads",
        *(f"memory_{name}" for name in ("layers", "keys", "heads", "d_key", "best", "norm")),
    }
    plain, changed = (job(formers.build("reformer", "nano", **more)) for more in ({}, {"full_below": 9, **MEMORY}))
    assert named.isdisjoint(plain.identity(1)["model"])
    assert changed.identity(1)["model"]["full_below"] == 9
    assert changed.identity(1)["model"]["memory_layers"] == [1]
