"""Every class that transformers has for T5 beside the one that writes: in float64, every parameter random, padded texts,
with its float32 casts lifted and as it is; there and back; and bodies that are read out of files of pretrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.t5 import modeling_t5

import formers
from formers.errors import ConfigError, StateError, WeightsError
from formers.hub import as_transformers
from formers.models.t5 import FOREIGN, T5, T5Config, shifted, weights
from formers.parts.positions import Positions
from formers.parts.sources import Source
from formers.parts.taps import listen
from formers.weights import Table
from tests.parity.harness import carry, float64_throughout, ragged, randomise
from tests.parity.seq2seq import SIZES, gap, streams
from tests.parity.seq2seq import twins as writing_twins

LIFTED = 1e-9
AS_IT_IS = 5e-6
"""transformers computes norms in float32 also in a float64 model: the floor is theirs."""

HEADS = {
    "none": "T5Model",
    "encoder": "T5EncoderModel",
    "sequence": "T5ForSequenceClassification",
    "token": "T5ForTokenClassification",
    "span": "T5ForQuestionAnswering",
}
ON_THE_ENCODER = ("encoder", "token")
END = 1


def twins(head: str, *, seed: int = 1, **changes: Any) -> tuple[Any, Any, Table]:
    """Our model, transformers' class of the head with the same random weights, both float64, and the table."""
    labels = {"num_labels": 2 if head == "span" else 3}
    config = T5Config(**SIZES | {"head": head} | labels | changes)
    settings = transformers.AutoConfig.for_model(**FOREIGN.write(config))
    theirs = getattr(transformers, HEADS[head])(settings).double().eval()
    randomise(theirs, seed)
    ours, table = T5(config).double().eval(), weights(config)
    carry(theirs, ours, table)
    return ours, theirs, table


def text(*lengths: int) -> tuple[Tensor, Positions]:
    """Ids of texts that end with the end token, padded on the right."""
    ids, left = ragged(list(lengths), 101)
    real = left.present.flip(1)
    last = real.sum(1, keepdim=True) - 1
    ids = ids.clamp(min=2).scatter(1, last, END).masked_fill(~real, 0)
    return ids, Positions.from_attention_mask(real)


def given_ours(ours: Any, ids: Tensor, positions: Positions) -> dict[str, Any]:
    if ours.config.head in ON_THE_ENCODER:
        return {"input_ids": ids, "positions": positions}
    read = shifted(ids, ours.config.start_token)
    return {"input_ids": read, "source": Source(ids, positions), "positions": positions}


def their_output(head: str, theirs: Any, ids: Tensor, real: Tensor) -> Tensor:
    given = {"input_ids": ids, "attention_mask": real.long()}
    if head == "none":
        return theirs(**given, decoder_input_ids=shifted(ids, 0)).last_hidden_state
    out = theirs(**given)
    if head == "span":
        return torch.stack([out.start_logits, out.end_logits], -1)
    return out.last_hidden_state if head == "encoder" else out.logits


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Zero where a parameter has no part in the loss."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def differences(head: str, **changes: Any) -> dict[str, float]:
    """Of the output, of what leaves every block, and of every parameter's gradient, at kept positions."""
    ours, theirs, table = twins(head, **changes)
    ids, positions = text(23, 5, 13)
    real = positions.present
    kept = slice(None) if head == "sequence" else real
    with listen(ours, "encoder.stream.*", "trunk.stream.*") as seen:
        mine = ours(**given_ours(ours, ids, positions)).logits[kept]
    with stack_outputs(theirs) as their_seen:
        other = their_output(head, theirs, ids, real)[kept]
    found = {name: gap(x[0][real], their_seen[name][real]) for name, x in seen.items()}
    found["output"] = gap(mine.detach(), other.detach())
    weigh = torch.randn(mine.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    their_gradients, problems = table.partial(gradients(theirs, (other * weigh).sum()))
    assert not problems, problems
    our_gradients = gradients(ours, (mine * weigh).sum())
    assert our_gradients.keys() <= their_gradients.keys()
    return found | {name: gap(gradient, their_gradients[name]) for name, gradient in our_gradients.items()}


def stack_outputs(theirs: Any) -> Any:
    """`streams` of whichever stacks there are."""
    body = getattr(theirs, "transformer", theirs)

    class Stacks:
        encoder = body.encoder
        decoder = getattr(body, "decoder", nn.Module())

    if not hasattr(Stacks.decoder, "block"):
        Stacks.decoder.block = []
    return streams(Stacks)


@pytest.mark.parametrize("head", HEADS)
def test_outputs_hidden_states_and_every_gradient_with_their_float32_casts_lifted(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    float64_throughout(monkeypatch, modeling_t5)
    for changes in ({}, {"gated": True, "activation": "gelu_tanh", "tie": False, "scale_head": False}):
        found = differences(head, **changes)
        print(f"{head}: {max(found.values()):.1e}")
        assert {name: size for name, size in found.items() if not size <= LIFTED} == {}


@pytest.mark.parametrize("head", HEADS)
def test_outputs_hidden_states_and_every_gradient_as_it_is(head: str) -> None:
    found = differences(head)
    assert {name: size for name, size in found.items() if not size <= AS_IT_IS} == {}
    assert max(found.values()) > LIFTED, "nothing was lifted that had to be lifted"


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical(head: str, tmp_path: Path) -> None:
    _, theirs, _ = twins(head)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = formers.load(tmp_path / "theirs")
    assert (ours.config.head, ours.config.num_labels) == (head, theirs.config.num_labels)
    formers.save(ours, tmp_path / "ours")
    stored, written = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert stored.keys() == written.keys()
    assert all(torch.equal(stored[name], written[name]) for name in stored)
    again, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said.values()), said
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert again.config.is_encoder_decoder == theirs.config.is_encoder_decoder


def test_the_encoder_of_a_whole_file_is_read_as_theirs_reads_it(tmp_path: Path) -> None:
    _, theirs, _ = writing_twins()
    theirs.save_pretrained(tmp_path)
    ids, positions = text(23, 5, 13)
    alone = formers.load(tmp_path, head="encoder")
    assert sum(p.numel() for p in alone.parameters()) < sum(p.numel() for p in theirs.parameters())
    other = transformers.T5EncoderModel.from_pretrained(tmp_path)
    wanted = other(input_ids=ids, attention_mask=positions.present.long()).last_hidden_state
    assert gap(alone(ids, positions=positions).logits[positions.present], wanted[positions.present]) <= AS_IT_IS


@pytest.mark.parametrize("head", ["sequence", "token", "span", "none"])
def test_another_head_takes_the_body_and_draws_the_rest(head: str, tmp_path: Path) -> None:
    ours, theirs, _ = writing_twins(tie=False)
    theirs.save_pretrained(tmp_path)
    model = formers.load(tmp_path, head=head)
    same = {n: t for n, t in model.state_dict().items() if not n.startswith("head.")}
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in same.items())
    again = formers.load(tmp_path, head=head)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_file_of_the_encoder_alone_does_not_become_a_writer(tmp_path: Path) -> None:
    twins("encoder")[1].save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"missing decoder\.block"):
        formers.load(tmp_path, head=None)


def test_names_of_labels_are_kept(tmp_path: Path) -> None:
    model = formers.build("t5", **SIZES, head="token", num_labels=3, labels=("O", "B", "I"))
    formers.save(model, tmp_path)
    assert formers.load(tmp_path).config == model.config
    assert transformers.T5ForTokenClassification.from_pretrained(tmp_path).config.id2label == {0: "O", 1: "B", 2: "I"}


# --- what the heads are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_every_head_obeys_the_laws(head: str) -> None:
    sizes = SIZES | {"num_labels": 2 if head == "span" else 3}
    report = formers.certify(formers.build("t5", **sizes, head=head, seed=0), seed=1, length=7)
    assert report.ok, [law for law in report.laws.values() if law.status == "fail"]


def test_a_row_is_labelled_by_its_last_token_wherever_padding_stands() -> None:
    ours, _, _ = twins("sequence")
    ids, positions = text(23, 5, 13)
    batch = ours(**given_ours(ours, ids, positions)).logits
    for row, length in enumerate((23, 5, 13)):
        alone = ids[row : row + 1, :length]
        assert gap(ours(shifted(alone, 0), source=alone).logits[0], batch[row]) <= LIFTED


def test_what_a_head_has_no_use_for_is_refused() -> None:
    encoder = formers.build("t5", **SIZES, head="encoder")
    with pytest.raises(ConfigError, match="was given source"):
        encoder(torch.zeros(1, 3, dtype=torch.long), source=torch.zeros(1, 3, dtype=torch.long))
    for head in ("encoder", "sequence"):
        with pytest.raises(StateError, match="keeps no state"):
            formers.build("t5", **SIZES, head=head).init_state(1, 3)
    with pytest.raises(ConfigError, match="head 'span' has 2 labels"):
        T5Config(head="span", num_labels=3)
    with pytest.raises(ConfigError, match="head 'tokens' is none of none, sequence"):
        T5Config(head="tokens")
    sequence, ids = formers.build("t5", **SIZES, head="sequence"), torch.zeros(1, 3, dtype=torch.long)
    packed = Positions(torch.tensor([[0, 1, 0]]), document=torch.tensor([[0, 0, 1]]))
    with pytest.raises(ConfigError, match="by its last token"):
        sequence(ids, source=ids, positions=packed)


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("sequence", {"labels": torch.tensor([2, 0, 1])}),
        ("token", {"labels": torch.arange(69).view(3, 23) % 3}),
        ("span", {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([5, 4, 9])}),
    ],
)
def test_as_transformers_its_loss_is_theirs(head: str, labels: dict[str, Tensor]) -> None:
    ours, theirs, table = twins(head)
    ids, positions = text(23, 5, 13)
    given = {"input_ids": ids, "attention_mask": positions.present.long()}
    if head == "token":
        labels = {"labels": labels["labels"].masked_fill(~positions.present, -100)}
    if head == "span":  # theirs lets an answer lie in the padding
        given = {"input_ids": ids[:1]}
        labels = {name: places[:1] for name, places in labels.items()}
    mine, other = as_transformers(ours)(**given, **labels).loss, theirs(**given, **labels).loss
    assert gap(mine, other) <= AS_IT_IS
    their_gradients, _ = table.partial(gradients(theirs, other))
    for name, gradient in gradients(ours, mine).items():
        assert gap(gradient, their_gradients[name]) <= AS_IT_IS, name


def test_first_weights_of_a_head_are_a_tenth_of_those_of_maps() -> None:
    model = formers.build("t5", d_model=256, num_layers=1, vocab_size=7, d_ff=8, head="sequence", num_labels=64)
    for weight in (model.head.dense.weight, model.head.linear.weight):
        assert weight.std().item() == pytest.approx(0.1 * 256**-0.5, rel=0.05)
    assert not model.head.linear.bias.any()
