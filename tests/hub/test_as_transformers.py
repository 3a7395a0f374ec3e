"""Our models among transformers' own: losses, gradients and what the Hugging Face Trainer asks of a model."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import formers
from formers.errors import ConfigError, FormersError, TargetError, WeightsError
from formers.hub import as_transformers
from formers.models import registry
from tests.hub.models import small
from tests.parity import harness, seq2seq
from tests.parity.encoders import twins as encoder_twins

WITHIN = 2e-6
"""transformers computes losses in float32 also in a float64 model; relative to the largest number of a tensor."""
SIZES: dict[str, Any] = {
    "vocab_size": 89, "d_model": 26, "num_layers": 2, "num_heads": 2, "d_ff": 53, "max_length": 41, "num_labels": 3,
}  # fmt: skip
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}


def mask(*lengths: int, longest: int = 17) -> Tensor:
    """Padded on the right."""
    return (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return harness.random_ids(rows, length, 89, seed=seed)


def check(ours: nn.Module, theirs: nn.Module, table: Any, inputs: dict[str, Any], outputs: tuple[str, ...]) -> None:
    """One loss, all of its gradients, and the outputs, of the wrapper and of theirs."""
    wrapped = as_transformers(ours)
    assert type(wrapped).__name__ == type(theirs).__name__
    a, b = wrapped(**inputs), theirs(**inputs)
    assert abs(a.loss.item() - b.loss.item()) <= WITHIN * max(1.0, b.loss.item())
    kept = inputs.get("attention_mask")
    for name in outputs:
        x, y = (out[name] if kept is None or out[name].ndim < 3 else out[name][kept.bool()] for out in (a, b))
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
    our = dict(zip(dict(ours.named_parameters()), torch.autograd.grad(a.loss, list(ours.parameters())), strict=True))
    their, problems = table.partial(harness._gradients(theirs, b.loss))
    assert not problems
    for name, gradient in our.items():
        assert harness._gap(gradient, their[name]) <= 1e-5, name


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("given", ["whole", "mask of ones", "padding", "places", "documents", "counted"])
def test_a_decoders_loss_is_theirs(name: str, given: str) -> None:
    sizes = SIZES if name == "gpt2" else SIZES | {"d_model": 28, "num_heads": 4, "num_kv_heads": 2, "d_head": 6}
    ours, theirs, table = harness.twins(name, **{n: v for n, v in sizes.items() if n != "num_labels"})
    inputs: dict[str, Any] = {"input_ids": ids(3, 17), "labels": ids(3, 17, 1)}
    inputs["labels"][0, :5] = -100
    if given == "mask of ones":
        inputs["attention_mask"] = torch.ones(3, 17, dtype=torch.long)
    if given == "padding":
        inputs["attention_mask"] = mask(17, 11, 5)
        inputs["labels"] = inputs["labels"].masked_fill(inputs["attention_mask"] == 0, -100)
    if given == "places":
        inputs["position_ids"] = torch.arange(3, 20)[None].expand(3, -1)
    if given == "documents":
        inputs["position_ids"] = torch.cat([torch.arange(6), torch.arange(11)])[None].expand(3, -1)
        theirs.config.use_cache = False  # as Trainer sets it: with a cache theirs does not keep documents apart
    if given == "counted":
        inputs["num_items_in_batch"] = torch.tensor(97)
    check(ours, theirs, table, inputs, ("logits",))


LABELS: dict[str, dict[str, Tensor]] = {
    "masked_token": {"labels": ids(3, 17, 1)},
    "token": {"labels": ids(3, 17, 1) % 3},
    "sequence": {"labels": torch.tensor([2, 0, 1])},
    "pair": {"labels": torch.tensor([1, 0, 0])},
    "span": {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([5, 3, 40])},
    "pretraining": {"labels": ids(3, 17, 1), "next_sentence_label": torch.tensor([1, 0, 1])},
}
OUTPUTS = {"span": ("start_logits", "end_logits"), "pretraining": ()}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(("bert", head) for head in LABELS),
        ("albert", "pretraining"),
        ("albert", "sequence"),
        ("distilbert", "masked_token"),
        ("distilbert", "sequence"),
        ("distilbert", "span"),
    ],
)
def test_an_encoders_loss_is_theirs(name: str, head: str) -> None:
    extra = {"d_embedding": 7} if name == "albert" else {}
    labels = LABELS[head]
    sizes = SIZES | extra | {"num_labels": 2} if head in ("pair", "span", "pretraining") else SIZES | extra
    ours, theirs, table = encoder_twins(name, head, **sizes)
    if name == "albert" and head == "pretraining":
        labels = {"labels": labels["labels"], "sentence_order_label": labels["next_sentence_label"]}
    inputs: dict[str, Any] = {"input_ids": ids(3, 17), **labels}
    if name != "distilbert":
        inputs["token_type_ids"] = ids(3, 17, 2) % 2
    check(ours, theirs, table, inputs, OUTPUTS.get(head, ("logits",)))
    padded = mask(17, 11, 5)
    inputs["attention_mask"] = padded
    if "labels" in labels and labels["labels"].ndim == 2:
        inputs["labels"] = labels["labels"].masked_fill(padded == 0, -100)
    if head != "span":  # theirs lets an answer lie in the padding
        check(ours, theirs, table, inputs, OUTPUTS.get(head, ("logits",)))


def test_choices_are_rows_with_one_logit_each() -> None:
    ours, theirs, table = encoder_twins("bert", "choice", **SIZES | {"num_labels": 2})
    text = ids(6, 17).view(2, 3, 17)
    inputs = {"input_ids": text, "token_type_ids": text % 2, "labels": torch.tensor([2, 0])}
    check(ours, theirs, table, inputs, ("logits",))
    check(ours, theirs, table, inputs | {"attention_mask": mask(17, 11, 5, 17, 3, 9).view(2, 3, 17)}, ("logits",))


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [(1, torch.tensor([[0.3], [-1.0], [2.0]]).double()), (3, (ids(3, 3) % 2).double()), (3, torch.tensor([2, 0, 1]))],
    ids=["a number", "any of several", "one of several"],
)
def test_what_kind_of_labels_a_row_has_is_told_as_theirs_tells_it(num_labels: int, labels: Tensor) -> None:
    ours, theirs, table = encoder_twins("bert", "sequence", **SIZES | {"num_labels": num_labels})
    check(ours, theirs, table, {"input_ids": ids(3, 17), "labels": labels}, ("logits",))
    counted = as_transformers(ours)(input_ids=ids(3, 17), labels=labels, num_items_in_batch=labels.numel()).loss
    torch.testing.assert_close(counted, as_transformers(ours)(input_ids=ids(3, 17), labels=labels).loss)


def test_an_encoder_decoders_loss_is_theirs() -> None:
    ours, theirs, table = seq2seq.twins()
    texts = seq2seq.padded("right", "right")
    source = texts.source
    inputs = {
        "input_ids": source.input_ids,
        "attention_mask": source.placed.present.expand_as(source.input_ids).long(),
        "labels": texts.labels,
    }
    wrapped = as_transformers(ours)
    a, b = wrapped(**inputs), theirs(**inputs)
    assert abs(a.loss.item() - b.loss.item()) <= WITHIN * b.loss.item()
    assert torch.equal(
        wrapped.prepare_decoder_input_ids_from_labels(texts.labels),
        theirs.prepare_decoder_input_ids_from_labels(labels=texts.labels),
    )
    their, _ = table.partial(harness._gradients(theirs, b.loss))
    for name, gradient in harness._gradients(ours, a.loss).items():
        assert harness._gap(gradient, their[name]) <= 1e-5, name
    given = {"decoder_input_ids": texts.ids, "decoder_attention_mask": texts.real.long()}
    torch.testing.assert_close(
        wrapped(**inputs, **given).logits[texts.real], theirs(**inputs, **given).logits[texts.real], rtol=0, atol=1e-5
    )


def heads() -> list[tuple[str, str | None]]:
    """Every built-in model that starts from nothing, with each of its heads."""
    found = []
    for name, spec in registry.specs().items():
        module = spec.load()
        found += (
            [(name, head) for head in getattr(module, "HEADS", {None: None})]
            if "vocab_size" in vars(module.CONFIG())
            else []
        )
    return found


@pytest.mark.parametrize(("name", "head"), heads())
def test_every_model_and_head_gives_a_loss_of_its_labels(name: str, head: str | None) -> None:
    model = formers.build(name, preset="nano", vocab_size=89, **({} if head is None else {"head": head}))
    wrapped = as_transformers(model).eval()
    text = ids(2, 11)
    one, two = wrapped(input_ids=text, **({"decoder_input_ids": text} if wrapped.reads_source else {})), torch.ones(2)
    of_rows = one.logits is not None and one.logits.ndim == 2
    given = {"labels": two.long() if of_rows else text.clamp(max=1)}
    given |= dict.fromkeys(
        ("next_sentence_label", "sentence_order_label", "start_positions", "end_positions"), two.long()
    )
    given = {label: value for label, value in given.items() if label in wrapped.inputs}
    if not given:
        assert head in ("none", "pooler", "encoder")
        return
    loss = wrapped(input_ids=text, **given).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.head.parameters())


# --- what Trainer asks ------------------------------------------------------------------------------------------------


def test_columns_and_labels_are_found_as_in_theirs() -> None:
    from transformers.utils.generic import find_labels

    for head, labels in LABELS.items():
        count = {"num_labels": 2} if head in ("pair", "span", "pretraining") else {}
        ours, theirs, _ = encoder_twins("bert", head, **SIZES | count)
        wrapped = as_transformers(ours)
        assert find_labels(type(wrapped)) == find_labels(type(theirs)) == list(labels)
        columns = list(inspect.signature(wrapped.forward).parameters)
        assert columns == ["input_ids", "attention_mask", "position_ids", "token_type_ids", *labels]
    assert "token_type_ids" not in inspect.signature(as_transformers(small("gpt2")).forward).parameters


def decayed(model: nn.Module) -> tuple[int, int]:
    """Numbers that Trainer decays, and those it does not."""
    names = set(transformers.Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    sizes = [(name in names, parameter.numel()) for name, parameter in model.named_parameters()]
    return sum(n for yes, n in sizes if yes), sum(n for yes, n in sizes if not yes)


def test_weight_decay_pulls_on_what_it_pulls_on_in_theirs() -> None:
    pairs = [harness.twins(name, vocab_size=89, num_layers=2)[:2] for name in ("gpt2",)]
    pairs += [encoder_twins("bert", head, **SIZES)[:2] for head in ("masked_token", "sequence")]
    pairs += [seq2seq.twins()[:2], seq2seq.twins(tie=False)[:2]]
    for ours, theirs in pairs:
        assert decayed(as_transformers(ours)) == decayed(theirs)
        assert decayed(as_transformers(ours))[1] > 0


def arguments(folder: Path, **changes: Any) -> Any:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
    settings = quiet | {"max_steps": 6, "per_device_train_batch_size": 3, "learning_rate": 1e-2, "weight_decay": 0.1}
    return transformers.TrainingArguments(str(folder), **settings | changes)


def rows(count: int = 24) -> list[dict[str, Any]]:
    text = ids(count, 17) % 7
    return [{"input_ids": row, "labels": row} for row in text]


def train(model: Any, folder: Path, resume: str | None = None, **changes: Any) -> tuple[list[float], Any]:
    trainer = transformers.Trainer(model, arguments(folder, **changes), train_dataset=rows(), eval_dataset=rows(6))  # type: ignore[arg-type]
    trainer.train(resume_from_checkpoint=resume)
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], trainer


def pair(head: str = "") -> tuple[Any, Any]:
    """Our model and theirs, float32, with equal weights and without dropout."""
    if head:
        ours, theirs, _ = encoder_twins("bert", head, **SIZES | NO_DROPOUT, random=False)
    else:
        sizes = {n: v for n, v in SIZES.items() if n != "num_labels"}
        ours, theirs, _ = harness.twins("gpt2", **sizes, **NO_DROPOUT, embedding_dropout=0.0, random=False)
    return ours.float(), theirs.float()


@pytest.mark.parametrize("head", ["", "masked_token"], ids=["gpt2", "bert"])
def test_trainer_trains_ours_as_it_trains_theirs(head: str, tmp_path: Path) -> None:
    ours, theirs = pair(head)
    mine, trainer = train(as_transformers(ours), tmp_path / "ours")
    others, _ = train(theirs, tmp_path / "theirs")
    assert len(mine) == 6
    assert mine == pytest.approx(others, rel=1e-3)
    assert mine[-1] < 0.8 * mine[0]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(mine[-1], rel=0.5)  # it finds the labels


def test_accumulated_batches_count_as_one(tmp_path: Path) -> None:
    one, _ = train(as_transformers(pair()[0]), tmp_path / "a", per_device_train_batch_size=6, max_steps=3)
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 3}
    three, _ = train(as_transformers(pair()[0]), tmp_path / "b", **cut)
    assert three == pytest.approx(one, rel=1e-4)


def test_a_checkpoint_of_trainer_opens_with_both_and_is_gone_on_with(tmp_path: Path) -> None:
    ours, _ = pair()
    saved = {"save_strategy": "steps", "save_steps": 3}
    whole, trainer = train(as_transformers(ours), tmp_path / "whole", **saved)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    trainer.save_model()  # beside the checkpoints
    again, theirs = (
        formers.load(tmp_path / "whole"),
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole"),
    )
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())
    torch.testing.assert_close(theirs(ids(2, 9)).logits, again(ids(2, 9)).logits)
    rest, _ = train(as_transformers(pair()[0]), tmp_path / "whole", resume=str(checkpoint))
    assert rest[-3:] == pytest.approx(whole[3:], rel=1e-5)


def test_a_body_of_our_own_trains_and_is_saved_under_its_own_names(tmp_path: Path) -> None:
    model = formers.build("memorizing", preset="nano", vocab_size=89)
    wrapped = as_transformers(model)
    losses, _ = train(wrapped, tmp_path)
    assert losses[-1] < losses[0]
    wrapped.save_pretrained(tmp_path / "m")
    assert all(
        torch.equal(tensor, model.state_dict()[name])
        for name, tensor in formers.load(tmp_path / "m").state_dict().items()
    )
    with pytest.raises(ConfigError, match="no labels in training"):
        wrapped.train()(input_ids=ids(2, 5))


def test_recomputing_activations_changes_no_gradient(tmp_path: Path) -> None:
    ours, _ = pair()
    wrapped = as_transformers(ours).train()
    first = harness._gradients(ours, wrapped(input_ids=ids(2, 9), labels=ids(2, 9)).loss)
    wrapped.activation_checkpointing_enable()
    assert ours.trunk.recompute
    second = harness._gradients(ours, wrapped(input_ids=ids(2, 9), labels=ids(2, 9)).loss)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ConfigError, match="offload"):
        wrapped.activation_checkpointing_enable(offload=True)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"inputs_embeds": torch.zeros(1, 5, 26)}, "was given inputs_embeds(.|\n)*attention_mask"),
        ({"token_type_ids": torch.zeros(1, 5, dtype=torch.long)}, "was given token_type_ids"),
        ({"attention_mask": torch.ones(1, 1, 5, 5)}, r"attention_mask of shape \[1, 1, 5, 5\]"),
    ],
)
def test_what_it_cannot_do_is_refused(inputs: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        as_transformers(small("gpt2"))(input_ids=ids(1, 5), **inputs)


def test_other_mistakes_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = as_transformers(small("gpt2"))
    with pytest.raises(TargetError, match=r"formers\.generate"):
        wrapped.generate(ids(1, 5))
    with pytest.raises(WeightsError, match="missing"):
        wrapped.load_state_dict({"transformer.wte.weight": torch.zeros(263, 26)})
    with pytest.raises(ConfigError, match="a source alone"):
        as_transformers(seq2seq.twins()[0])(input_ids=ids(1, 5))
    with pytest.raises(FormersError, match="has no hidden_act"):
        as_transformers(small("llama", activation="quick_gelu"))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(TargetError, match=r"formers\[hf\]"):
        as_transformers(small("gpt2"))
