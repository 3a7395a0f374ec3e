"""Learning rate as a closed form of the step: what `lr_at` returns is what is applied and what is recorded.

With `w` warm-up steps, `n` steps in all, peak `p` and floor `f = p * floor_ratio`, step `s = 1..n` (the s-th update):

    s <= w                 lr = p * s / w
    after the warm-up      lr = f + (p - f) * shape(t),   t = (s - w) / (n - w),  0 < t <= 1
    rsqrt                  lr = max(f, p * sqrt(w / s))   (Vaswani et al. 2017, section 5.3; Raffel et al. 2020, section 2.2)

Every shape falls from 1 at t = 0 to 0 at t = 1, except `constant`. With a `flat_share` the shape has reached its end when that
share of the steps after the warm-up is left, and the floor stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from formers.errors import ConfigError

ScheduleName = Literal["cosine", "linear", "constant", "rsqrt", "wsd", "restarts"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)


def constant_shape(t: float) -> float:
    """1 throughout."""
    return 1.0


def linear_shape(t: float) -> float:
    """1 - t."""
    return 1.0 - t


def cosine_shape(t: float) -> float:
    """(1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017, equation 5, one cycle)."""
    return 0.5 * (1.0 + math.cos(math.pi * t))


def wsd_shape(t: float, decay_share: float) -> float:
    """Warm-up-stable-decay (Hu et al. 2024, section 4.2): 1 until the last `decay_share`, then a line to 0."""
    return min(1.0, (1.0 - t) / decay_share)


def restarts_shape(t: float, cycles: int, growth: float = 1.0) -> float:
    """`cycles` cosine cycles, each `growth` times as long as the one before (Loshchilov & Hutter 2017, T_mult); the end of a
    cycle is its bottom, the next step restarts."""
    if t <= 0.0:
        return 1.0
    if growth == 1.0:
        within = (t * cycles) % 1.0
    else:  # cycle i begins at (growth^i - 1) / (growth^cycles - 1)
        whole = growth**cycles - 1.0
        done = math.log1p(t * whole) / math.log(growth)
        number = round(done) if abs(done - round(done)) < 1e-9 else math.floor(done)
        begin = (growth**number - 1.0) / whole
        within = (t - begin) * whole / (growth**number * (growth - 1.0))
    at_a_bottom = within < 1e-9 or within > 1.0 - 1e-9
    return 0.0 if at_a_bottom else cosine_shape(within)


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    peak: learning rate at the end of the warm-up. total: updates in all. warmup: updates of warm-up (0: none).
    floor_ratio: the lowest learning rate after the warm-up as a share of the peak.
    decay_share: wsd only, the share of the steps after the warm-up that decays. cycles, growth: restarts only, how many
    cycles, and how many times as long as the one before each is. flat_share: of the steps after the warm-up, those at the end
    that stay at the floor.
    """

    name: ScheduleName
    peak: float
    total: int
    warmup: int = 0
    floor_ratio: float = 0.1
    decay_share: float = 0.2
    cycles: int = 4
    growth: float = 1.0
    flat_share: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ConfigError(f"schedule {self.name!r}", f"one of {', '.join(SCHEDULES)}", "choose one of them")

    @property
    def floor(self) -> float:
        """The lowest learning rate after the warm-up."""
        return self.peak * self.floor_ratio

    def lr_at(self, step: int) -> float:
        """Learning rate of update number `step` (the first update is step 1)."""
        after = max(1, self.total - self.warmup)
        return self.lr_of(step, (step - self.warmup) / after)

    def lr_of(self, step: int, progress: float) -> float:
        """Learning rate of update `step` where the part after the warm-up is `progress` (0 to 1) done.

        A run limited by minutes does not know its last step, so it measures `progress` by the clock.
        """
        if step < self.warmup:
            return self.peak * step / self.warmup
        if self.name == "rsqrt":
            return max(self.floor, self.peak * math.sqrt(max(1, self.warmup) / max(1, step)))
        falling = progress if self.name == "constant" else progress / (1.0 - self.flat_share)
        return self.floor + (self.peak - self.floor) * self._shape()(min(1.0, max(0.0, falling)))

    def course(self) -> list[float]:
        """The learning rate of every update, the first one's first."""
        return [self.lr_at(step) for step in range(1, self.total + 1)]

    def _shape(self) -> Callable[[float], float]:
        return {
            "constant": constant_shape,
            "linear": linear_shape,
            "cosine": cosine_shape,
            "wsd": lambda t: wsd_shape(t, self.decay_share),
            "restarts": lambda t: restarts_shape(t, self.cycles, self.growth),
        }[self.name]
