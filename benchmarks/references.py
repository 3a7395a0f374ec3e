"""BERT, T5 and DeBERTa of base or small size against transformers (with SDPA where it has it): a forward in evaluation, a
step of training, and what T5 writes. The same weights, the same ids.

forward  float32, both in one process, in turns
step     forward, backward and AdamW, dropout as published, 15% of the tokens scored, each contestant in a process of its own:
         as `formers train` runs it here against transformers compiled, with fused AdamW, both in bf16 where the machine is fast
         in it and in float32 elsewhere; and both in float32, eager, with the same optimizer
writes   64 tokens from sources of 128, greedily, the same tokens, float32 and bfloat16 where that is fast; T5 has
         all of its layers there

Layers are all alike, so a few stand for all (`--layers`), and the vocabulary is cut to 8,192 so that they are what is timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Worker, alternate, environment, finish, parser, ratios, seconds, serve, span

SHAPES = ((8, 128), (4, 512))
WANTED = {"bert": 1.0, "t5": 1.0, "deberta": 1.3, "deberta_v2": 1.3}
BATCHES, SOURCE, NEW, WANTED_WRITING = (1, 8), 128, 64, 2.0
VOCABULARY, SCORED, STEPS_A_ROUND = 8192, 0.15, 3
OURS, THEIRS = "formers", "transformers"
KINDS = {"as trained": "best", "eager float32": "eager"}


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("names", nargs="*", help=f"of {', '.join(WANTED)} (all)")
    arguments.add_argument("--layers", type=int, default=4, help="of each model (4)")
    arguments.add_argument("--threads", type=int, default=0, help="torch's own choice where none is given")
    arguments.add_argument("--serve", nargs=5, help="be one contestant: name, whose, how, batch, length")
    options = arguments.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.serve:
        serve_steps(*options.serve, layers=options.layers)
        return
    names = options.names or list(WANTED)
    result: dict[str, Any] = {"environment": environment(), "layers": options.layers, "as trained": trained_in()}
    parts = []
    for name in names:
        for batch, length in SHAPES:
            found = {"forward": forward(name, batch, length, options.layers, options.rounds)}
            for said, how in KINDS.items():
                found[f"step {said}"] = step(name, how, batch, length, options)
            result[f"{name} {batch} x {length}"] = found
            spans = ", ".join(f"{kind} {span(figures['ratio'])}" for kind, figures in found.items())
            parts.append(f"{name} {batch} x {length} (wanted {WANTED[name]}): {spans}")
    written_in = ("float32", "bfloat16") if trained_in() == "bf16" else ("float32",)
    for precision in written_in if "t5" in names else ():
        for batch in BATCHES:
            result[f"t5 writes, {precision}, {batch}"] = figures = written(batch, precision, options.rounds)
            said = f"t5 writes {batch} x {NEW} tokens, {precision} (wanted {WANTED_WRITING})"
            parts.append(f"{said}: {span(figures['ratio'])}")
    summary = "times as fast as transformers, medians with least and most: " + "; ".join(parts)
    finish("references", result, summary, options.json)


def trained_in() -> str:
    """The precision that `formers train` takes on this machine."""
    from formers.training.precision import choose_precision

    return choose_precision("auto", "cpu")


def in_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Seconds of both, and how many times as fast ours is."""
    alternate(runs, 1)  # warm
    figures = alternate(runs, rounds)
    return {"seconds": figures, "ratio": ratios(figures[THEIRS], figures[OURS])}


# --- a forward --------------------------------------------------------------------------------------------------------


def forward(name: str, batch: int, length: int, layers: int, rounds: int) -> dict[str, Any]:
    import torch

    ours, theirs = pair(name, num_layers=layers)
    ids, wanted = text(batch, length)
    run_ours, run_theirs = inputs(name, ids, wanted)

    @torch.no_grad()
    def of_ours() -> Any:
        return ours(**run_ours).logits

    @torch.no_grad()
    def of_theirs() -> Any:
        return theirs(**run_theirs).logits

    return in_turns({OURS: lambda: seconds(of_ours), THEIRS: lambda: seconds(of_theirs)}, rounds)


def text(batch: int, length: int) -> tuple[Any, Any]:
    """Ids [batch, length], and targets of which all but 15% are -100."""
    import torch

    generator = torch.Generator().manual_seed(0)
    ids, targets = torch.randint(2, VOCABULARY, (2, batch, length), generator=generator).unbind(0)
    return ids, targets.masked_fill(torch.rand(batch, length, generator=generator) >= SCORED, -100)


def inputs(name: str, ids: Any, targets: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ours and theirs are called with. T5 reads the ids and is taught what stands for the targets."""
    import torch

    mask = {"attention_mask": torch.ones_like(ids)}
    if name != "t5":
        return {"input_ids": ids}, {"input_ids": ids, **mask}
    before = ids.flip(1)
    return {"input_ids": before, "source": ids}, {"input_ids": ids, "decoder_input_ids": before, **mask}


# --- a step of training -----------------------------------------------------------------------------------------------


def step(name: str, how: str, batch: int, length: int, options: Any) -> dict[str, Any]:
    settings = ["--layers", str(options.layers), "--threads", str(options.threads)]
    workers = {
        who: Worker("benchmarks.references", *settings, "--serve", name, who, how, str(batch), str(length))
        for who in (OURS, THEIRS)
    }
    found = in_turns({who: lambda w=w: w.round()["seconds"] for who, w in workers.items()}, options.rounds)
    for worker in workers.values():
        worker.close()
    return found


def serve_steps(name: str, who: str, how: str, batch: str, length: str, *, layers: int) -> None:
    from formers.training.precision import freed_memory_kept

    ids, targets = text(int(batch), int(length))
    ours, theirs = pair(name, num_layers=layers)
    make = our_step if who == OURS else their_step
    run = make((ours if who == OURS else theirs).train(), name, ids, targets, how == "best")
    with freed_memory_kept("cpu") if who == OURS else contextlib.nullcontext():
        for _ in range(3):
            run()
        serve(lambda: {"seconds": seconds(lambda: [run() for _ in range(STEPS_A_ROUND)]) / STEPS_A_ROUND})


def our_step(model: Any, name: str, ids: Any, targets: Any, best: bool) -> Callable[[], Any]:
    """What `formers train` runs: the Objective, compiled, in `trained_in()`, where `best`."""
    import torch

    from formers.training.objective import Objective
    from formers.training.objectives import SourceObjective
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.precision import compile_module
    from formers.training.settings import TrainSettings

    kind = SourceObjective if name == "t5" else Objective
    objective = kind(model, precision=trained_in() if best else "float32")
    if best:
        compile_module(objective)
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))
    index = torch.arange(ids.shape[1]).expand_as(ids)
    given: dict[str, Any] = {"source_ids": ids, "source_index": index} if name == "t5" else {}
    read = ids.flip(1) if name == "t5" else ids

    def run() -> None:
        total, count, *_ = objective(read, targets, **given)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def their_step(model: Any, name: str, ids: Any, targets: Any, best: bool) -> Callable[[], Any]:
    import torch

    given = inputs(name, ids, targets)[1]
    module = torch.compile(model, dynamic=False) if best else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)

    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=best and trained_in() == "bf16"):
            loss = module(**given, labels=targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


# --- what T5 writes ---------------------------------------------------------------------------------------------------


def written(batch: int, precision: str, rounds: int) -> dict[str, Any]:
    """Both write the same tokens (in bf16 roundings may part them: the first is compared)."""
    import torch

    import formers

    ours, theirs = (model.to(getattr(torch, precision)) for model in pair("t5"))
    theirs.generation_config.eos_token_id = None  # random weights may say it at any time; no row may end early
    source = torch.randint(2, VOCABULARY, (batch, SOURCE), generator=torch.Generator().manual_seed(0))

    def of_ours() -> Any:
        return formers.generate(ours, source, max_new_tokens=NEW, temperature=0.0)

    def of_theirs() -> Any:
        return theirs.generate(source, attention_mask=torch.ones_like(source), max_new_tokens=NEW, do_sample=False)

    alike = slice(None) if precision == "float32" else slice(2)
    assert torch.equal(of_ours()[:, alike], of_theirs()[:, alike])
    return in_turns({OURS: lambda: seconds(of_ours), THEIRS: lambda: seconds(of_theirs)}, rounds)


def pair(name: str, **changes: Any) -> tuple[Any, Any]:
    """Ours and theirs with the same weights, in evaluation mode."""
    import torch
    import transformers

    import formers
    from formers.models.registry import spec

    ours = formers.build(name, vocab_size=VOCABULARY, **changes).eval()
    module = spec(name).load()
    settings = module.FOREIGN.write(ours.config)
    theirs = getattr(transformers, settings["architectures"][0])(transformers.AutoConfig.for_model(**settings)).eval()
    theirs.load_state_dict(module.weights(ours.config).write(ours.state_dict()), strict=False)
    run_ours, run_theirs = inputs(name, *text(2, 7))
    with torch.no_grad():
        gap = (ours(**run_ours).logits - theirs(**run_theirs).logits).abs().max()
    assert gap < 1e-4, f"the two differ by {gap:.1e}"
    return ours, theirs


if __name__ == "__main__":
    main()
