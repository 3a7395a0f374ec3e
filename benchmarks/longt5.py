"""LongT5 with local attention against transformers' own: a forward and a step of training, their memory, and what 16,384 tokens
take at the published size.

The same weights and ids, one source of 4,096 and 16,384 tokens and a target of 256; each contestant in a process of its own, in
turns, float32, eager. Layers are all alike, so a few stand for all (`--layers`), and the vocabulary is cut to 8,192.

forward  encoder and decoder in evaluation
step     forward, backward and AdamW, dropout 0 on both sides
whole    ours alone, all layers and tokens of `long_base` (248M parameters) and of `small` with a window (61M): the largest
         resident set of the process in a forward and in a step of 16,384 tokens, the step recomputed as
         `--train.recompute` does it
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks import measure
from benchmarks.measure import (
    Worker,
    compared,
    contest_options,
    contest_settings,
    environment,
    finish,
    peak_resident,
    serve,
    with_memory,
)

LENGTHS, TARGET, VOCABULARY, RADIUS = (4096, 16384), 256, 8192, 127
OURS, THEIRS = "formers", "transformers"
WHOLE: dict[str, dict[str, Any]] = {
    "long_base": {"preset": "long_base"},
    "small with a window": {"preset": "small", "local_radius": RADIUS},
}


def main() -> None:
    options = contest_options(__doc__ or "", layers_of="stack")
    if options.serve:
        whose, what, length = options.serve
        serve_rounds(whose, what, int(length), options.layers)
        return
    result: dict[str, Any] = {"environment": environment(), "layers": options.layers}
    parts = []
    for what in ("forward", "step"):
        for length in LENGTHS:
            result[f"{what} {length}"] = found = contest(what, length, options)
            parts.append(f"{what} of {length:,} tokens {compared(found, OURS, THEIRS)}")
    for name in WHOLE:
        for what in ("forward", "step"):
            result[f"{name} {what}"] = found = whole(name, what, options)
            took = f"{found['peak'] / 2**30:.2f} GB, {found['seconds']:.0f} s"
            parts.append(f"{name}, whole, a {what} of {LENGTHS[-1]:,} tokens {took}")
    summary = "times as fast as transformers, medians with least and most: " + "; ".join(parts)
    finish("longt5", result, summary, options.json)


def contest(what: str, length: int, options: Any) -> dict[str, Any]:
    """Each in a process of its own; see `measure.contest`."""
    arguments = {who: [*contest_settings(options), "--serve", who, what, str(length)] for who in (OURS, THEIRS)}
    return measure.contest("benchmarks.longt5", arguments, options.rounds)


def whole(name: str, what: str, options: Any) -> dict[str, Any]:
    """By a process of its own; the second of two steps, which meets the optimizer's averages."""
    worker = Worker("benchmarks.longt5", *contest_settings(options), "--serve", name, what, str(LENGTHS[-1]))
    found = [worker.round() for _ in range(2 if what == "step" else 1)][-1]
    worker.close()
    print(f"  {name}, {what}: {found['peak'] / 2**30:.2f} GB, {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    return found


# --- a contestant -------------------------------------------------------------------------------------------------------


def serve_rounds(whose: str, what: str, length: int, layers: int) -> None:
    import formers
    from formers.parts.trunk import set_recompute
    from formers.training.settings import TrainSettings
    from formers.training.setup import freed_memory

    if whose in WHOLE:
        model = formers.build("t5", **WHOLE[whose], dropout=0.0)
        set_recompute(model, what == "step")
    else:
        ours, theirs = pair(layers)
        model = ours if whose == OURS else theirs
        del ours, theirs
    run = {"forward": forward, "step": step}[what](model, whose == THEIRS, length)
    settings = TrainSettings(recompute=whose in WHOLE and what == "step")

    with freed_memory(model, settings, "cpu"):  # for all
        serve(lambda: with_memory(run) | {"peak": peak_resident()})


def texts(length: int) -> tuple[Any, Any, Any]:
    """Ids of a source [1, length], what the decoder reads [1, 256], and what it should say."""
    import torch

    generator = torch.Generator().manual_seed(0)
    source = torch.randint(3, VOCABULARY, (1, length), generator=generator)
    targets = torch.randint(3, VOCABULARY, (1, TARGET), generator=generator)
    return source, torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1), targets


def forward(model: Any, theirs: bool, length: int) -> Callable[[], Any]:
    import torch

    source, read, _ = texts(length)
    model.eval()
    if theirs:
        return torch.no_grad()(lambda: model(input_ids=source, decoder_input_ids=read))
    return torch.no_grad()(lambda: model(read, source=source))


def step(model: Any, theirs: bool, length: int) -> Callable[[], Any]:
    """Ours as the Objective runs it; theirs by its own loss."""
    import torch

    from formers.training.objectives import SourceObjective
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.settings import TrainSettings

    source, read, targets = texts(length)
    model.train()
    if theirs:
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    else:
        objective = SourceObjective(model)
        optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))

    def loss() -> Any:
        if theirs:
            return model(input_ids=source, decoder_input_ids=read, labels=targets).loss
        total, count, _ = objective(read, targets, source_ids=source)
        return total / count

    def run() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def pair(layers: int) -> tuple[Any, Any]:
    """Ours and theirs with the same weights, of the width of `long_base`."""
    import torch
    import transformers

    import formers
    from formers.models.registry import spec

    sizes = {"num_layers": layers, "vocab_size": VOCABULARY, "dropout": 0.0, "tie": True, "scale_head": True}
    ours = formers.build("t5", preset="long_base", **sizes).eval()
    module = spec("t5").load()
    theirs = transformers.LongT5ForConditionalGeneration(
        transformers.AutoConfig.for_model(**module.FOREIGN.write(ours.config))
    ).eval()
    theirs.load_state_dict(module.weights(ours.config).write(ours.state_dict()), strict=False)
    theirs.tie_weights()
    source, read, _ = texts(700)
    with torch.no_grad():
        gap = (ours(read, source=source).logits - theirs(input_ids=source, decoder_input_ids=read).logits).abs().max()
    assert gap < 1e-3, f"the two differ by {gap:.1e}"
    return ours, theirs


if __name__ == "__main__":
    main()
