"""The longest forward pass of a model that fits in a given memory: one row of bytes, its loss of every token, no gradients.

`python -m benchmarks.longest --gigabytes 16`. Each length is tried by a process of its own, from --shortest on, twice as long
each time, until one needs more than it may, takes longer than --minutes, or is --most tokens long. Memory is the largest
resident set of the whole process (Linux). Models: strided attention in every other layer, with a stride of 1,024, and dilated
convolutions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.measure import environment, finish, parser, peak_resident, resident

AT_A_TIME = 65_536
MODELS: dict[str, dict[str, Any]] = {
    "sparse_transformer": {
        "d_model": 128, "num_layers": 4, "num_heads": 2, "pattern": "strided", "combine": "alternate", "stride": 1024,
        "summary": 8, "vocab_size": 257, "dropout": 0.0,
    },
    "wavenet": {"d_model": 64, "d_skip": 128, "num_layers": 10, "cycle": 10, "vocab_size": 257},
}  # fmt: skip


def one(name: str, length: int) -> dict[str, Any]:
    """Seconds, the peak, and the mean loss of a text of random bytes (ln 257 is 5.549)."""
    import torch
    import torch.nn.functional as F

    import formers

    torch.manual_seed(0)
    settings = MODELS[name] | ({"max_length": length} if name == "sparse_transformer" else {})
    made = formers.build(name, **settings).eval()
    ids = torch.randint(0, 256, (1, length + 1))
    before, began, loss = resident(), time.perf_counter(), 0.0
    with torch.no_grad():
        hidden, _ = made.body(ids[:, :-1])
        for start in range(0, length, AT_A_TIME):
            targets = ids[0, start + 1 : start + 1 + AT_A_TIME][: length - start]
            logits = made.head(hidden[:, start : start + len(targets)])
            loss += float(F.cross_entropy(logits[0], targets, reduction="sum"))
    took = time.perf_counter() - began
    parameters = sum(p.numel() for p in made.parameters())
    return {
        "length": length, "seconds": took, "peak_bytes": peak_resident(), "bytes_before": before, "loss": loss / length,
        "parameters": parameters,
    }  # fmt: skip


def longest(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every length that was tried; the last may be one that did not fit."""
    tried, length = [], options.shortest
    while length <= options.most:
        call = [sys.executable, "-W", "ignore", "-m", "benchmarks.longest", "--one", name, str(length)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            tried.append({"length": length, "fits": False, "said": (done.stderr.strip().splitlines() or [""])[-1]})
            break
        found = json.loads(done.stdout.splitlines()[-1])
        found["fits"] = found["peak_bytes"] <= options.gigabytes * 2**30
        tried.append(found)
        print(f"  {name}, {length:,} tokens: {_words(found)}", file=sys.stderr, flush=True)
        if not found["fits"] or found["seconds"] > 60 * options.minutes:
            break
        length *= 2
    return tried


def _words(found: dict[str, Any]) -> str:
    return f"{found['seconds']:.1f} s, {found['peak_bytes'] / 2**30:.2f} GB, loss {found['loss']:.3f}"


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--gigabytes", type=float, default=16.0, help="memory that a process may take (16)")
    arguments.add_argument("--shortest", type=int, default=1 << 17, help="tokens of the first try (131,072)")
    arguments.add_argument("--most", type=int, default=1 << 22, help="tokens that are enough (4,194,304)")
    arguments.add_argument(
        "--minutes", type=float, default=10.0, help="no longer text is tried after one that took longer"
    )
    arguments.add_argument("--only", choices=tuple(MODELS), help="one model")
    arguments.add_argument("--one", nargs=2, metavar=("MODEL", "LENGTH"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]))))
        return
    names = [options.only] if options.only else list(MODELS)
    tried = {name: longest(name, options) for name in names}
    result = {"environment": environment(), "gigabytes": options.gigabytes, "tried": tried}
    finish("longest", result, summary(tried, options.gigabytes), options.json)


def summary(tried: dict[str, list[dict[str, Any]]], gigabytes: float) -> str:
    parts = []
    for name, rows in tried.items():
        fitting = [row for row in rows if row["fits"]]
        best = fitting[-1] if fitting else None
        parts.append(f"{name} none" if best is None else f"{name} {best['length']:,} tokens in {_words(best)}")
    return f"the longest forward pass in {gigabytes:g} GB: " + "; ".join(parts)


if __name__ == "__main__":
    main()
