"""Generation of the GPT-2 124M shape against transformers: prompt 32, 64 new tokens, top-k 50, the same weights on both sides.

Peers are `transformers.generate` as it comes, and with its static cache compiled. Ours is `formers.generate` as it comes: it
compiles nothing. Seconds are of whole calls, prefill and sampling included. At batch 1 every weight is read once a token, so
reading bounds the speed: the bound is the bytes of the weights over the read bandwidth of this machine, measured in the same
rounds on a buffer of as many bytes (a large cache helps both alike). Greedy tokens are compared first.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.measure import alternate, environment, finish, parser, ratios, seconds

PROMPT, NEW, TOP_K = 32, 64, 50
BATCHES, PRECISIONS = (1, 8), ("float32", "bfloat16")
OURS, DEFAULT, STATIC, READING = (
    "formers",
    "transformers default",
    "transformers static compiled",
    "reading the weights",
)
PEERS = (DEFAULT, STATIC)


def models() -> tuple[Any, Any]:
    """Ours and transformers' with the same random weights, by the weight table that the hub uses."""
    from transformers import GPT2Config, GPT2LMHeadModel

    import formers

    ours = formers.build("gpt2", preset="small")
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    theirs.generation_config.eos_token_id = None  # random weights may say it at any time; no row may end early
    theirs.generation_config.pad_token_id = 0
    table = formers.models()["gpt2"].load().weights(ours.config)
    theirs.load_state_dict(table.write(ours.state_dict()), strict=False)
    return ours, theirs


def same_greedy_tokens(ours: Any, theirs: Any, prompt: Any) -> None:
    """A figure for something else would mean nothing."""
    import torch

    import formers

    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False)
    assert torch.equal(formers.generate(ours, prompt, max_new_tokens=16, temperature=0.0), expected)


def contestants(ours: Any, theirs: Any, prompt: Any, static: bool) -> dict[str, Callable[[], Any]]:
    """Each makes NEW tokens a row, or reads as many bytes as NEW steps do."""
    import torch
    from transformers import CompileConfig

    import formers

    everywhere = CompileConfig(fullgraph=False)
    everywhere._compile_all_devices = True  # it compiles on accelerators alone unless told so
    compiled = {"cache_implementation": "static", "compile_config": everywhere}

    def their_tokens(**settings: Any) -> None:
        mask = torch.ones_like(prompt)
        theirs.generate(prompt, attention_mask=mask, max_new_tokens=NEW, do_sample=True, top_k=TOP_K, **settings)

    found = {
        OURS: lambda: formers.generate(ours, prompt, max_new_tokens=NEW, top_k=TOP_K),
        DEFAULT: their_tokens,
        STATIC: lambda: their_tokens(**compiled),
        READING: reader(weight_bytes(ours)),
    }
    return found if static else {name: run for name, run in found.items() if name != STATIC}


def weight_bytes(model: Any) -> int:
    """Bytes of weights that one step reads: all but the table of positions, of which it reads a row."""
    read = [p for name, p in model.named_parameters() if not name.startswith("places.")]
    return sum(p.numel() * p.element_size() for p in read)


def reader(size: int) -> Callable[[], float]:
    """Reads so many bytes NEW times by the faster of two kernels."""
    import torch

    matrix = torch.ones(size // 4096, 1024)
    vector = torch.ones(1024)
    sums, products = (lambda: matrix.sum()), (lambda: torch.mv(matrix, vector))
    fastest = min((sums, products), key=lambda run: min(seconds(run) for _ in range(5)))
    return lambda: [fastest() for _ in range(NEW)]


def measure(ours: Any, theirs: Any, batch: int, rounds: int, static: bool) -> dict[str, Any]:
    """One precision and batch size."""
    import torch

    torch.compiler.reset()  # a second shape would otherwise be compiled for shapes that vary
    prompt = torch.randint(0, 50257, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    runs = contestants(ours, theirs, prompt, static)
    for name, run in runs.items():
        print(f"  warming up {name}", file=sys.stderr, flush=True)
        run(), run()
    speeds = alternate({name: lambda run=run: batch * NEW / seconds(run) for name, run in runs.items()}, rounds)
    bound = [reading / batch for reading in speeds.pop(READING)]
    return {
        "tokens_per_second": speeds,
        "milliseconds_per_step": {n: 1000 * batch / statistics.median(each) for n, each in speeds.items()},
        "speed_ratio": {name: ratios(speeds[OURS], speeds[name]) for name in PEERS if name in speeds},
        "weight_bytes": weight_bytes(ours),
        "read_bytes_per_second": statistics.median(bound) * weight_bytes(ours),
        "share_of_bandwidth_bound": ratios([speed / batch for speed in speeds[OURS]], bound),
    }


def summary_of(results: dict[str, Any]) -> str:
    def one(name: str, found: dict[str, Any]) -> str:
        against = [
            f"{r['median']:.2f}x {peer.removeprefix('transformers ')}" for peer, r in found["speed_ratio"].items()
        ]
        return f"{name}: {', '.join(against)}, {found['share_of_bandwidth_bound']['median']:.0%} of the bandwidth bound"

    return "generation against transformers: " + "; ".join(one(name, found) for name, found in results.items())


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--no-static", action="store_true", help="leave out the compiled static cache (saves minutes)"
    )
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    about, results = environment(), {}
    ours, theirs = models()
    same_greedy_tokens(ours, theirs, torch.arange(PROMPT)[None] * 997)
    for precision in PRECISIONS:
        ours, theirs = (model.to(getattr(torch, precision)) for model in (ours, theirs))
        for batch in BATCHES:
            name = f"{precision} batch {batch}"
            print(name, file=sys.stderr, flush=True)
            results[name] = measure(ours, theirs, batch, options.rounds, not options.no_static)
    shape = {
        "prompt": PROMPT,
        "new_tokens": NEW,
        "top_k": TOP_K,
        "parameters": sum(p.numel() for p in ours.parameters()),
    }
    finish("generate", {"environment": about, "shape": shape, "results": results}, summary_of(results), options.json)


if __name__ == "__main__":
    main()
