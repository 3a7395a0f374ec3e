"""DeBERTa of base size against transformers: a forward in evaluation, and a forward and backward in training.

Both in one process, in turns, with the same weights, float32, dropout as published. Versions 1 and 3; rows of 128 and of 512
tokens. Layers are all alike, so a few of them stand for the twelve (`--layers`), and the vocabulary is cut to 8,192 so that
they are what is timed. `--compile` compiles both, which takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.measure import alternate, environment, finish, parser, ratios, seconds

SHAPES = ((8, 128), (4, 512))
NAMES = ("deberta", "deberta_v2")
WANTED = 1.3


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--layers", type=int, default=4, help="of each model (4)")
    arguments.add_argument("--threads", type=int, default=None, help="torch's own choice where none is given")
    arguments.add_argument("--compile", action="store_true", help="compile both")
    options = arguments.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"environment": environment(), "layers": options.layers, "compiled": options.compile}
    parts = []
    for name in NAMES:
        for batch, length in SHAPES:
            found = compared(name, batch, length, options.layers, options.rounds, options.compile)
            result[f"{name} {batch} x {length}"] = found
            said = ", ".join(f"{kind} {found[kind]['ratio']['median']:.2f}" for kind in ("forward", "step"))
            parts.append(f"{name} {batch} x {length}: {said}")
    summary = f"speed over transformers, medians (wanted {WANTED}): " + "; ".join(parts)
    finish("deberta_compiled" if options.compile else "deberta", result, summary, options.json)


def compared(name: str, batch: int, length: int, layers: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Seconds of both in turns, and how many times as fast ours is, for a forward and for a step."""
    import torch

    ours, theirs = pair(name, layers)
    ids, targets = torch.randint(0, 8192, (2, batch, length), generator=torch.Generator().manual_seed(0)).unbind(0)
    our_run, their_run = (torch.compile(m, dynamic=False) if compiled else m for m in (ours, theirs))

    def forward(run: Callable[[], Any]) -> Callable[[], float]:
        def once() -> float:
            ours.eval(), theirs.eval()
            with torch.no_grad():
                return seconds(run)

        return once

    def step(run: Callable[[], Any]) -> Callable[[], float]:
        def once() -> float:
            ours.train(), theirs.train()
            return seconds(lambda: loss(run(), targets).backward())

        return once

    def of_ours() -> Any:
        return our_run(ids).logits

    def of_theirs() -> Any:
        return their_run(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    found = {}
    for kind, timed in (("forward", forward), ("step", step)):
        contestants = {"formers": timed(of_ours), "transformers": timed(of_theirs)}
        alternate(contestants, 1)  # warm, and compiled
        figures = alternate(contestants, rounds)
        found[kind] = {"seconds": figures, "ratio": ratios(figures["transformers"], figures["formers"])}
    return found


def pair(name: str, layers: int) -> tuple[Any, Any]:
    """Ours and theirs with the same weights."""
    import torch
    import transformers

    import formers
    from formers.models.registry import spec

    ours = formers.build(name, num_layers=layers, vocab_size=8192)
    module = spec(name).load()
    settings = module.FOREIGN.write(ours.config)
    theirs = getattr(transformers, settings["architectures"][0])(transformers.AutoConfig.for_model(**settings))
    theirs.load_state_dict(module.weights(ours.config).write(ours.state_dict()), strict=False)
    ids = torch.arange(7)[None]
    gap = (ours.eval()(ids).logits - theirs.eval()(ids, attention_mask=torch.ones_like(ids)).logits).abs().max()
    assert gap < 1e-4, f"the two differ by {gap:.1e}"
    return ours, theirs


def loss(logits: Any, targets: Any) -> Any:
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


if __name__ == "__main__":
    main()
