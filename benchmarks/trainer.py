"""Our GPT-2 and BERT in the Hugging Face `Trainer`, and theirs: same text, seed, order and initial weights, 200 steps.

Two layers of width 64 on bytes of the standard library, rows of up to 128 bytes padded on the right, batches of 8, AdamW with
weight decay 0.1, learning rate 1e-3 falling to 0, gradients clipped at 1; float32. At every step the two curves of a model must
lie within 1 % of each other, without dropout and with it as it comes (0.1): both libraries ask for the same random numbers in
the same order, so that they drop the same.

Writes benchmarks/results/trainer.json and trainer.svg; exit code 1 where a curve is further off.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import FOLDER, environment, finish, parser

STEPS, BATCH, LENGTH, WITHIN = 200, 8, 128, 0.01
VOCABULARY, MASK = 257, 256
SIZES = {"vocab_size": VOCABULARY, "d_model": 64, "num_layers": 2, "num_heads": 2, "max_length": LENGTH}
MODELS = {"GPT-2": ("gpt2", {"embedding_dropout": 0.0}), "BERT": ("bert", {"d_ff": 256, "head": "masked_token"})}


def rows(masked: bool, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of bytes of the standard library, of random lengths; of `masked` rows 15 % are hidden and asked for."""
    import torch

    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = torch.tensor(list(b"\n".join(path.read_bytes() for path in files)[: 4 * count * LENGTH]))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        start = int(torch.randint(len(text) - LENGTH, (1,), generator=generator))
        length = int(torch.randint(LENGTH // 2, LENGTH + 1, (1,), generator=generator))
        ids = text[start : start + LENGTH].clone()
        mask = (torch.arange(LENGTH) < length).long()
        labels = ids.masked_fill(mask == 0, -100)
        if masked:
            hidden = torch.rand(LENGTH, generator=generator) < 0.15
            labels, ids = labels.masked_fill(~hidden, -100), ids.masked_fill(hidden, MASK)
        found.append({"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": labels})
    return found


def pair(name: str, dropout: bool, folder: Path) -> dict[str, Any]:
    """Our model in its wrapper and theirs, with the same initial weights: theirs, saved and loaded by us."""
    import torch
    import transformers

    import formers
    from formers.models.registry import configure, spec

    architecture, own = MODELS[name]
    off = (
        {}
        if dropout
        else {"dropout": 0.0, "attention_dropout": 0.0, **{n: v for n, v in own.items() if "dropout" in n}}
    )
    config = configure(architecture, None, **SIZES, **{n: v for n, v in own.items() if "dropout" not in n}, **off)
    settings = spec(architecture).load().FOREIGN.write(config) | dict.fromkeys(("bos_token_id", "eos_token_id"))
    torch.manual_seed(1)
    auto = transformers.AutoModelForCausalLM if name == "GPT-2" else transformers.AutoModelForMaskedLM
    theirs = auto.from_config(transformers.AutoConfig.for_model(**settings))
    theirs.save_pretrained(folder)
    return {"formers": formers.hub.as_transformers(formers.load(folder)), "transformers": theirs}


def curve(model: Any, data: list[dict[str, Any]], steps: int, folder: Path) -> tuple[list[float], float]:
    """The loss of every step, and the seconds that the training took."""
    import transformers

    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data)  # type: ignore[arg-type]
    trainer.remove_callback(transformers.PrinterCallback)
    began = time.perf_counter()
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], time.perf_counter() - began


def compare(name: str, dropout: bool, steps: int) -> dict[str, Any]:
    """Both curves of a model, and how far apart they lie."""
    data = rows(name == "BERT", steps * BATCH)
    with tempfile.TemporaryDirectory() as aside:
        models = pair(name, dropout, Path(aside) / "initial")
        curves, seconds = {}, {}
        for who, model in models.items():
            print(f"{name}, {who}, {'with' if dropout else 'without'} dropout", file=sys.stderr, flush=True)
            curves[who], seconds[who] = curve(model, data, steps, Path(aside) / who)
    ours, theirs = curves["formers"], curves["transformers"]
    apart = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    return {"loss": curves, "seconds": seconds, "largest_difference": apart}


def plot(results: dict[str, Any], steps: int) -> Path:
    from formers.comparison.plot import Chart, Line, write_chart

    every = max(1, steps // 20)
    places = list(range(1, steps + 1, every))
    lines = [
        Line(f"{name}, {'ours' if who == 'formers' else 'theirs'}", places, [losses[step - 1] for step in places])
        for name, found in results.items()
        for who, losses in found["loss"].items()
    ]
    title, ticks = (
        "Loss in the Hugging Face Trainer (ours lie under theirs)",
        [(s, str(s)) for s in range(0, steps + 1, 50)],
    )
    chart = Chart(title, "steps", "nats a byte", lines, [(float(s), n) for s, n in ticks], log_x=False)
    return write_chart(chart, FOLDER / "trainer.svg")


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--steps", type=int, default=STEPS)
    options = arguments.parse_args()
    about, steps = environment(), options.steps
    without = {name: compare(name, False, steps) for name in MODELS}
    dropped = {name: compare(name, True, steps) for name in MODELS}
    result = {
        "environment": about,
        "steps": steps,
        "within": WITHIN,
        "without_dropout": without,
        "with_dropout": dropped,
    }
    found = {
        f"{name} {how} dropout": r for how, rs in (("without", without), ("with", dropped)) for name, r in rs.items()
    }
    parts = [
        f"{name}: from {r['loss']['formers'][0]:.2f} to {r['loss']['formers'][-1]:.2f}, at every step within"
        f" {100 * r['largest_difference']:.1g} % of theirs"
        for name, r in found.items()
    ]
    plot(without, steps)
    finish(
        "trainer",
        result,
        f"{steps} steps in the Hugging Face Trainer, ours and theirs: " + "; ".join(parts),
        options.json,
    )
    sys.exit(max(r["largest_difference"] for r in found.values()) > WITHIN)


if __name__ == "__main__":
    main()
