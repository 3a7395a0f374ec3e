"""A training in a process of its own, to be killed: ``python killed_run.py OUT STEPS compile|eager|masked``.

It trains, or resumes where OUT holds a run. Prints ``step N`` after each step, ``resumed N`` first where it resumed, and
``weights DIGEST`` at the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"


def main(out: Path, steps: int, mode: str) -> None:
    from formers.training import train
    from tests.training import small

    compiled = mode == "compile"
    model, view, validation = masked() if mode == "masked" else (small.gpt2(dropout=0.1), small.windows(), None)

    def tell(row: dict) -> None:
        if row["kind"] == "train":
            print("step", row["step"], flush=True)
        elif row["kind"] == "event" and "esume" in row["message"]:
            print("event", row["message"], flush=True)

    result = train(
        model,
        small.settings(
            steps=steps,
            compile="on" if compiled else "off",
            precision="bf16" if compiled else "float32",
            eval_every=7,
            checkpoint_every=5,
            sample_every=6,
            accumulate=2,
        ),
        view,
        validation or small.validation(),
        out=out,
        resume=out.exists(),
        sample=lambda model: [("the ", "end")],
        on_event=tell,
        progress=False,
    )
    print("weights", small.digest(result.model), flush=True)


def masked() -> tuple[Any, Any, Any]:
    """A BERT with dropout on masked words: what is drawn is the masks, in the data, and the dropout, in torch."""
    import formers
    from formers.data import MaskedTokens, equip
    from tests.training import small

    shards = equip(small.shards(), "masked_token")
    sizes: dict[str, Any] = {"batch_size": small.BATCH, "seq_len": small.SEQ, "masking": "words", "share": 0.4}
    model = formers.build("bert", vocab_size=shards.vocab_size, d_model=24, num_layers=2, num_heads=2, d_ff=48)
    return model, MaskedTokens(shards, **sizes), MaskedTokens(shards, rows="every", split="validation", **sizes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
