"""T5 decodes from a state as it does without one, reads its source once, and says what it was not given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError, StateError
from formers.parts import terms
from formers.parts.positions import Positions
from formers.parts.sources import Source
from formers.parts.taps import listen
from formers.parts.trunk import set_recompute

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 26,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "d_head": 7,
    "d_ff": 53,
    "num_buckets": 10,
    "max_distance": 17,
}
TOLERANCE = 1e-9
"""Of comparisons across shapes, in float64."""


@pytest.fixture
def model() -> Any:
    return formers.build("t5", **SIZES, seed=3).double().eval()


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(seed))


def padded_left(lengths: list[int]) -> Positions:
    index = torch.arange(max(lengths))[None] - (max(lengths) - torch.tensor(lengths)[:, None])
    return Positions(index.clamp(min=-1))


SOURCES = {
    "of one length": Source(ids(3, 13, 1)),
    "of three lengths": Source.of_texts([ids(1, n, n)[0].tolist() for n in (13, 2, 7)]),
    "padded on the left": Source(ids(3, 13, 1), padded_left([13, 2, 7])),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("cuts", [[1] * 17, [5, 7, 5], [13, 4], [17], [3, 1, 13]], ids=str)
def test_decoding_from_a_state_equals_decoding_anew(model: Any, source: Source, cuts: list[int]) -> None:
    text = ids(3, 17)
    whole = model(text, source=source).logits
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            state, pieces = model.init_state(3, 17, source=source), []
            for piece in text.split(cuts, 1):
                out = model(piece, state=state)
                assert model(piece, state=state).logits.equal(out.logits)
                state = out.state.commit()
                pieces.append(out.logits)
        assert (torch.cat(pieces, 1) - whole).abs().max() <= TOLERANCE


def test_targets_of_different_lengths_go_on_together(model: Any) -> None:
    source, lengths = SOURCES["of three lengths"], [5, 11, 2]
    positions, text, more = padded_left(lengths), ids(3, 11), ids(3, 4, 5)
    state = model(text, positions=positions, state=model.init_state(3, 15, source=source)).state.commit()
    found = model(more, state=state).logits
    for row, length in enumerate(lengths):
        alone = Source.of_texts([source.input_ids[row][source.placed.present[row]].tolist()])
        whole = torch.cat([text[row : row + 1, 11 - length :], more[row : row + 1]], 1)
        assert (model(whole, source=alone).logits[0, -4:] - found[row]).abs().max() <= TOLERANCE


def test_rows_of_a_batch_equal_each_alone_whatever_pads_their_source(model: Any) -> None:
    text = ids(3, 9)
    source = SOURCES["of three lengths"]
    together = model(text, source=source).logits
    other = torch.where(source.placed.present, source.input_ids, ids(3, 13, 8))
    assert model(text, source=Source(other, source.positions)).logits.equal(together)
    for row in range(3):
        alone = source.input_ids[row : row + 1][:, source.placed.present[row]]
        assert (model(text[row : row + 1], source=alone).logits - together[row]).abs().max() <= TOLERANCE


def test_a_target_reads_the_source_of_its_own_document(model: Any) -> None:
    """Two pairs packed into one row give what they give alone."""

    def pack(*lengths: int) -> Positions:
        index = torch.cat([torch.arange(n) for n in lengths])[None]
        return Positions(index, torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None])

    text, sources = ids(1, 11), ids(1, 8, 1)
    packed = model(text, positions=pack(4, 7), source=Source(sources, pack(5, 3))).logits
    for t, s in ((slice(0, 4), slice(0, 5)), (slice(4, 11), slice(5, 8))):
        assert (model(text[:, t], source=sources[:, s]).logits - packed[:, t]).abs().max() <= TOLERANCE


def test_the_source_is_read_once_and_its_keys_live_in_the_state(model: Any) -> None:
    calls = []
    for block in model.trunk.blocks:
        block["cross"].project.source.register_forward_hook(lambda *_: calls.append("keys"))
    model.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    state = model.init_state(2, 9, source=ids(2, 5))
    for _ in range(9):
        state = model(ids(2, 1), state=state).state.commit()
    assert sorted(calls) == ["encoder", "keys", "keys", "keys"]
    assert {f"{i}.1.{name}" for i in range(3) for name in ("keys", "values", "index")} <= state.tensors().keys()


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_state_that_is_reordered_or_stored_goes_on_with_its_sources(model: Any, source: Source) -> None:
    text, more, rows = ids(3, 5), ids(4, 3, 7), torch.tensor([2, 0, 0, 1])
    state = model(text, state=model.init_state(3, 16, source=source)).state.commit()
    chosen = Source(
        source.input_ids[rows], None if source.positions is None else source.positions.map(lambda t: t[rows])
    )
    wanted = model(torch.cat([text[rows], more], 1), source=chosen).logits[:, -3:]
    assert (model(more, state=state.select(rows)).logits - wanted).abs().max() <= TOLERANCE
    stored = {name: tensor.clone() for name, tensor in state.select(rows).tensors().items()}
    empty = model.init_state(4, 16, source=chosen)
    assert (model(more, state=empty.from_tensors(stored)).logits - wanted).abs().max() <= TOLERANCE
    forked = model(more[:3].repeat_interleave(2, 0), state=state.fork(2)).logits
    assert (forked[::2] - model(more[:3], state=state).logits).abs().max() <= TOLERANCE
    again = state.reset(torch.tensor([True, False, True]))
    fresh = model(text[:, :3], source=source).logits
    assert (model(text[:, :3], state=again).logits - fresh)[[0, 2]].abs().max() <= TOLERANCE


def test_recomputation_changes_no_gradient_of_either_stack(model: Any) -> None:
    text, source, found = ids(2, 9), ids(2, 5, 1), []
    for on in (False, True):
        set_recompute(model, on)
        loss = model(text, source=source).logits.square().sum()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_one_table_serves_all_layers_of_a_stack(model: Any) -> None:
    tables = {id(b["attention"].score.terms[0]) for s in (model.encoder, model.trunk) for b in s.blocks}
    assert len(tables) == 2
    assert sum("table" in name for name, _ in model.named_parameters()) == 2


def test_what_the_heads_of_the_decoder_see_of_the_source_can_be_listened_to(model: Any) -> None:
    with listen(model, "trunk.blocks.*.cross.pattern") as seen:
        model(ids(3, 5), source=SOURCES["of three lengths"])
    assert seen["trunk.blocks.2.cross.pattern"][0].shape == (3, 3, 5, 13)
    assert not seen["trunk.blocks.2.cross.pattern"][0][1, :, :, 2:].any()  # padding


def test_dropout_acts_in_training_and_not_in_evaluation(model: Any) -> None:
    text, source = ids(2, 9), ids(2, 5, 1)
    assert model(text, source=source).logits.equal(model(text, source=source).logits)
    model.train()
    torch.manual_seed(0)
    assert not model(text, source=source).logits.equal(model(text, source=source).logits)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_decoder_wants_a_source_or_a_state_and_not_both(model: Any) -> None:
    with pytest.raises(ConfigError, match="neither a source nor a state"):
        model(ids(1, 3))
    state = model.init_state(1, 8, source=ids(1, 5))
    with pytest.raises(ConfigError, match="a source and a state"):
        model(ids(1, 3), state=state, source=ids(1, 5))
    with pytest.raises(StateError, match="without a source"):
        model.init_state(1, 8)
    with pytest.raises(ConfigError, match="was given a source"):
        formers.build("gpt2", preset="nano").init_state(1, 8, source=ids(1, 5))


def test_as_many_sources_as_rows(model: Any) -> None:
    with pytest.raises(ConfigError, match="2 sources for 3 rows"):
        model(ids(3, 3), source=ids(2, 5))
    with pytest.raises(StateError, match="2 sources for a state of 3 rows"):
        model.init_state(3, 8, source=ids(2, 5))
    with pytest.raises(ConfigError, match=r"a source that is a list"):
        model(ids(1, 3), source=[[1, 2]])
    with pytest.raises(ConfigError, match="positions of 4 tokens for a source of 5"):
        model(ids(1, 3), source=Source(ids(1, 5), Positions.whole(4)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 0, "d_ff": 0}, "num_heads is 0.*d_ff is 0"),
        ({"num_decoder_layers": 0}, "num_decoder_layers is 0"),
        ({"num_buckets": 7}, "num_buckets is 7"),
        ({"max_distance": 16, "num_buckets": 32}, "max_distance 16"),
        ({"activation": "mish"}, "activation 'mish'"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        formers.build("t5", preset="nano", **changes)


def test_a_table_of_distances_is_read_once_a_stack_and_anew_at_every_call(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = terms.chosen
    monkeypatch.setattr(terms, "chosen", lambda *given: reads.append(1) or read(*given))
    text, source = ids(2, 9), ids(2, 5, 1)
    positions = Positions(torch.arange(9)[None])  # no promise that distances follow from places: pair by pair
    layer_by_layer = model(text, source=source, positions=positions).logits
    layers = len(model.trunk.blocks)
    assert len(reads) == layers > 1
    with torch.no_grad():
        once = model(text, source=source, positions=positions).logits
        assert len(reads) == layers + 1
        assert (once - layer_by_layer).abs().max() <= TOLERANCE
        model.trunk.blocks[0]["attention"].score.terms[0].table.weight.data += 1.0 - torch.eye(10, 3).double()
        changed = model(text, source=source, positions=positions).logits
    assert (changed - model(text, source=source, positions=positions).logits).abs().max() <= TOLERANCE
    assert not torch.allclose(changed, once)


@torch.no_grad()
def test_a_state_holds_the_keys_of_each_head_in_one_piece(model: Any) -> None:
    state = model.init_state(3, 4, source=SOURCES["of three lengths"])
    held = [block[1] for block in state.nodes]
    assert all(node.keys.is_contiguous() and node.values.is_contiguous() for node in held)
