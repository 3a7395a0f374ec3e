"""What goes to disk and comes back, and whether the tokenizer's ids fit."""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from formers.laws.blame import everything, first_to_differ, owner, traced
from formers.laws.law import Finding, Worst, law
from formers.laws.subject import Subject, copied, dtype_of, precision
from formers.laws.trial import Trial


@law(
    "save and load exact",
    "Written to a safetensors file and read into a model with other weights, the model gives the same logits: bit for bit.",
)
@torch.no_grad()
def exact(subject: Subject, trial: Trial) -> Finding:
    saved = subject.on(copied(subject.original))
    loaded, how = _stranger(subject, trial)
    stored = saved.model.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(_untied(stored), path)
        _read_into(loaded.model, load_file(path), stored)
    back, worst = loaded.model.state_dict(), Worst()
    for name in stored.keys() | back.keys():
        same = name in stored and name in back and torch.equal(stored[name], back[name])
        worst.see(0.0 if same else float("inf"), f"{name} is not what was saved", partial(owner, saved.model, name))
    with precision(dtype_of(saved.model)):
        ids = trial.ids(2)
        found, wanted = loaded(ids).logits, saved(ids).logits
        moved = 0.0 if torch.equal(found, wanted) else float((found - wanted).abs().amax())
        where = "the logits depend on something that neither the stored tensors nor the configuration hold"
        worst.see(moved, where, partial(_blame, saved, loaded, ids))
        return worst.finding(0.0, f"{len(stored)} tensors, read into {how}")


def _stranger(subject: Subject, trial: Trial) -> tuple[Subject, str]:
    """A model of the same shape with other weights: built anew where the model tells how, else a copy made to differ."""
    built = subject.anew(trial.seed + 1)
    how = "a copy" if built is None else "a model built anew"
    model = copied(subject.original if built is None else built.to(dtype_of(subject.original)))
    for tensor in (*model.state_dict().values(), *_loose(model)):
        if tensor.is_floating_point():
            tensor.data.neg_().add_(0.37)  # no weight stays what it was, but for those of 0.185
    return subject.on(model), how


def _loose(model: nn.Module) -> list[Tensor]:
    """Tensors on modules that are neither parameters nor buffers but want a gradient: learned, yet never stored."""
    values = [value for module in model.modules() for value in vars(module).values()]
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def _untied(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each piece of memory once, under its first name: safetensors stores no tensor twice."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in stored.items():
        first.setdefault((tensor.data_ptr() if tensor.numel() else id(tensor), tensor.shape), name)
    return {name: stored[name].contiguous().clone() for name in first.values()}


def _read_into(model: nn.Module, tensors: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    """Load; names that were tied in the file's model are left to the ties of this one."""
    missing, unexpected = model.load_state_dict(copy.copy(tensors), strict=False)
    assert not unexpected, f"a model does not know its own tensors: {unexpected}"
    assert set(missing) <= stored.keys() - tensors.keys(), f"a model misses its own tensors: {missing}"


@torch.no_grad()
def _blame(saved: Subject, loaded: Subject, ids: Tensor) -> str | None:
    with traced(saved.model) as left:
        saved(ids)
    with traced(loaded.model) as right:
        loaded(ids)
    return first_to_differ(left, right, everything, everything)


TEXT = "Two words, 3 numbers:\n\tnaïve – 漢字 🙂"


@law("the tokenizer fits", "Every id that the tokenizer can give has a row in the model.", needs=["tokenizer"])
def tokenizer(subject: Subject, trial: Trial) -> Finding:
    given = subject.tokenizer
    ids = given.encode(TEXT)
    largest = max([given.vocab_size - 1, *ids, *getattr(given, "special_tokens", {}).values()])
    beyond = max(0, largest - (trial.vocab_size - 1))
    detail = f"largest id {largest}, and rows for {trial.vocab_size}"
    return Finding(float(beyond), 0.0, None, detail)
