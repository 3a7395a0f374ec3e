"""A process of its own, since the checks of shapes that other tests run under cannot be compiled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from formers.parts.replay import chosen, recomputing


def recomputed(x: Tensor) -> Tensor:
    return checkpoint(branch, x, **recomputing(x.device))


def branch(x: Tensor) -> Tensor:
    return (x * chosen(lambda: (x > 0).long())).exp().sin()


def main() -> None:
    x = torch.randn(8, dtype=torch.float64, requires_grad=True)
    compiled = torch.compile(recomputed, backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(x).sum(), x)
    (wanted,) = torch.autograd.grad(recomputed(x).sum(), x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    print("equal")


if __name__ == "__main__":
    main()
