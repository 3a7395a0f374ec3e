"""The Reformer beside its parity: laws and their exceptions, states, reversible layers, settings that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError, StateError
from formers.models.reformer import ReformerConfig
from formers.parts.embeddings import AxialPositions
from formers.parts.positions import Positions
from formers.parts.reversible import set_rebuild
from formers.training.loss import cross_entropy

EQUAL = 1e-9
SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 12, "num_layers": 2, "num_heads": 2, "d_head": 5, "d_ff": 17, "max_length": 64,
    "axial_shape": (8, 8), "axial_widths": (5, 7), "lsh_chunk": 8, "local_chunk": 8, "rounds": 2, "num_buckets": 4,
    "dropout": 0.0, "local_dropout": 0.0,
}  # fmt: skip
EXCEPTED = {
    "causal by perturbation",
    "step by step equals whole",
    "documents stay apart",
    "training differs only by dropout",
}
SILENT = {"the tokenizer fits", "segments equal whole"}


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    made = formers.build("reformer", **SIZES | changes).double().eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0, 0.4)
    return made


def ids(n: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, n), generator=torch.Generator().manual_seed(seed))


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["paper", "transformers"])
def test_laws_hold_but_those_that_hashing_excepts_by_name_and_with_a_reason(rules: str) -> None:
    report = formers.certify(model(rules=rules), length=29)
    assert report.ok, report.failed
    wanted = EXCEPTED | SILENT | ({"padding changes nothing"} if rules == "transformers" else set())
    assert {v.name for v in report.laws.values() if v.status != "pass"} == wanted
    assert all("LSH" in report.laws[name].detail for name in EXCEPTED - {"training differs only by dropout"})
    assert report.laws["no weight on the future"].status == report.laws["causal by gradient"].status == "pass"


def test_the_exceptions_are_not_for_nothing() -> None:
    made = model(hash_seed=0)
    text, changed = ids(29), ids(29)
    changed[:, 20:] = (changed[:, 20:] + 1) % 31
    with torch.no_grad():
        assert not torch.equal(made(text).logits[:, :20], made(changed).logits[:, :20])


@pytest.mark.slow
def test_local_layers_alone_need_no_exception() -> None:
    report = formers.certify(model(layers=("local",)), length=29)
    assert report.ok, report.failed
    assert {v.name for v in report.laws.values() if v.status != "pass"} == SILENT


@pytest.mark.parametrize("head", ["masked_token", "span", "sequence", "none"])
def test_encoders_keep_the_laws_that_speak_of_them(head: str) -> None:
    report = formers.certify(model(head=head), length=29) if head not in ("sequence",) else None
    if report is not None:
        assert report.ok, report.failed
        assert report.laws["rows independent"].status == report.laws["finite in bf16"].status == "pass"
    assert model(head=head).causal is False


# --- states -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("rules", ["paper", "transformers"])
def test_within_a_chunk_steps_are_the_whole(rules: str) -> None:
    made, text = model(rules=rules, lsh_chunk=16), ids(16)
    whole, found, state = made(text).logits, [], made.init_state(2, 16)
    for piece in text.split([1, 1, 5, 9], 1):
        out = made(piece, state=state)
        found.append(out.logits)
        state = out.state.commit()
    assert float((torch.cat(found, 1) - whole).abs().max()) <= EQUAL


@torch.no_grad()
def test_one_hashed_layer_gives_each_step_what_a_forward_over_the_text_so_far_gives() -> None:
    made, text = model(num_layers=1, layers=("lsh",)), ids(40)
    state = made.init_state(2, 64)
    state = made(text[:, :20], state=state).state.commit()
    for t in range(20, 40):
        out = made(text[:, t : t + 1], state=state)
        state = out.state.commit()
        assert float((out.logits[:, -1] - made(text[:, : t + 1]).logits[:, -1]).abs().max()) <= EQUAL


@torch.no_grad()
def test_a_state_goes_to_tensors_and_back_and_rows_are_chosen() -> None:
    made, text = model(), ids(21, batch=3)
    state = made(text[:, :20], state=made.init_state(3, 40)).state.commit()
    stored = {name: tensor.clone() for name, tensor in state.tensors().items()}
    wanted = made(text[:, 20:], state=state).logits
    again = made.init_state(3, 40).from_tensors(stored)
    assert float((made(text[:, 20:], state=again).logits - wanted).abs().max()) <= EQUAL
    rows = torch.tensor([2, 0])
    assert float((made(text[rows, 20:], state=state.select(rows)).logits - wanted[rows]).abs().max()) <= EQUAL


def test_a_text_longer_than_its_state_is_one_clear_error() -> None:
    made = model()
    with pytest.raises(StateError, match="12"), torch.no_grad():
        made(ids(20), state=made.init_state(2, 12)).state.commit()


def test_an_encoder_keeps_no_state() -> None:
    with pytest.raises(StateError, match="keeps no state"):
        model(head="masked_token").init_state(1, 10)


@torch.no_grad()
def test_generation_goes_on_from_prompts_of_different_lengths() -> None:
    made = model(hash_seed=0)
    out = formers.generate(made, ids(12), max_new_tokens=9)
    assert out.shape == (2, 21)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3, "local_dropout": 0.3, "lsh_dropout": 0.2}, {"ff_chunks": 3}])
def test_activations_that_are_rebuilt_give_the_gradients_of_those_that_are_kept(changes: dict[str, Any]) -> None:
    made, text, found = model(num_layers=4, **changes).train(), ids(37), []
    for rebuild in (True, False):
        set_rebuild(made, rebuild)
        torch.manual_seed(5)  # of dropout, and of the rotations, which no seed holds
        hidden, _ = made.body(text)
        total, count = cross_entropy(hidden, made.head, text)
        found.append(torch.autograd.grad(total / count, list(made.parameters())))
    for rebuilt, kept in zip(*found, strict=True):
        assert float((rebuilt - kept).abs().max()) <= EQUAL


def test_so_they_do_where_a_text_goes_on_from_a_state() -> None:
    made, text, found = model(num_layers=4).train(), ids(40), []
    for rebuild in (True, False):
        set_rebuild(made, rebuild)
        state = made.init_state(2, 64)
        with torch.no_grad():
            state = made(text[:, :25], state=state).state.commit()
        logits = made(text[:, 25:], state=state).logits
        found.append(torch.autograd.grad(logits.square().sum(), list(made.parameters())))
    for rebuilt, kept in zip(*found, strict=True):
        assert float((rebuilt - kept).abs().max() / kept.abs().max().clamp(min=1)) <= EQUAL


def test_feed_forwards_in_chunks_are_the_same_function() -> None:
    whole, chunked = model(), model(ff_chunks=5)
    weights = {name.replace("feed_forward.", "feed_forward.within."): t for name, t in whole.state_dict().items()}
    norms = {name: t for name, t in whole.state_dict().items() if "norms" in name}
    chunked.load_state_dict({name: t for name, t in weights.items() if "norms" not in name} | norms)
    with torch.no_grad():
        assert float((whole(ids(37)).logits - chunked(ids(37)).logits).abs().max()) <= EQUAL


@pytest.mark.parametrize("n", [1, 7, 8, 9, 23, 64])
def test_any_length_is_trained_on(n: int) -> None:
    made = model().train()
    logits = made(ids(n)).logits
    assert logits.shape == (2, n, 31)
    gradients = torch.autograd.grad(logits.square().sum(), list(made.parameters()), allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_a_row_that_is_all_padding_has_finite_gradients_and_disturbs_nobody() -> None:
    made = model(rules="paper")
    index = torch.arange(20)[None].expand(2, -1).clone()
    index[1] = -1
    logits = made(ids(20), positions=Positions(index)).logits
    assert float((logits[:1] - made(ids(20)[:1]).logits).detach().abs().max()) <= EQUAL
    assert all(g.isfinite().all() for g in torch.autograd.grad(logits.sum(), list(made.parameters())))


def test_more_rounds_may_be_asked_of_trained_weights(tmp_path: Path) -> None:
    folder = formers.save(formers.build("reformer", "nano"), tmp_path / "one")
    assert formers.load(folder, rounds=8).config.rounds == 8


def test_rules_that_transformers_lacks_are_kept_in_a_folder_of_ours(tmp_path: Path) -> None:
    made = formers.build("reformer", "nano", rules="paper", num_buckets=(2, 4))
    loaded = formers.load(formers.save(made, tmp_path / "paper"))
    assert loaded.config == made.config
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in made.state_dict().items())


# --- places and settings ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_grid_of_places_is_the_table_written_out_whole() -> None:
    grid = AxialPositions((3, 5), (2, 4), max_length=14)
    table = torch.cat([grid.rows.weight.repeat_interleave(5, 0), grid.columns.weight.repeat(3, 1)], -1)
    assert torch.equal(grid(Positions.whole(11))[0], table[:11])
    ragged = torch.tensor([[-1, 0, 13], [4, 5, -1]])
    assert torch.equal(grid(Positions(ragged)), table[ragged.clamp(min=0)] * (ragged >= 0)[..., None])
    with pytest.raises(ConfigError, match="15 tokens, but the model has positions for 14"):
        grid(Positions.whole(15))
    with pytest.raises(ConfigError, match="3 x 5 = 15 places"):
        AxialPositions((3, 5), (2, 4), max_length=16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axial_shape": (4, 15)}, "axial_shape 4 x 15 has places for 60 tokens, max_length is 64"),
        ({"axial_shape": (0, 99)}, "at least 1 of each"),
        ({"axial_widths": (6, 7)}, "come to 13, d_model is 12"),
        ({"num_buckets": 7}, "num_buckets is 7, wanted an even number"),
        ({"num_buckets": (4, 3)}, "wanted an even number"),
        ({"layers": ("lsh", "full")}, "layers has 'full', wanted local or lsh"),
        ({"layers": ()}, "layers is empty"),
        ({"lsh_after": 1}, "lsh_after is 1, and a causal model sees no later chunks"),
        ({"local_before": -1}, "local_before is -1, wanted at least 0"),
        ({"causal": False}, "causal is False"),
        ({"head": "masked_token", "causal": True}, "causal is True"),
        ({"head": "choice"}, "head 'choice' is none of"),
        ({"rounds": 0, "d_ff": 0}, "rounds is 0"),
    ],
)
def test_settings_that_do_not_fit_are_one_error_that_names_them(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ReformerConfig(**SIZES | changes)


def test_a_text_beyond_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="65 tokens, but the model has positions for 64"):
        model()(ids(65))


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rules is 'trax', wanted 'transformers' \| 'paper'"):
        formers.build("reformer", rules="trax")
