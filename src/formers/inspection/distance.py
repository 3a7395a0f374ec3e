"""What attention makes of distance alone: scores against how far back a key stands, where every token is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from formers.errors import TargetError
from formers.parts.taps import listen, taps

if TYPE_CHECKING:
    from formers.comparison.plot import Chart


@torch.no_grad()
def scores_by_distance(model: nn.Module, *, length: int = 128, tokens: int = 16) -> dict[str, Tensor]:
    """For every attention layer [heads, length]: the score of a key 0, 1, .. tokens back less that of the nearest key that the
    last token sees, averaged over texts that repeat one token each; NaN where nothing is seen. Contents being alike, what is
    left is positions: a bias as it is, rotary and absolute ones as the layer's own maps use them.

    length  tokens of a text       tokens  how many tokens are tried, of the vocabulary at even distances

    Raises TargetError for a model whose attention shows no pattern, and for one that reads a source beside its text.
    """
    names = [name for name in taps(model) if name.endswith(".pattern") and name.rpartition(".memory_")[0] == ""]
    if not names or "source" in getattr(model, "inputs", ()):
        found = "reads a source beside its text" if names else "has no tap of an attention pattern"
        raise TargetError(f"{type(model).__name__} {found}", "a decoder or an encoder with attention")
    vocabulary: int = model.config.vocab_size  # type: ignore[assignment, union-attr]
    device = next(model.parameters()).device
    ids = torch.arange(0, vocabulary, max(1, vocabulary // tokens), device=device)[:tokens]
    was_training = model.training
    with listen(model, *names) as seen:
        try:
            model.eval()(ids[:, None].expand(-1, length).contiguous())
        finally:
            model.train(was_training)
    return {name.removesuffix(".pattern"): _of_the_last(seen[name][0]) for name in names if name in seen}


def _of_the_last(pattern: Tensor) -> Tensor:
    """log p of each key less that of the nearest that is seen, [heads, distances], of [tokens, heads, queries, keys]."""
    back = pattern[:, :, -1].flip(-1).double()
    scores = back.log().where(back > 0, torch.nan)
    nearest = (back > 0).int().argmax(-1, keepdim=True)
    return (scores - scores.gather(-1, nearest)).nanmean(0)


def chart_by_distance(title: str, curves: dict[str, Tensor]) -> Chart:
    """A line for each named curve [distances]. Raises TargetError where all of them are empty."""
    from formers.comparison.plot import Chart, Line

    if not any(curve.isfinite().any() for curve in curves.values()):
        raise TargetError("no token sees any other, nor itself", "attention that sees a token or more near by")
    most = max(len(curve) for curve in curves.values())
    ticks = [(float(2**i), str(2**i)) for i in range(most.bit_length()) if 2**i < most]
    lines = [Line(name, list(range(len(curve))), curve.tolist()) for name, curve in curves.items()]
    return Chart(title, "tokens back", "score, less that of the nearest", lines, [(0.0, "0"), *ticks], dots=False)
