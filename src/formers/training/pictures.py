"""What a model looks like inside as it trains: histograms of its parameters, and where one text of validation attends.

``pictures/step-N/parameters.json`` and ``attention.svg``, from step 0 on. Taps are heard in a forward of its own, outside of
what is compiled, and nothing is drawn from a generator that the training uses: the weights are those of a run without pictures.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from formers.comparison import heat
from formers.errors import RunError, TargetError
from formers.files import whole_folder, write_atomic, write_json
from formers.parts.taps import listen
from formers.training.batches import CarriedStates, lane_rows, state_length, to_tensors
from formers.training.evaluate import evaluating

if TYPE_CHECKING:
    from formers.training.trainer import Trainer

PICTURES = "pictures"
BINS = 40
QUERIES, KEYS = 64, 128
"""Tokens of the text that are drawn, and keys at most that they look at."""


class Pictures:
    """The pictures of one training, written by its first process every `pictures_every` steps, at its start and at its end."""

    def __init__(self, run: Trainer) -> None:
        self.run, self.every = run, run.settings.pictures_every
        self.on = bool(self.every) and run.team.first
        self.norms: dict[str, float] = {}
        if self.every and run.team.world > 1 and run.settings.parallel == "fsdp":
            self.on = False
            run.notes.append("There are no pictures (pictures_every) of a model whose weights are shared out (fsdp).")

    @property
    def folder(self) -> Path:
        return self.run.folder.path / PICTURES

    def begin(self) -> None:
        """Drop what a run that was stopped drew after the step it goes on from; a run that begins draws its first."""
        if not self.on:
            return
        for drawn in self.folder.glob("step-*"):
            if self.run.resumed_from is None or int(drawn.name.removeprefix("step-")) > self.run.resumed_from:
                shutil.rmtree(drawn)
        if self.run.step == 0:
            self.take()

    def see_gradients(self, step: int) -> None:
        """The norms of a step's gradients, before they are clipped: they are gone when its pictures are taken."""
        if self.on and (step % self.every == 0 or step == self.run.settings.total_steps):
            named = self.run.parts.model.named_parameters()
            self.norms = {name: float(p.grad.float().norm()) for name, p in named if p.grad is not None}

    def end(self) -> None:
        """The last pictures, where this step has none yet."""
        if self.on and not self._at(self.run.step).is_dir():
            self.take()

    def take(self) -> None:
        """Write the pictures of this step, whole or not at all. Raises RunError where they cannot be written."""
        if not self.on:
            return
        step, rows = self.run.step, self._attention()
        if step == 0 and not rows:
            self.run.say("The model shows no attention: pictures hold histograms of its parameters alone.")
        drawn = [{"layer": name, "heads": len(matrices)} for name, matrices in rows]
        named = dict(self.run.parts.model.named_parameters())
        parameters = {name: histogram(p) | {"gradient_norm": self.norms.get(name)} for name, p in named.items()}
        try:
            with whole_folder(self._at(step)) as aside:
                write_json(aside / "parameters.json", {"step": step, "parameters": parameters, "attention": drawn})
                if rows:
                    notes = [f"Rows: tokens, {QUERIES} at most. Columns: keys that they see. Dark: much. The text:"]
                    notes += _lines(self._text())
                    write_atomic(
                        aside / "attention.svg", heat.svg(f"Attention after step {step}", rows, notes).encode()
                    )
        except OSError as error:
            raise RunError(
                f"{self._at(step)} cannot be written: {error.strerror}", "room on the disk", "make room, then --resume"
            ) from error
        self.norms = {}

    def _at(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _batch(self) -> Any:
        view = self.run.job.validation_view or self.run.train_view
        batch = view.batch(0)
        return view, lane_rows(batch, 0, len(batch.input_ids))

    def _text(self) -> str:
        view, row = self._batch()
        tokenizer = getattr(getattr(view, "shards", None), "tokenizer", None)
        ids = row.input_ids[0][:QUERIES].tolist()
        return repr(tokenizer.decode(ids, show_special=True)) if tokenizer is not None else f"ids {ids}"

    def _attention(self) -> list[heat.Row]:
        """A row for each time an attention was applied to the text, its heads side by side."""
        parts, settings = self.run.parts, self.run.settings
        view, row = self._batch()
        micro = to_tensors(row, self.run.device, apart=settings.documents_apart, carried=settings.carry_state)
        states = CarriedStates()
        if settings.carry_state:
            states = CarriedStates(parts.model, 1, state_length(parts.model, view, settings))
        try:
            with evaluating(parts.objective), listen(parts.model, "*pattern") as seen:
                parts.objective(*micro.arguments(), states.before(0, micro.fresh), scores=True, **micro.given)
        except TargetError:  # no tap of such a name
            return []
        named = [(name, n, shown) for name, heard in seen.items() for n, shown in enumerate(heard) if shown.ndim == 4]
        return [(name if len(seen[name]) == 1 else f"{name}, time {n + 1}", _matrices(p[0])) for name, n, p in named]


def histogram(tensor: nn.Parameter | Tensor, bins: int = BINS) -> dict[str, Any]:
    """Shape, mean, standard deviation, and how many values lie in each of `bins` equal stretches from `low` to `high`, of those
    that are finite; `not_finite` counts the others."""
    values = tensor.detach().float().flatten()
    finite = values[values.isfinite()]
    found: dict[str, Any] = {"shape": list(tensor.shape), "not_finite": values.numel() - finite.numel()}
    if not finite.numel():
        return found | {"mean": None, "std": None, "low": None, "high": None, "counts": []}
    low, high = finite.min().item(), finite.max().item()
    if low == high:  # one value: a stretch around it, or none would have a width
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(finite.cpu(), bins, low, high).long().tolist()
    spread = finite.std(correction=0).item()
    return found | {"mean": finite.mean().item(), "std": spread, "low": low, "high": high, "counts": counts}


def _matrices(pattern: Tensor) -> list[Any]:
    """Each head's [queries, keys] of a pattern [heads, queries, keys]: the first queries, and the keys that they see."""
    shown = pattern[:, :QUERIES].detach().float()
    seen = (shown > 0).any(0).any(0).nonzero().flatten()[:KEYS]
    return list(shown[..., seen].cpu().numpy()) if len(seen) else []


def _lines(shown: str, width: int = 100) -> list[str]:
    return [shown[start : start + width] for start in range(0, len(shown), width)]
