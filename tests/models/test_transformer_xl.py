"""Transformer-XL: segments, what is remembered, and what gradients reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.config import replace
from formers.errors import ConfigError, StateError
from formers.hub.differences import randomise
from formers.models.transformer_xl import PRESETS, TransformerXL, TransformerXLConfig, weights
from formers.parts.positions import Positions

SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 22, "num_layers": 3, "num_heads": 3, "d_head": 5, "d_ff": 17,
    "segment_length": 5, "memory_length": 7,
}  # fmt: skip
EXACT = 1e-9
"""The same sums in another order, float64; measured 1e-14."""


def model(seed: int = 1, **changes: Any) -> Any:
    made = formers.build("transformer_xl", **SIZES | changes).double().eval()
    randomise(made, seed)
    return made


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_calls(made: Any, ids: Tensor, *lengths: int, positions: Positions | None = None) -> Tensor:
    """Logits of `ids` read in calls of these lengths, the last of them repeated to the end."""
    lengths += (lengths[-1],) * (ids.shape[1] // lengths[-1] + 1)
    state, found, start = made.init_state(*ids.shape), [], 0
    for length in lengths:
        if start >= ids.shape[1]:
            break
        stop = min(start + length, ids.shape[1])
        out = made(ids[:, start:stop], positions=positions and positions.slice(start, stop), state=state)
        found.append(out.logits)
        state, start = out.state.commit(), stop
    return torch.cat(found, 1)


VARIANTS = [
    {},
    {"remember": "keys"},
    {"norm": "pre"},
    {"untie": True},
    {"memory_length": 0},
    {"memory_length": 30},
    {"recurrence": "same_layer"},
    {"recurrence": "same_layer", "memory_length": 3},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v)) or "paper")
def test_any_cut_into_calls_gives_the_same_logits(variant: dict[str, Any]) -> None:
    made, ids = model(**variant), text(2, 29)
    whole = made(ids).logits
    for lengths in ((1,), (8,), (5,), (7, 3, 11), (29,)):
        with torch.set_grad_enabled(lengths != (5,)):  # with and without gradients the ring goes other ways
            assert (in_calls(made, ids, *lengths) - whole).abs().max() <= EXACT, lengths
    with torch.no_grad():
        assert (in_calls(made, ids, 1) - whole).abs().max() <= EXACT


def test_what_is_seen_is_the_own_segment_and_the_memory_before_it() -> None:
    made, ids = model(num_layers=1), text(1, 30)
    whole = made(ids).logits
    for changed in range(30):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % 31
        moved = (made(other).logits - whole)[0].abs().amax(-1) > 0
        seen = [i for i in range(changed, 30) if changed >= i // 5 * 5 - 7]
        assert moved.nonzero().flatten().tolist() == seen


def test_layers_reach_further_than_the_memory() -> None:
    """The longest dependency grows with layers: each hands on what it saw (section 3.2)."""
    ids = text(1, 30)
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % 31
    for layers, furthest in ((1, 9), (2, 19), (3, 29)):  # 0 is in the memory of segment 1, whose 9 is in that of 3, ..
        made = model(num_layers=layers)
        moved = (in_calls(made, ids, 5) - in_calls(made, other, 5))[0].abs().amax(-1) > 0
        assert int(moved.nonzero().max()) == furthest


WAYS: list[dict[str, Any]] = [{"remember": "inputs"}, {"remember": "keys"}, {"recurrence": "same_layer"}]


@pytest.mark.parametrize("way", WAYS)
def test_each_row_forgets_by_itself_where_a_document_begins(way: dict[str, Any]) -> None:
    made, ids = model(**way), text(3, 24)
    state = made(ids[:, :13], state=made.init_state(3, 24)).state.commit()
    state = state.reset(torch.tensor([False, True, False]))
    logits = made(ids[:, 13:], state=state).logits
    whole, alone = made(ids).logits[:, 13:], made(ids[1:2, 13:]).logits
    assert (logits[[0, 2]] - whole[[0, 2]]).abs().max() <= EXACT
    assert (logits[1:2] - alone).abs().max() <= EXACT
    assert (alone - whole[1:2]).abs().max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_ragged_rows_and_a_second_document_in_any_cut(way: dict[str, Any]) -> None:
    made, ids = model(**way), text(2, 23)
    index = torch.tensor([[-1] * 4 + [*range(19)], [*range(9), *range(11), -1, -1, -1]])
    document = torch.tensor([[4] * 23, [1] * 9 + [2] * 14])
    positions = Positions(index, document)
    rows = [
        (0, slice(4, 23), made(ids[:1, 4:]).logits[0]),
        (1, slice(0, 9), made(ids[1:, :9]).logits[0]),
        (1, slice(9, 20), made(ids[1:, 9:20]).logits[0]),
    ]
    for lengths in ((23,), (1,), (6, 2, 9)):
        logits = in_calls(made, ids, *lengths, positions=positions)
        for row, place, alone in rows:
            assert (logits[row, place] - alone).abs().max() <= EXACT


# --- gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_no_gradient_reaches_the_segment_before(way: dict[str, Any]) -> None:
    made, ids = model(**way), text(2, 10)
    embedded: list[Tensor] = []
    hook = made.tokens.register_forward_hook(lambda m, args, out: embedded.append(out.requires_grad_()))
    first = made(ids[:, :5], state=made.init_state(2, 10))
    second = made(ids[:, 5:], state=first.state.commit())
    hook.remove()
    gradients = torch.autograd.grad(second.logits.square().sum(), embedded, allow_unused=True)
    assert gradients[0] is None or not gradients[0].any()
    assert gradients[1].abs().max() > 0
    moved = made(ids[:, 5:]).logits - second.logits
    assert moved.abs().max() > 1e-3  # though its values do reach this one


def test_remembered_keys_equal_remembered_inputs_but_for_the_gradient_of_their_maps() -> None:
    ids, found = text(2, 10), {}
    for remember in ("inputs", "keys"):
        made = model(remember=remember)
        state = made(ids[:, :5], state=made.init_state(2, 10)).state.commit()
        logits = made(ids[:, 5:], state=state).logits
        gradients = torch.autograd.grad(logits.square().sum(), [p for _, p in made.named_parameters()])
        found[remember] = logits, dict(zip(dict(made.named_parameters()), gradients, strict=True))
    (logits, gradients), (other_logits, other_gradients) = found["inputs"], found["keys"]
    assert (logits - other_logits).abs().max() <= EXACT
    differing = {n for n, g in gradients.items() if (g - other_gradients[n]).abs().max() > 1e-6}
    assert differing == {f"trunk.blocks.{i}.attention.project.linear.weight" for i in range(3)}
    queries, rest = (gradients["trunk.blocks.2.attention.project.linear.weight"]
                     - other_gradients["trunk.blocks.2.attention.project.linear.weight"]).split([15, 30])  # fmt: skip
    assert queries.abs().max() <= EXACT
    assert rest[:15].abs().max() > 1e-3
    assert rest[15:].abs().max() > 1e-3


def test_remembered_inputs_meet_the_weights_of_today() -> None:
    made, ids = model(num_layers=1), text(1, 10)
    kept = {n: model(num_layers=1, remember=n) for n in ("inputs", "keys")}
    states = {n: m(ids[:, :5], state=m.init_state(1, 10)).state.commit() for n, m in kept.items()}
    with torch.no_grad():
        for changed in (made, *kept.values()):
            changed.trunk.blocks[0]["attention"].project.linear.weight[15:] *= 1.5
    whole = made(ids).logits[:, 5:]
    after = {n: m(ids[:, 5:], state=states[n]).logits for n, m in kept.items()}
    assert (after["inputs"] - whole).abs().max() <= EXACT
    assert (after["keys"] - whole).abs().max() > 1e-3


# --- settings ------------------------------------------------------------------------------------------------------------


def test_a_longer_memory_takes_the_same_weights_and_sees_more() -> None:
    made, ids = model(memory_length=3), text(1, 30)
    longer = TransformerXL(replace(made.config, memory_length=25)).double().eval()
    longer.load_state_dict(made.state_dict())
    assert (longer(ids).logits - made(ids).logits)[:, 5:].abs().max() > 1e-3
    assert (longer(ids).logits - made(ids).logits)[:, :5].abs().max() <= EXACT
    assert (in_calls(longer, ids, 4) - longer(ids).logits).abs().max() <= EXACT


@pytest.mark.parametrize("untie", [False, True])
def test_u_and_v_are_shared_unless_untied(untie: bool) -> None:
    made = model(untie=untie)
    biases = {id(block["attention"].score.terms[0].biases) for block in made.trunk.blocks}
    assert len(biases) == (3 if untie else 1)
    per_layer = sum(p.numel() for n, p in made.named_parameters() if ".biases." in n)
    assert per_layer == len(biases) * 2 * 3 * 5


@pytest.mark.parametrize("changes", [{}, {"untie": True, "norm": "pre"}, {"remember": "keys"}])
def test_saved_and_loaded_it_is_the_same_model(changes: dict[str, Any], tmp_path: Path) -> None:
    made = model(**changes)
    again = formers.load(formers.save(made, tmp_path / "xl"))
    assert again.config == made.config
    assert torch.equal(again(text(1, 9)).logits, made(text(1, 9)).logits)
    assert len(list(again.parameters())) == len(list(made.parameters()))  # what was shared is shared again


@pytest.mark.parametrize("changes", [{}, {"untie": True, "norm": "pre"}])
def test_the_table_of_names_covers_every_tensor_once(changes: dict[str, Any]) -> None:
    made = model(**changes)
    table, state = weights(made.config), made.state_dict()
    written = table.write(state)
    read = table.read(written, {name: tensor.shape for name, tensor in state.items()})
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


def test_dropout_is_drawn_in_training_alone_and_from_the_seed() -> None:
    made, ids = model(dropout=0.3, attention_dropout=0.3), text(1, 12)
    assert torch.equal(made(ids).logits, made(ids).logits)
    made.train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(made(ids).logits)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], made.eval()(ids).logits)


@pytest.mark.parametrize(("way", "width"), list(zip(WAYS, (22, 2 * 3 * 5, 2 * 22), strict=True)))
def test_a_state_takes_what_memory_and_segment_take_and_grows_no_further(way: dict[str, Any], width: int) -> None:
    made = model(**way)
    entry = width * 8 + 2 * 8  # float64, and its index and document
    wanted = 2 * 3 * ((7 + 5) * entry + 8) + 2 * 8  # rows, layers, entries, how many were written; next index
    state = made.init_state(2, 1000)
    assert state.nbytes == wanted
    assert made(text(2, 50), state=state).state.commit().nbytes == wanted
    assert made.init_state(2, 3).nbytes < wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segment_length": 0, "memory_length": -1}, "segment_length is 0.*memory_length is -1"),
        ({"d_model": 21}, "d_model 21 is odd"),
        ({"d_head": None}, "not a multiple of num_heads 3: give d_head"),
        ({"remember": "hidden"}, "'inputs' | 'keys'"),
        ({"norm": "mid"}, "'post' | 'pre'"),
        ({"recurrence": "same_layer", "norm": "pre"}, "remember 'inputs' and norm 'pre', wanted 'inputs' and 'post'"),
        ({"recurrence": "same_layer", "remember": "keys"}, "remember 'keys' and norm 'post', wanted"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        formers.build("transformer_xl", **SIZES | changes)


@pytest.mark.parametrize(("preset", "millions"), [("enwik8", 41), ("enwik8_large", 277), ("wt103", 151)])
def test_the_papers_sizes_have_the_papers_parameters(preset: str, millions: int) -> None:
    config = replace(TransformerXLConfig(), **PRESETS[preset])
    with torch.device("meta"):
        made = TransformerXL(config)
    assert round(sum(p.numel() for p in made.parameters()) / 1e6) == millions


@pytest.mark.parametrize("way", WAYS)
def test_a_text_longer_than_its_state_was_made_for_is_refused_not_read_with_a_shorter_memory(
    way: dict[str, Any],
) -> None:
    made = formers.build("transformer_xl", "nano", segment_length=5, memory_length=11, **way).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        state = made.init_state(1, 15)
        state = made(ids[:, :15], state=state).state.commit()
        with pytest.raises(StateError, match="made for 15 tokens was given 17"):
            made(ids[:, 15:17], state=state).state.commit()
        state = made.init_state(1, 16)  # all that a query can see has room
        pieces = []
        for piece in ids.split(4, 1):
            out = made(piece, state=state)
            pieces.append(out.logits)
            state = out.state.commit()
        torch.testing.assert_close(torch.cat(pieces, 1), made(ids).logits)
