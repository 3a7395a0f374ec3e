"""Look-ups in a memory: batch 2, 6 heads, 512 queries of 64, k = 32, bf16 keys, 8k to 1M entries a head.

A look-up is the search and the gathering of keys and values that were found. Exact look-ups stand beside the matrix product
of queries and entries alone, done in the same chunks, which bounds them; and beside KNNMemory of
memorizing-transformers-pytorch 0.4.1 (HNSW by faiss, one key for all heads, as many queries), whose recall on the same
random keys is measured too. Approximate look-ups are made on keys in clusters, 2,000 a head, and give their recall against
exact search; nothing has a structure in random keys that an index could use. `formers experiment search` does the same on the
keys that a trained model makes of long documents.

The peer: pip install --no-deps memorizing-transformers-pytorch==0.4.1 && pip install faiss-cpu einops einops-exts joblib
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import alternate, environment, finish, parser, ratios, seconds

BATCH, HEADS, QUERIES, D, K = 2, 6, 512, 64, 32
SIZES, LARGE = (8192, 65_536), 1 << 20
CLUSTERS, SPREAD = 2000, 0.5


def vectors(entries: int, clustered: bool) -> Any:
    """[batch, heads, entries, d] in bf16: normal, or normal around normal centres."""
    import torch

    if not clustered:
        return torch.randn(BATCH, HEADS, entries, D).bfloat16()
    generator = torch.Generator().manual_seed(1)
    found = torch.empty(BATCH, HEADS, entries, D, dtype=torch.bfloat16)
    for head in found.view(-1, entries, D):
        centres = torch.randn(CLUSTERS, D, generator=generator)
        head.copy_(centres[torch.randint(0, CLUSTERS, (entries,))] + SPREAD * torch.randn(entries, D))
    return found


def question(entries: int, clustered: bool) -> tuple[Any, Any, Any]:
    """Keys, queries (of the same distribution) and their positions, one segment after the keys."""
    from formers.parts.positions import Positions

    both = vectors(entries + QUERIES, clustered)
    return (
        both[:, :, :entries].contiguous(),
        both[:, :, entries:].contiguous(),
        Positions.offset(entries, QUERIES).rows(BATCH),
    )


def memory_of(keys: Any, search: Any) -> Any:
    """A full memory without a copy; values are the keys, only their bytes matter."""
    import dataclasses

    import torch

    from formers.parts.memory import Memory
    from formers.parts.storage import Plain

    batch, heads, entries, d = keys.shape
    places = torch.arange(entries).repeat(batch, 1)
    empty = Memory.empty(batch, heads, 1, d, d, search=search, dtype=torch.bfloat16)
    return dataclasses.replace(
        empty,
        keys=Plain(keys),
        values=Plain(keys),
        index=places,
        document=torch.zeros_like(places),
        number=places.clone(),
        written=torch.full((batch,), entries),
    )


def look_up(memory: Any, q: Any, positions: Any) -> Any:
    from formers.parts.masks import EarlierSegment, SameDocument
    from formers.parts.memory import recall

    shows = EarlierSegment(QUERIES) & SameDocument()
    return recall(memory, q, q, q, positions, mask=shows, most=K, write=False)[0]


def products(keys: Any, q: Any) -> None:
    """All scores, a chunk at a time into one block, as a look-up makes them."""
    import torch

    from formers.parts.search import SCORES_AT_A_TIME, queries_at_once

    entries = keys.shape[2]
    most = queries_at_once(QUERIES, SCORES_AT_A_TIME["cpu"] // entries)
    block = torch.empty(1, entries, most, dtype=keys.dtype)
    for part, asked in zip(keys.view(-1, 1, entries, D), q.view(-1, 1, QUERIES, D), strict=True):
        for start in range(0, QUERIES, most):
            torch.bmm(part, asked[:, start : start + most].transpose(1, 2), out=block)


def peer(keys: Any, q: Any, folder: Path) -> tuple[Callable[[], Any], float] | None:
    """KNNMemory holding the first head's keys, asked by every head; and its recall. None where it is not installed."""
    import torch

    try:
        from memorizing_transformers_pytorch.knn_memory import KNNMemory
    except ImportError as error:
        print(f"  without the peer: {error}", file=sys.stderr)
        return None
    one, asked = keys[:, 0].float(), q.float()
    entries = one.shape[1]
    theirs = KNNMemory(D, entries, BATCH, str(folder / f"{entries}.memmap"), multiprocessing=False)
    for start in range(0, entries, 4096):
        part = one[:, start : start + 4096]
        theirs.add(torch.stack([part, part], 2))
    found, _ = theirs.search(asked[:, :, :64], K)
    scores = asked[:, :, :64] @ one[:, None].transpose(-1, -2)
    bar = scores.topk(K, -1).values[..., -1:]
    reached = (asked[:, :, :64, None] * found[..., 0, :]).sum(-1) >= bar - 1e-3
    return lambda: theirs.search(asked, K), float(reached.float().mean())


def milliseconds(run: Callable[[], Any]) -> Callable[[], float]:
    return lambda: seconds(run) * 1000


def exact(entries: int, rounds: int, folder: Path) -> dict[str, Any]:
    from formers.parts.search import Exact

    keys, q, positions = question(entries, clustered=False)
    memory, theirs = memory_of(keys, Exact()), peer(keys, q, folder)
    runs = {
        "formers": milliseconds(lambda: look_up(memory, q, positions)),
        "product": milliseconds(lambda: products(keys, q)),
    }
    if theirs is not None:
        runs["KNNMemory"] = milliseconds(theirs[0])
    for run in runs.values():
        run()
    figures = alternate(runs, rounds)
    result: dict[str, Any] = {
        "milliseconds": figures,
        "formers / product": ratios(figures["formers"], figures["product"]),
    }
    if theirs is not None:
        result |= {
            "KNNMemory recall": theirs[1],
            "KNNMemory / formers": ratios(figures["KNNMemory"], figures["formers"]),
        }
    return result


def approximate(keys: Any, q: Any, positions: Any, rounds: int) -> dict[str, Any]:
    from formers.parts.approximate import Approximate

    search, name = Approximate(measured_on=64), f"{keys.shape[2]:,}"
    memory = memory_of(keys, search)
    built = seconds(lambda: look_up(memory, q, positions))
    search.measure_every = 0
    figures = alternate({name: milliseconds(lambda: look_up(memory, q, positions))}, rounds)
    return {"milliseconds": figures[name], "recall": search.recall, "built in seconds": built, "probes": search.probes}


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    import torch

    torch.manual_seed(0)
    result: dict[str, Any] = {"environment": environment(), "exact": {}, "approximate": {}}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for entries in SIZES:
            result["exact"][str(entries)] = exact(entries, options.rounds, Path(folder))
        for entries in (SIZES[-1], LARGE):
            result["approximate"][str(entries)] = approximate(*question(entries, clustered=True), options.rounds)
    finish("memory", result, summary(result), options.json)


def summary(result: dict[str, Any]) -> str:
    parts = []
    for entries, figures in result["exact"].items():
        ms = {name: statistics.median(each) for name, each in figures["milliseconds"].items()}
        times = figures["formers / product"]["median"]
        line = f"exact, {int(entries):,} entries: {ms['formers']:.0f} ms, {times:.1f} x the product"
        if "KNNMemory" in ms:
            line += f"; KNNMemory {ms['KNNMemory']:.0f} ms with a recall of {figures['KNNMemory recall']:.2f}"
        parts.append(line)
    for entries, figures in result["approximate"].items():
        ms = statistics.median(figures["milliseconds"])
        parts.append(f"approximate, {int(entries):,}: {ms:.0f} ms with a recall of {figures['recall']:.2f}")
    small, large = (statistics.median(f["milliseconds"]) for f in result["approximate"].values())
    parts.append(f"from 65k to 1M {large / small:.1f} x")
    return "look-ups in a memory: " + "; ".join(parts)


if __name__ == "__main__":
    main()
