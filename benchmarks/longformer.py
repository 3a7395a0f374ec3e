"""Longformer of base size against transformers' own: a forward, a step of training, their memory, and time against length.

The same weights, the same ids, the first token global; each contestant in a process of its own, in turns.

forward  the body in evaluation, float32, at 4,096 and 16,384 tokens, with the largest resident set beside the time
step     forward, backward and AdamW at 4,096 tokens, 15% of them scored, dropout 0 on both sides: in bf16, ours eager (which
         tokens are global is looked at) against transformers eager and compiled, whichever is the faster, with fused AdamW; and
         both in float32, eager
slope    of log time against log length, ours alone, 2,048 to 32,768 tokens

Layers are all alike, so a few stand for all (`--layers`), and the vocabulary is cut to 8,192.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import measure
from benchmarks.measure import compared, contest_options, contest_settings, environment, finish, serve, with_memory

FORWARDS, STEP, LENGTHS = {4096: 1.5, 16384: 2.0}, 4096, (2048, 4096, 8192, 16384, 32768)
WANTED_STEP, WANTED_SLOPE, VOCABULARY, SCORED = 1.5, 1.15, 8192, 0.15
OURS, THEIRS, COMPILED = "formers", "transformers", "transformers compiled"


def main() -> None:
    options = contest_options(__doc__ or "", layers_of="model")
    if options.serve:
        whose, what, length = options.serve
        serve_rounds(whose, what, int(length), options.layers)
        return
    from formers.experiments.crossover import slope

    result: dict[str, Any] = {"environment": environment(), "layers": options.layers}
    parts = []
    for length, wanted in FORWARDS.items():
        result[f"forward {length}"] = found = contest("forward", length, (OURS, THEIRS), options)
        parts.append(f"forward of {length:,} tokens {compared(found, OURS, THEIRS)} (wanted {wanted})")
    result["step in bf16"] = found = contest("best", STEP, (OURS, THEIRS, COMPILED), options)
    best = min((THEIRS, COMPILED), key=lambda who: min(found["seconds"][who]))
    parts.append(f"step in bf16, {STEP:,} tokens, {best}, {compared(found, OURS, best)} (wanted {WANTED_STEP})")
    result["step eager"] = found = contest("eager", STEP, (OURS, THEIRS), options)
    parts.append(f"step in float32, eager {compared(found, OURS, THEIRS)} (wanted {WANTED_STEP})")
    times = {length: contest("forward", length, (OURS,), options)["seconds"][OURS] for length in LENGTHS}
    result["seconds by length"] = times
    result["slope"] = slope(list(times), [min(found) for found in times.values()])
    parts.append(f"slope of time against length {result['slope']:.2f} (wanted at most {WANTED_SLOPE})")
    summary = "times as fast as transformers, medians with least and most: " + "; ".join(parts)
    finish("longformer", result, summary, options.json)


def contest(what: str, length: int, contestants: tuple[str, ...], options: Any) -> dict[str, Any]:
    """Each in a process of its own; see `measure.contest`."""
    arguments = {who: [*contest_settings(options), "--serve", who, what, str(length)] for who in contestants}
    return measure.contest("benchmarks.longformer", arguments, options.rounds)


# --- a contestant -------------------------------------------------------------------------------------------------------


def serve_rounds(whose: str, what: str, length: int, layers: int) -> None:
    from formers.training.precision import freed_memory_kept

    ours, theirs = pair(layers, "none" if what == "forward" else "masked_token")
    model = ours if whose == OURS else theirs
    del ours, theirs
    make = {"forward": forward, "best": step, "eager": step}[what]
    run = make(model, whose, length, what == "best")

    with freed_memory_kept("cpu"):  # for all: fresh pages for large tensors are a quarter of our time at 16,384
        serve(lambda: with_memory(run))


def text(length: int) -> tuple[Any, Any, Any]:
    """Ids [1, length], targets of which all but 15% are -100, and which token is global: the first."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(3, VOCABULARY, (2, 1, length), generator=generator).unbind(0)
    hidden = torch.rand(1, length, generator=generator) >= SCORED
    return ids, targets.masked_fill(hidden, -100), torch.arange(length)[None] == 0


def called(whose: str, length: int) -> dict[str, Any]:
    ids, _, first = text(length)
    if whose == OURS:
        return {"input_ids": ids, "is_global": first}
    return {"input_ids": ids, "attention_mask": ids.ne(1).long(), "global_attention_mask": first.long()}


def forward(model: Any, whose: str, length: int, best: bool) -> Callable[[], Any]:
    import torch

    given = called(whose, length)
    model.eval()
    return torch.no_grad()(lambda: model(**given))


def step(model: Any, whose: str, length: int, best: bool) -> Callable[[], Any]:
    """Ours as the Objective runs it; theirs by its own loss."""
    import torch

    from formers.training.loss import cross_entropy
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.settings import TrainSettings

    _, targets, _ = text(length)
    given = called(whose, length)
    model.train()
    if whose == OURS:
        optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    module = torch.compile(model, dynamic=False) if whose == COMPILED else model

    def loss() -> Any:
        if whose != OURS:
            return module(**given, labels=targets).loss
        hidden, _ = model.body(given["input_ids"], is_global=given["is_global"])
        total, count = cross_entropy(hidden, model.head, targets)
        return total / count

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=best):
            found = loss()
        found.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def pair(layers: int, head: str) -> tuple[Any, Any]:
    """Ours and theirs with the same weights."""
    import torch
    import transformers

    import formers
    from formers.models.registry import spec

    sizes = {"num_layers": layers, "vocab_size": VOCABULARY, "max_length": max(LENGTHS)}
    ours = formers.build("longformer", head=head, dropout=0.0, attention_dropout=0.0, **sizes).eval()
    module = spec("longformer").load()
    settings = module.FOREIGN.write(ours.config)
    pooler = {"add_pooling_layer": False} if head == "none" else {}
    kind = getattr(transformers, settings["architectures"][0])
    theirs = kind(transformers.AutoConfig.for_model(**settings), **pooler).eval()
    theirs.load_state_dict(module.weights(ours.config).write(ours.state_dict()), strict=False)
    with torch.no_grad():
        out = theirs(**called(THEIRS, 700))
        logits = out.last_hidden_state if head == "none" else out.logits
        gap = (ours(**called(OURS, 700)).logits - logits).abs().max()
    assert gap < 1e-4, f"the two differ by {gap:.1e}"
    return ours, theirs


if __name__ == "__main__":
    main()
