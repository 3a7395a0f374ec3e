"""The Sparse Transformer at 16,384 tokens against the same model with full attention by torch's causal kernel.

Four layers, d_model 256, four heads, bytes, one row; forward without gradients, and a training step (forward, backward, AdamW).
Strides of 128, 8 summary cells. Beside the models stand their attention alone, q, k and v given. Ratios are full over sparse,
so above 1 sparse is faster. First, on a short text, the sparse model is checked against its masks run dense.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.measure import alternate, environment, finish, parser, ratios, seconds

LENGTH, STRIDE, SUMMARY, LAYERS, D_MODEL, HEADS = 16_384, 128, 8, 4, 256, 4
FULL = "full"
PATTERNS = {
    "fixed merged": {"pattern": "fixed", "combine": "merged"},
    "fixed alternate": {"pattern": "fixed", "combine": "alternate"},
    "strided merged": {"pattern": "strided", "combine": "merged"},
    "strided alternate": {"pattern": "strided", "combine": "alternate"},
}


def model(pattern: dict[str, str], length: int) -> Any:
    import formers

    return formers.build(
        "sparse_transformer", **pattern, vocab_size=257, d_model=D_MODEL, num_layers=LAYERS, num_heads=HEADS,
        stride=STRIDE, summary=SUMMARY, max_length=length, dropout=0.0,
    )  # fmt: skip


def with_full_attention(length: int) -> Any:
    """The same model whose heads see every earlier token."""
    from formers.parts.masks import Causal

    made = model(PATTERNS["fixed merged"], length)
    for block in made.trunk.blocks:
        block["attention"].score.mask = Causal()
    return made


def is_the_mask_run_dense(pattern: dict[str, str]) -> None:
    """A figure for something else would mean nothing."""
    import torch

    made, ids = model(pattern, 2048).eval(), torch.randint(0, 257, (1, 2048))
    torch.nn.init.normal_(made.head.linear.weight)
    with torch.no_grad():
        fast = made(ids).logits
        for block in made.trunk.blocks:
            block["attention"].runner = "dense"
        torch.testing.assert_close(fast, made(ids).logits, rtol=1e-4, atol=1e-3)


def forward(made: Any, ids: Any) -> Callable[[], None]:
    import torch

    def run() -> None:
        with torch.no_grad():
            made.eval().body(ids)

    return run


def step(made: Any, ids: Any) -> Callable[[], None]:
    import torch

    from formers.training.objective import Objective

    objective, optimizer = Objective(made), torch.optim.AdamW(made.parameters(), lr=1e-4)

    def run() -> None:
        made.train()
        loss, count, _ = objective(ids, ids.roll(-1, 1), None, None, None)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def attention(made: Any, training: bool) -> Callable[[], None]:
    """All layers' attention, q, k and v given."""
    import torch

    from formers.parts.positions import Positions

    whole, shape = Positions.whole(LENGTH), (1, HEADS, LENGTH, D_MODEL // HEADS)
    q, k, v = (torch.randn(shape, requires_grad=training) for _ in range(3))

    def run() -> None:
        with torch.set_grad_enabled(training):
            for block in made.trunk.blocks:
                out = block["attention"].weigh(q, k, v, whole, whole)
                if training:
                    out.sum().backward()

    return run


def contestants() -> dict[str, dict[str, Callable[[], None]]]:
    """What is measured -> who does it."""
    import torch

    ids = torch.randint(0, 257, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    models = {FULL: with_full_attention(LENGTH), **{n: model(p, LENGTH) for n, p in PATTERNS.items()}}
    return {
        "forward": {name: forward(made, ids) for name, made in models.items()},
        "training step": {name: step(made, ids) for name, made in models.items()},
        "attention forward": {name: attention(made, training=False) for name, made in models.items()},
        "attention forward and backward": {name: attention(made, training=True) for name, made in models.items()},
    }


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    for pattern in PATTERNS.values():
        is_the_mask_run_dense(pattern)
    about, result = environment(), {}
    for what, runs in contestants().items():
        print(what, file=sys.stderr, flush=True)
        for run in runs.values():
            run()
        figures = alternate({n: lambda run=run: 1000 * seconds(run) for n, run in runs.items()}, options.rounds)
        against = {n: ratios(figures[FULL], each) for n, each in figures.items() if n != FULL}
        result[what] = {"milliseconds": figures, "full / sparse": against}
    finish("sparse", {"environment": about, "length": LENGTH, **result}, summary(result), options.json)


def summary(result: dict[str, Any]) -> str:
    parts = []
    for what, found in result.items():
        ms = statistics.median(found["milliseconds"][FULL])
        each = [
            f"{name} {r['median']:.1f}x ({r['least']:.1f} to {r['most']:.1f})"
            for name, r in found["full / sparse"].items()
        ]
        parts.append(f"{what}, full attention {ms:,.0f} ms: " + ", ".join(each))
    return f"Sparse Transformer against full attention, {LENGTH:,} tokens: " + "; ".join(parts)


if __name__ == "__main__":
    main()
