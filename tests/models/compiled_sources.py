"""A training step's forward from sources of 1,499 tokens, one of them padded, by a T5 with a window: traced whole as compiled
code is, and as it comes. Prints the relative difference of the loss, and the numbers in the largest tensor of the trace.

A process of its own, because the tests' checks of shapes cannot be traced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import formers
from formers.training.objectives import SourceObjective

LENGTH = 1499


def main() -> None:
    model = formers.build("t5", "nano", local_radius=13, num_layers=1, num_heads=1, dropout=0.0, seed=3).double()
    objective, sizes = SourceObjective(model), []

    def noted(graph: Any, inputs: Any) -> Any:
        values = (node.meta.get("example_value") for node in graph.graph.nodes)
        sizes.extend(value.numel() for value in values if isinstance(value, Tensor))
        return graph.forward

    generator = torch.Generator().manual_seed(0)
    source, text = (torch.randint(2, 512, (2, n), generator=generator) for n in (LENGTH, 7))
    index = torch.arange(LENGTH).repeat(2, 1)
    index[1, -211:] = -1
    given = {"source_ids": source, "source_index": index}
    compiled = torch.compile(objective, backend=noted, fullgraph=True)
    losses = [run(text, text, **given)[0].detach() for run in (compiled, objective)]
    print(float((losses[0] - losses[1]).abs() / losses[1]), max(sizes))


if __name__ == "__main__":
    main()
