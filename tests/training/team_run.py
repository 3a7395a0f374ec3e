"""One process of a team: ``torchrun``'s variables are set, MODE is ddp or fsdp. Writes its gradients to OUT.

Run as ``python -m tests.training.team_run MODE OUT``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

STEPS = 3


def gradients(parallel: str, **changes):
    """Losses of three steps of streams with carried states, and the gradients of the last."""
    from formers.training.batches import step_batch
    from formers.training.distributed import join
    from formers.training.loop import accumulate
    from formers.training.optimizer import whole
    from formers.training.records import RunFolder
    from formers.training.signals import StopRequest
    from formers.training.trainer import Trainer
    from tests.training import small

    settings = small.settings(carry_state=True, accumulate=2, parallel=parallel, **changes)
    job = small.job(small.gpt2(), small.streams(), settings=settings)
    with join(parallel, "cpu") as team:
        job.check(team.world)
        trainer = Trainer(job, team, RunFolder(job.out, write=False, resume=False), StopRequest())
        losses = []
        for step in range(1, STEPS + 1):
            trainer.parts.optimizer.zero_grad()
            losses.append(accumulate(trainer, step_batch(job.train_view, step, settings), step))
            trainer.parts.states.commit()
        found = {name: whole(p.grad) for name, p in job.model.named_parameters() if p.grad is not None}
        return losses, found, type(trainer.parts.wrapped).__name__


def main(parallel: str, out: Path) -> None:
    import torch
    from safetensors.torch import save_file

    losses, found, kind = gradients(parallel, compile=os.environ.get("COMPILE", "off"))
    if os.environ["RANK"] == "0":
        save_file({**found, "losses": torch.tensor(losses, dtype=torch.float64)}, out, metadata={"kind": kind})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
