"""Three moons on circles, each with a period of its own: where do they stand next? (Memory Mosaics, 2405.06394, section 6.)

A context memory of 6 dimensions that looks at the sky as a whole has to wait until the whole sky comes again, which takes
the common multiple of the periods. Three memories of 2 dimensions can each follow one moon, and then all is known once the
slowest has been around. Nothing tells them to; training to know soon does (predictive disentanglement).

The model is the paper's: one layer, no norms and no averages, maps that multiply complex numbers, logits times 50, values
one step ahead, memories strictly of the past.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from formers.config import below_one, require, to_dict
from formers.experiments.claims import Verdict
from formers.files import write_json
from formers.parts.attend import attend
from formers.parts.masks import StrictlyPast
from formers.parts.positions import Positions

MOONS, SHARPNESS, OFFSET = 3, 50.0, 0.3
PERIODS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
HEADS = {"three heads of 2": 3, "one head of 6": 1}
KNOWN = 0.1
"""Distance to a moon's place, of circles of radius 1, below which it counts as known."""


@dataclass(frozen=True)
class MoonsSettings:
    """Sizes of the experiment. The paper's: length 800, batch 64.

    steps_a_unit  time steps in a period of 1: the periods are 0.5 to 3.5 units
    asked         starts of the held-out periods that are asked in the end
    """

    seeds: int = 3
    steps: int = 500
    batch_size: int = 8
    length: int = 320
    steps_a_unit: int = 20
    asked: int = 64
    lr: float = 1e-2

    def __post_init__(self) -> None:
        problems = below_one(self, ("seeds", "steps", "batch_size", "length", "steps_a_unit", "asked"))
        if self.steps_a_unit % 2:
            problems.append(f"steps_a_unit is {self.steps_a_unit}, wanted an even number: periods are halves")
        longest = common(triples()[-1]) * self.steps_a_unit
        if self.length <= longest:
            problems.append(f"length is {self.length}, wanted more than the longest common period, {longest:.0f}")
        require("MoonsSettings", problems)


# --- the sky ------------------------------------------------------------------------------------------------------------


def common(periods: Sequence[float]) -> float:
    """When all moons stand as they stood."""
    return math.lcm(*(round(2 * period) for period in periods)) / 2


def triples() -> list[tuple[float, ...]]:
    """A quarter of all triples of periods, those that meet again soonest. The last is held out."""
    every = sorted(itertools.combinations(PERIODS, MOONS), key=common)
    return every[: len(every) // 4 + 1]


def sky(periods: Sequence[float], start: int, length: int, steps_a_unit: int) -> np.ndarray:
    """cos and sin of every moon's angle, float32 [length, 6]."""
    time = (start + np.arange(length))[:, None] / steps_a_unit
    angle = 2 * np.pi * time / np.asarray(periods) + OFFSET
    return np.stack([np.cos(angle), np.sin(angle)], -1).reshape(length, -1).astype(np.float32)


def batch(settings: MoonsSettings, seed: int, step: int) -> Tensor:
    """[batch, length + 1, 6] of random triples from random starts: a pure function of the arguments."""
    generator = np.random.default_rng([seed, step])
    learnt = triples()[:-1]
    which = generator.integers(0, len(learnt), settings.batch_size)
    starts = generator.integers(0, 10_000, settings.batch_size)
    rows = [
        sky(learnt[w], int(s), settings.length + 1, settings.steps_a_unit) for w, s in zip(which, starts, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))


def held_out(settings: MoonsSettings) -> Tensor:
    """[asked, length + 1, 6] of the triple that no training saw."""
    generator = np.random.default_rng(1)
    starts = generator.integers(0, 10_000, settings.asked)
    rows = [sky(triples()[-1], int(start), settings.length + 1, settings.steps_a_unit) for start in starts]
    return torch.from_numpy(np.stack(rows))


# --- the model ----------------------------------------------------------------------------------------------------------


class Turns(nn.Module):
    """A linear map of complex numbers, [.., 2 n] -> [.., 2 n]: pairs are turned, scaled and added up."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        n = width // 2
        self.weight = nn.Parameter((torch.rand(n, n, 2, generator=generator) * 2 - 1) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) @ torch.view_as_complex(self.weight).T
        return torch.view_as_real(turned).flatten(-2)


class Sky(nn.Module):
    """The next sky [batch, seq, 6] after each, by context memories of `heads` heads."""

    def __init__(self, heads: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.heads = heads
        self.key, self.value, self.out = (Turns(2 * MOONS, generator) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.key, self.value))
        whole, pairs = Positions.whole(x.shape[1]), Positions.whole(x.shape[1] - 1)
        found = attend(SHARPNESS * k, k[:, :, :-1], v[:, :, 1:], whole, pairs, mask=StrictlyPast())
        return self.out(found.transpose(1, 2).flatten(2))


def learn(heads: int, settings: MoonsSettings, seed: int) -> Sky:
    """A model after its training: mean of the squared error, cut at a half (an error of which nothing is known yet)."""
    model = Sky(heads, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr + (5e-6 - settings.lr) * step / settings.steps
        seen = batch(settings, seed, step)
        loss = (model(seen[:, :-1]) - seen[:, 1:]).clamp(-0.5, 0.5).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def errors(model: Sky, settings: MoonsSettings) -> list[float]:
    """How far from its place a moon is expected, after 1, 2, .. steps of the held-out periods: means over moons and starts."""
    seen = held_out(settings)
    apart = (model(seen[:, :-1]) - seen[:, 1:]).unflatten(-1, (MOONS, 2)).norm(dim=-1)
    return apart.mean((0, 2)).tolist()


# --- the experiment -----------------------------------------------------------------------------------------------------


def run(out: Path, settings: MoonsSettings | None = None, *, progress: Any = None) -> dict[str, Any]:
    """Train both with every seed and ask them. What stands in `out` already is not made again."""
    settings = settings or MoonsSettings()
    found: dict[str, list[list[float]]] = {name: [] for name in HEADS}
    for seed in range(settings.seeds):
        for name, heads in HEADS.items():
            file = out / f"{heads}-heads-seed-{seed}.json"
            key = {**to_dict(settings), "seeds": seed}
            stored = json.loads(file.read_text()) if file.is_file() else {}
            if stored.get("settings") != key:
                if progress is not None:
                    progress(f"{name}, seed {seed}")
                stored = {"settings": key, "errors": errors(learn(heads, settings, seed), settings)}
                write_json(file, stored)
            found[name].append(stored["errors"])
    periods, unit = triples()[-1], settings.steps_a_unit
    return {
        "periods": [period * unit for period in periods],
        "longest": max(periods) * unit,
        "common": common(periods) * unit,
        "errors": found,
        "known_after": {name: [known_after(one) for one in many] for name, many in found.items()},
        "settings": to_dict(settings),
    }


def known_after(error: Sequence[float]) -> int | None:
    """Steps after which the moons are known, and stay so; None: never."""
    unknown = [t for t, e in enumerate(error) if not e < KNOWN]
    first = unknown[-1] + 1 if unknown else 0
    return first if first < len(error) else None


def verdict(result: dict[str, Any]) -> Verdict:
    """Whether three heads know after the longest period (and a tenth), and one head not before nine tenths of the common."""
    known, longest, shared = result["known_after"], result["longest"], result["common"]
    three, one = (known[name] for name in HEADS)
    soon = sum(after is not None and after <= 1.1 * longest for after in three)
    late = sum(after is None or after >= 0.9 * shared for after in one)
    seeds = len(three)
    word = "reproduced" if soon == late == seeds else "smaller effect" if soon and late == seeds else "not reproduced"
    figures = {"longest period": longest, "common multiple": shared, **{name: known[name] for name in HEADS}}
    return Verdict("three heads know after the longest period, one head after the common multiple", word, figures)
