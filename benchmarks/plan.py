"""What `formers plan` predicts against what `formers train` takes: peak memory and time a step, recipe by recipe.

Every plan and every training is a process of its own, on this machine's text of Python's standard library as bytes. The
recipes are changed until each needs more than half a gigabyte, so that the interpreter is not what is predicted. (A memory's
step depends on what is stored, so `formers plan` refuses memorizing and grafted, and they are not here.) A training
makes four steps; its peak is the largest resident set from its first step to its last file, as it writes it down by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import environment, finish, parser

STEPS = 4
FLOAT32, BF16 = "--train.precision float32", "--train.precision bf16"
CASES = {
    "gpt2, float32": f"gpt2.mini --train.batch-size 8 {FLOAT32}",
    "gpt2, bf16": f"gpt2.mini --train.batch-size 16 {BF16}",
    "gpt2, dropout": f"gpt2.mini --train.batch-size 6 --model.dropout 0.1 --model.attention-dropout 0.1 {FLOAT32}",
    "gpt2, two micro-batches": f"gpt2.mini --train.batch-size 16 --train.accumulate 2 {FLOAT32}",
    "gpt2, recomputed": f"gpt2.mini --train.batch-size 32 --train.recompute {BF16}",
    "gpt2, reversible": f"gpt2.mini --train.batch-size 32 --model.trunk reversible {BF16}",
    "gpt2, reversible in chunks": f"gpt2.mini --train.batch-size 48 --model.trunk reversible --model.ff-chunks 4 {FLOAT32}",
    "gpt2, many parameters": f"gpt2.mini --train.batch-size 4 --model.d-model 768 --model.num-layers 8 {FLOAT32}",
    "gpt2, vocabulary of 50,000": f"gpt2.mini --train.batch-size 8 --model.vocab-size 50000 {BF16}",
    "gpt2, one document": f"gpt2.mini --train.batch-size 12 --train.no-documents-apart {FLOAT32}",
    "llama": f"llama.mini --train.batch-size 8 {FLOAT32}",
    "llama, bf16": f"llama.mini --train.batch-size 16 {BF16}",
    "bert": f"bert.tiny --train.batch-size 48 --text.vocab-size 1024 {FLOAT32}",
    "t5": f"t5.tiny --train.batch-size 32 {FLOAT32}",
    "transformer_xl": f"transformer_xl.mini --train.batch-size 16 {FLOAT32}",
    "sparse_transformer": f"sparse_transformer.tiny --train.batch-size 8 {FLOAT32}",
    "wavenet": f"wavenet.tiny --train.batch-size 8 {FLOAT32}",
    "gpt2, compiled": f"gpt2.mini --train.batch-size 16 --train.compile on {BF16}",
}
EVERY = f"--train.steps {STEPS} --train.warmup 0 --train.eval-batches 1"


def command(verb: str, words: str, *more: str) -> list[str]:
    name, *options = f"{words} {EVERY}".split()
    if "text.vocab-size" not in words and "t5" not in words:
        options += ["--text.tokenizer", "byte"]
    compiled = [] if "--train.compile" in words else ["--train.compile", "off"]
    return [sys.executable, "-W", "ignore", "-m", "formers", verb, name, *options, *compiled, *more, "--json"]


def answer(words: list[str]) -> dict[str, Any]:
    """What a process of its own prints as JSON."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def measure(words: str) -> dict[str, Any]:
    """Predicted and taken, bytes and seconds a step."""
    predicted = answer(command("plan", words))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        answer(command("train", words, "--out", str(out)))
        peak = json.loads((out / "environment.json").read_text())["peak_bytes"]
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    speed = [row["tokens_per_second"] for row in rows if row["kind"] == "train"][-1]
    return {
        "options": words,
        "bytes": predicted["bytes"],
        "predicted_bytes": predicted["peak_bytes"],
        "peak_bytes": peak,
        "ratio": predicted["peak_bytes"] / peak,
        "predicted_seconds": predicted["seconds_a_step"],
        "seconds": predicted["tokens_a_step"] / speed,
    }


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--only", help="cases whose name holds this")
    options = arguments.parse_args()
    result: dict[str, Any] = {"environment": environment(), "recipes": {}}
    for name, words in CASES.items():
        if options.only is None or options.only in name:
            found = result["recipes"][name] = measure(words)
            print(
                f"  {name}: predicted {found['predicted_bytes'] / 1e6:,.0f} MB, taken {found['peak_bytes'] / 1e6:,.0f} MB: "
                f"{found['ratio']:.2f}; a step {found['predicted_seconds']:.1f} s, {found['seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    if options.only is None:
        finish("plan", result, summary(result), options.json)
    else:
        print(summary(result))


def summary(result: dict[str, Any]) -> str:
    ratios = {name: found["ratio"] for name, found in result["recipes"].items()}
    within = sum(abs(ratio - 1) <= 0.15 for ratio in ratios.values())
    each = "; ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    return f"peak memory, predicted / taken: within 15% for {within} of {len(ratios)} recipes; {each}"


if __name__ == "__main__":
    main()
