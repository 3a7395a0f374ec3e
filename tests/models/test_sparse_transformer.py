"""The Sparse Transformer: the paper's formulas written out, its initialisation, states, images (1904.10509)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import formers
from formers.config import replace
from formers.errors import ConfigError
from formers.hub.differences import randomise
from formers.inspection.anatomy import cost
from formers.models import sparse_transformer as paper
from formers.models.sparse_transformer import PRESETS, SparseTransformer, SparseTransformerConfig, head_masks
from formers.parts import factorised as fast
from formers.parts.attend import RUNNERS
from formers.parts.masks import Dilated, SameSegment, Window
from formers.parts.patterns import Columns
from formers.parts.positions import Positions
from formers.parts.taps import listen
from formers.parts.trunk import PreNorm, set_recompute

SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 24, "num_layers": 3, "num_heads": 4, "d_key": 5, "d_ff": 17,
    "stride": 7, "summary": 2, "max_length": 61, "dropout": 0.0,
}  # fmt: skip
EXACT = 1e-9
"""The same sums in another order, float64."""

WAYS = [
    {"pattern": pattern, "combine": combine}
    for pattern in ("strided", "fixed")
    for combine in ("merged", "alternate", "heads")
]


def named(way: dict[str, Any]) -> str:
    return "-".join(map(str, way.values()))


def model(runner: str = "factorised", seed: int = 1, **changes: Any) -> Any:
    made = formers.build("sparse_transformer", **SIZES | changes).double().eval()
    randomise(made, seed)
    for block in made.trunk.blocks:
        block["attention"].runner = runner
    return made


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


# --- the paper, written out -------------------------------------------------------------------------------------------


def papers_set(config: SparseTransformerConfig, layer: int, head: int, i: int) -> list[int]:
    """The keys of position i, in one head of one layer, as section 4.3 says."""
    stride, c, heads = config.stride, config.summary, config.num_heads
    if config.pattern == "strided":
        first = set(range(max(0, i - stride), i + 1))
        second = {j for j in range(i + 1) if (i - j) % stride == 0}
    else:
        of, total = (head, heads) if config.combine != "heads" else (head - heads // 2, heads - heads // 2)
        number = of * min(total, stride // c) // total
        cells = range(stride - c * (number + 1), stride - c * number)
        first = {j for j in range(i + 1) if j // stride == i // stride}
        second = {j for j in range(i + 1) if j % stride in cells}
    if config.combine == "merged":
        return sorted(first | second)
    is_first = layer % 2 == 0 if config.combine == "alternate" else head < heads // 2
    return sorted(first if is_first else second)


def papers_attention(config: SparseTransformerConfig, layer: int, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    heads, d_key = config.num_heads, config.width_of_key
    widths = [heads * d_key, heads * d_key, config.d_model]
    q, k, v = (
        part.unflatten(-1, (heads, -1)) for part in (x @ weights["attention.project.linear.weight"].T).split(widths, -1)
    )
    rows = []
    for i in range(len(x)):
        of_heads = []
        for h in range(heads):
            keys = papers_set(config, layer, h, i)
            scores = torch.stack([q[i, h] @ k[j, h] / math.sqrt(d_key) for j in keys]) if keys else None
            mixed = torch.zeros_like(v[0, h]) if scores is None else scores.softmax(0) @ v[keys, h]
            of_heads.append(mixed)
        rows.append(torch.cat(of_heads))
    return torch.stack(rows) @ weights["attention.mix.linear.weight"].T


def papers_logits(made: SparseTransformer, ids: Tensor) -> Tensor:
    """Logits [seq, vocab] of one row by sections 5.2 to 5.4, position by position, head by head."""
    config, weights = made.config, dict(made.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], config.eps)

    lines, columns = weights["places.tables.0.weight"], weights["places.tables.1.weight"]
    rows = [
        weights["tokens.weight"][t] + lines[i // config.stride] + columns[i % config.stride] for i, t in enumerate(ids)
    ]
    h = torch.stack(rows)
    for layer in range(config.num_layers):
        block = f"trunk.blocks.{layer}."
        own = {name.removeprefix(block): w for name, w in weights.items() if name.startswith(block)}
        a = papers_attention(config, layer, norm(h, f"trunk.norms.{layer}.attention"), own)
        inner = norm(h + a, f"trunk.norms.{layer}.feed_forward")
        u = inner @ own["feed_forward.expand.weight"].T + own["feed_forward.expand.bias"]
        b = (u * torch.sigmoid(1.702 * u)) @ own["feed_forward.contract.weight"].T + own["feed_forward.contract.bias"]
        h = h + (a + b)  # resblock(H) = a(H) + b(H)
    return norm(h, "trunk.final_norm") @ weights["head.linear.weight"].T


def gap_to_the_paper(made: SparseTransformer, length: int = 38) -> float:
    """The largest difference of logits and gradients."""
    ids, worst = text(1, length), 0.0
    weigh = torch.linspace(-1, 1, length * 31, dtype=torch.float64).view(length, 31)
    found, wanted = made(ids).logits[0], papers_logits(made, ids[0])
    pairs = [(found, wanted)]
    parameters = list(made.parameters())
    pairs += zip(*(torch.autograd.grad((out * weigh).sum(), parameters) for out in (found, wanted)), strict=True)
    for ours, theirs in pairs:
        worst = max(worst, float((ours - theirs).detach().abs().max()))
    return worst


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_it_is_the_papers_model_forward_and_backward(way: dict[str, Any]) -> None:
    assert gap_to_the_paper(model(**way)) <= EXACT
    assert gap_to_the_paper(model("auto", **way)) <= EXACT  # a text this short goes to the runners of `attend`


# --- mutants: each breaks what the comparison with the paper, or with the twin, is to catch ---------------------------


class Parallel(PreNorm):
    """Both sublayers read the stream as the block found it."""

    def apply_block(self, i: int, x: Tensor, positions: Positions, nodes: Any, source: Any) -> Any:
        parts = zip(self._block(i).values(), self._norms(i), strict=True)
        return x + sum(sublayer(norm(x), positions)[0] for sublayer, norm in parts), nodes


def two_softmaxes(scores: Tensor, visible: Tensor, dtype: torch.dtype, *, blind: bool) -> Tensor:
    near = scores[..., : 2 * SIZES["stride"]]
    halves = [(near, visible[..., : near.shape[-1]]), (scores[..., near.shape[-1] :], visible[..., near.shape[-1] :])]
    return torch.cat([WEIGHTS(s, m, dtype, blind=True) for s, m in halves if s.shape[-1]], -1)


WEIGHTS = fast._weights
STRIDED, FIXED = {"pattern": "strided"}, {"pattern": "fixed"}


def window_of_l(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(paper, "near", lambda config: Window(config.stride))
    return model(**STRIDED, combine="alternate")  # merged, the far set would hold the key that is missing


def period_off_by_one(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(paper, "far", lambda config, head, heads: Dilated(config.stride + 1))
    return model(**STRIDED, combine="alternate")


def summed_softmaxes(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(fast, "_weights", two_softmaxes)
    return model(**STRIDED)


def shared_keys_counted_twice(patch: pytest.MonkeyPatch) -> Any:
    summaries = fast._Summaries.of

    def everywhere(grid: Any) -> Any:
        made = summaries(grid)
        return type(made)(made.k, made.v, made.index, made.document, made.cell - 10**6, [*made.upto[1:], made.upto[-1]])

    patch.setattr(fast._Summaries, "of", everywhere)
    return model(**FIXED)


def columns_as_printed(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(paper, "far", lambda config, head, heads: Columns(config.stride, config.stride - 3, 2))
    return model(**FIXED, combine="alternate")


def one_sub_block_for_all(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(paper, "far", lambda config, head, heads: Columns(config.stride, config.stride - 2, 2))
    return model(**FIXED)


def layers_the_other_way_round(patch: pytest.MonkeyPatch) -> Any:
    before = paper.head_masks
    patch.setattr(paper, "head_masks", lambda config, layer: before(config, layer + 1))
    return model(**STRIDED, combine="alternate")


def parallel_sublayers(patch: pytest.MonkeyPatch) -> Any:
    made = model(**STRIDED)
    made.trunk.__class__ = Parallel
    return made


def exact_gelu(patch: pytest.MonkeyPatch) -> Any:
    made = model(**STRIDED)
    made.trunk.blocks[1]["feed_forward"].activation = F.gelu
    return made


def scaled_by_the_values_width(patch: pytest.MonkeyPatch) -> Any:
    made = model(**STRIDED)
    made.trunk.blocks[2]["attention"].score.scale = 6**-0.5
    return made


def lines_of_another_width(patch: pytest.MonkeyPatch) -> Any:
    return model(**STRIDED, axes=(10, 10))


def a_block_seen_by_the_next(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(paper, "near", lambda config: Window(config.stride))
    return model(**FIXED, combine="heads")


MUTANTS = [
    window_of_l,
    period_off_by_one,
    summed_softmaxes,
    shared_keys_counted_twice,
    columns_as_printed,
    one_sub_block_for_all,
    layers_the_other_way_round,
    parallel_sublayers,
    exact_gelu,
    scaled_by_the_values_width,
    lines_of_another_width,
    a_block_seen_by_the_next,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_broken_is_not_the_papers_model(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gap_to_the_paper(mutant(monkeypatch)) > 1e-4


# --- heads ------------------------------------------------------------------------------------------------------------


def sets_of(combine: str, layer: int, **changes: Any) -> list[Any]:
    config = SparseTransformerConfig(**SIZES | {"combine": combine} | changes)
    return [mask.a.b for mask in head_masks(config, layer)]  # type: ignore[attr-defined]


def test_heads_have_distinct_sub_blocks_dealt_out_from_the_end() -> None:
    assert sets_of("alternate", 1) == [Columns(7, 5, 2), Columns(7, 5, 2), Columns(7, 3, 2), Columns(7, 1, 2)]
    assert sets_of("alternate", 1, stride=8) == [Columns(8, first, 2) for first in (6, 4, 2, 0)]
    assert sets_of("heads", 0) == [SameSegment(7), SameSegment(7), Columns(7, 5, 2), Columns(7, 3, 2)]
    assert sets_of("merged", 0, summary=7) == [SameSegment(7) | Columns(7, 0, 7)] * 4


def test_layers_take_turns_or_heads_share_out_the_two_sets() -> None:
    assert sets_of("alternate", 0, pattern="strided") == [Window(8)] * 4
    assert sets_of("alternate", 1, pattern="strided") == [Dilated(7)] * 4
    assert sets_of("merged", 1, pattern="strided") == [Window(8) | Dilated(7)] * 4
    assert sets_of("heads", 1, pattern="strided") == [Window(8)] * 2 + [Dilated(7)] * 2


def test_the_pattern_that_a_tap_shows_is_that_of_all_heads() -> None:
    made, ids = model(pattern="fixed", combine="heads"), text(1, 23)
    with listen(made, "*.1.attention.pattern") as seen:
        shown = made(ids).logits
    assert (shown - made(ids).logits).abs().max() <= EXACT
    (pattern,) = seen["trunk.blocks.1.attention.pattern"]
    for head in range(4):
        for i in range(23):
            keys = (pattern[0, head, i] > 0).nonzero().flatten().tolist()
            assert keys == papers_set(made.config, 1, head, i)


def test_long_texts_are_run_by_the_pattern_and_short_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    run = RUNNERS["factorised"]

    def factorised(case: Any) -> Tensor:
        ran.append(case.q.shape[2])
        return run(case)

    monkeypatch.setitem(RUNNERS, "factorised", factorised)
    made = model("auto", pattern="strided")
    made(text(1, 9))
    assert not ran
    made(text(1, 61))
    assert ran == [61] * 3
    index = torch.arange(61)[None].repeat(2, 1)
    made(text(2, 61), positions=Positions(index - 20 * (index >= 20), (index >= 20).long()))
    assert len(ran) == 6  # two documents in a row


# --- what is laid down at the beginning -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_the_first_loss_is_ln_v(way: dict[str, Any]) -> None:
    made, ids = formers.build("sparse_transformer", **SIZES | way), text(2, 30)
    loss = F.cross_entropy(made(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
    assert abs(float(loss.detach()) - math.log(31)) <= 1e-6


def test_initial_weights_are_the_papers() -> None:
    made = formers.build("sparse_transformer", d_model=256, num_layers=4, num_heads=4, d_key=32, max_length=4096)
    width = 0.125 * 256**-0.5
    wanted = {
        "tokens": (made.tokens.weight, width),
        "lines": (made.places.tables[0].weight, width / 2**0.5),
        "columns": (made.places.tables[1].weight, width / 2**0.5),
        "queries, keys, values": (made.trunk.blocks[3]["attention"].project.linear.weight, width),
        "mix": (made.trunk.blocks[3]["attention"].mix.linear.weight, width / 8**0.5),
        "expand": (made.trunk.blocks[0]["feed_forward"].expand.weight, width),
        "contract": (made.trunk.blocks[0]["feed_forward"].contract.weight, 0.125 * 1024**-0.5 / 8**0.5),
    }
    for name, (weight, std) in wanted.items():
        assert abs(float(weight.detach().std()) / std - 1) < 0.05, name
        assert abs(float(weight.detach().mean())) < 0.05 * std, name
    biases = [p for n, p in made.named_parameters() if n.endswith("bias")]
    assert not any(b.any() for b in biases)
    assert not made.head.linear.weight.any()


def test_the_stream_grows_little_with_depth_at_the_beginning() -> None:
    def variance(layers: int) -> float:
        made = formers.build("sparse_transformer", **SIZES | {"num_layers": layers})
        with listen(made, "*.stream.*") as seen, torch.no_grad():
            made(text(2, 20))
        return float(list(seen.values())[-1][0].var())

    assert variance(16) < 2 * variance(2)


@pytest.mark.parametrize(("preset", "millions"), [("enwik8", 95), ("cifar10", 59), ("imagenet64", 152)])
def test_the_papers_sizes_have_the_papers_parameters(preset: str, millions: int) -> None:
    with torch.device("meta"):
        made = SparseTransformer(replace(SparseTransformerConfig(), **PRESETS[preset]))
    assert abs(sum(p.numel() for p in made.parameters()) / 1e6 - millions) < 1.5


# --- positions, documents, images -------------------------------------------------------------------------------------


def test_an_image_byte_has_a_line_a_column_and_a_channel() -> None:
    made = model(axes=(4, 5, 3), max_length=60)
    lines, columns, channels = (table.weight for table in made.places.tables)
    found = made.places(Positions.whole(60))[0]
    for i in range(60):
        wanted = lines[i // 15] + columns[i // 3 % 5] + channels[i % 3]
        assert (found[i] - wanted).abs().max() <= 1e-15


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_documents_and_padding_change_nothing_for_a_document(way: dict[str, Any]) -> None:
    made, ids = model(**way), text(2, 43)
    index = torch.tensor([[-1] * 4 + [*range(39)], [*range(19), *range(21), -1, -1, -1]])
    document = torch.tensor([[4] * 43, [1] * 19 + [2] * 24])
    logits = made(ids, positions=Positions(index, document)).logits
    rows = [(0, slice(4, 43)), (1, slice(0, 19)), (1, slice(19, 40))]
    for row, place in rows:
        assert (logits[row, place] - made(ids[row : row + 1, place]).logits[0]).abs().max() <= EXACT


def test_a_text_longer_than_the_tables_is_refused_before_they_are_read() -> None:
    made = model()
    with pytest.raises(ConfigError, match="62 tokens, but the model has positions for 61"):
        made(text(1, 62))
    with pytest.raises(IndexError):
        made(text(1, 2), positions=Positions(torch.tensor([[62, 63]])))


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS, ids=named)
@pytest.mark.parametrize("lengths", [(1,), (8,), (30, 1), (7, 3, 11)], ids=str)
def test_any_cut_into_calls_gives_the_same_logits(way: dict[str, Any], lengths: tuple[int, ...]) -> None:
    made, ids = model("auto", **way), text(2, 53)
    whole = made(ids).logits
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            found, start, state = [], 0, made.init_state(2, 53)
            while start < 53:
                stop = min(53, start + lengths[min(len(found), len(lengths) - 1)])
                out = made(ids[:, start:stop], state=state)
                found.append(out.logits)
                state, start = out.state.commit(), stop
            assert (torch.cat(found, 1) - whole).abs().max() <= EXACT


def test_layers_of_near_keys_alone_remember_a_stride_and_no_more() -> None:
    for pattern, kept in (("strided", 8), ("fixed", 7)):
        state = model(pattern=pattern, combine="alternate").init_state(1, 61)
        rings = [ring for block in state.nodes for ring in block if ring is not None]
        assert [ring.capacity for ring in rings] == [kept, 61, kept]


def test_a_prompt_is_read_by_the_pattern_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ids = model(pattern="fixed"), text(2, 40)  # its runner refuses whatever is not a whole text
    with torch.no_grad():
        out = made(ids, state=made.init_state(2, 50))
    assert (out.logits - made(ids).logits).abs().max() <= EXACT


def test_what_is_written_is_what_whole_forwards_would_write() -> None:
    made, prompt = model("auto", pattern="fixed", combine="alternate"), text(2, 20)
    written = formers.generate(made, prompt, max_new_tokens=30, temperature=0.0)
    for length in range(20, 50):
        assert torch.equal(made(written[:, :length]).logits[:, -1].argmax(-1), written[:, length])


def test_narrow_keys_count_for_less_in_what_a_token_costs() -> None:
    assert cost(model()).attention_per_token == 3 * 2 * 4 * (5 + 6)  # layers, heads, numbers of a key and of a value


# --- laws ----------------------------------------------------------------------------------------------------------

LAWFUL: dict[str, Any] = SIZES | {"stride": 5, "summary": 1, "num_heads": 2, "num_layers": 2, "dropout": 0.2}
"""Of these a text of 43 tokens is run by the pattern, and its steps are not."""


def keeps_the_laws(way: dict[str, Any]) -> None:
    report = formers.certify(formers.build("sparse_transformer", **LAWFUL | way), length=43)
    assert report.ok, report.failed
    silent = {v.name for v in report.laws.values() if v.status != "pass"}
    assert silent == {"the tokenizer fits", "segments equal whole"}


@pytest.mark.parametrize("way", [WAYS[1], WAYS[3]], ids=named)
def test_the_laws_hold(way: dict[str, Any]) -> None:
    keeps_the_laws(way)


@pytest.mark.slow
@pytest.mark.parametrize("way", [WAYS[i] for i in (0, 2, 4, 5)], ids=named)
def test_the_laws_hold_of_the_other_ways(way: dict[str, Any]) -> None:
    keeps_the_laws(way)


# --- recomputation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("pattern", ["strided", "fixed"])
def test_recomputation_gives_the_same_gradients_bit_for_bit(pattern: str, dropout: float) -> None:
    made, ids, found = model(pattern=pattern, dropout=dropout).train(), text(2, 40), []
    for on in (False, True):
        set_recompute(made, on)
        torch.manual_seed(5)
        loss = made(ids).logits.square().mean()
        found.append([loss, *torch.autograd.grad(loss, list(made.parameters()))])
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


def test_dropout_is_of_what_sublayers_add_and_never_inside_attention() -> None:
    made, ids = model(dropout=0.5).train(), text(1, 20)
    with listen(made, "*.0.attention.heads") as seen:
        made(ids), made(ids)
    once, again = seen["trunk.blocks.0.attention.heads"]
    assert torch.equal(once, again)
    assert not torch.equal(made(ids).logits, made(ids).logits)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same_model(tmp_path: Path) -> None:
    made = model(axes=(4, 8, 2), max_length=60)
    again = formers.load(formers.save(made, tmp_path / "sparse"))
    assert again.config == made.config
    assert torch.equal(again(text(1, 40)).logits, made(text(1, 40)).logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stride": 0, "summary": 0}, "stride is 0.*summary is 0"),
        ({"summary": 8}, "summary 8 is more than the 7 cells"),
        ({"num_heads": 1, "combine": "heads"}, "at least 2 heads"),
        ({"axes": (3, 5)}, "15 places for max_length 61"),
        ({"num_heads": 5}, "not a multiple of num_heads 5"),
        ({"pattern": "random"}, "'fixed' | 'strided'"),
        ({"combine": "added"}, "'merged' | 'alternate' | 'heads'"),
        ({"d_key": 0}, "d_key is 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        formers.build("sparse_transformer", **SIZES | changes)
