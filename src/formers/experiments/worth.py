"""What a memory is worth: the same small model with it, without it, four times as large, with a longer window, and with a
memory that came late; all trained on the same text for as many tokens, and read on the same whole documents.

Claims of Memorizing Transformers (2203.08913): a memory lowers the loss (section 4.2); a model that was trained without one
gains most of it by a short further training (4.3, figure 6); a small model with memory reaches one of four to five times its
parameters without (4.2, figure 1); a memory does more than a longer window at equal cost (4.2, table 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from formers.config import require, to_dict
from formers.experiments.claims import Interval, Verdict
from formers.experiments.contest import WHOLE, Contestant, Reading, against, of
from formers.experiments.reading import by_position, means
from formers.models.memorizing import MemorizingConfig
from formers.recipes import Recipe
from formers.recipes.recipe import DataSettings
from formers.training.settings import TrainSettings

PLAIN, MEMORY, LONGER, LATE, LARGE, WINDOW = "plain", "memory", "longer", "late", "large", "window"


@dataclass(frozen=True)
class WorthSettings:
    """Sizes of the contest.

    steps      of every contestant; `late` and `longer` train `late_share` of them more, after all of `plain`'s, with a
               memory and without
    batch_size, seq_len, lr, longest   of every training: rows, tokens a call, learning rate, tokens of a document a row
               reads before it goes on to another
    size       entries a head                    window  tokens before the segment that the contestant `window` sees
    short      tokens of the pieces that short documents are made of
    """

    steps: int = 4000
    batch_size: int = 32
    seq_len: int = 128
    lr: float = 3e-3
    longest: int = 16_384
    late_share: float = 0.25
    size: int = 8192
    window: int = 1024
    short: int = 512
    seed: int = 0
    model: dict[str, Any] = field(default_factory=lambda: dict(MODEL))

    def __post_init__(self) -> None:
        numbers = ("steps", "batch_size", "seq_len", "longest", "size", "window", "short")
        problems = [f"{name} is {getattr(self, name)}, wanted 1 or more" for name in numbers if getattr(self, name) < 1]
        if not 0 < self.late_share <= 1:
            problems.append(f"late_share is {self.late_share}, wanted more than 0 and at most 1")
        require("WorthSettings", problems)


MODEL: dict[str, Any] = {
    "d_model": 128, "num_layers": 4, "num_heads": 4, "d_ff": 512, "segment_length": 128, "cache_length": 128,
    "memory_layers": (2,), "neighbours": 16, "init_std": 0.05,
}  # fmt: skip

SHUT: dict[str, Any] = {"normalise": False, "merge": "tanh"}
"""Of a memory that comes late: keys as they are and a gate that begins shut, so that it begins as the model without."""


def contestants(settings: WorthSettings) -> tuple[Contestant, ...]:
    """All, in the order in which they train."""
    model = MemorizingConfig(**settings.model, memory_size=settings.size)
    plain = dataclasses.replace(model, memory_layers=())
    large = dataclasses.replace(plain, d_model=2 * plain.d_model, num_heads=2 * plain.num_heads, d_ff=2 * plain.d_ff)
    window = dataclasses.replace(plain, cache_length=settings.window)
    late = max(1, round(settings.steps * settings.late_share))
    return (
        Contestant(PLAIN, _recipe(PLAIN, plain, settings, settings.steps)),
        Contestant(MEMORY, _recipe(MEMORY, model, settings, settings.steps)),
        Contestant(LONGER, _recipe(LONGER, plain, settings, late), after=PLAIN),
        Contestant(LATE, _recipe(LATE, dataclasses.replace(model, **SHUT), settings, late), after=PLAIN),
        Contestant(LARGE, _recipe(LARGE, large, settings, settings.steps)),
        Contestant(WINDOW, _recipe(WINDOW, window, settings, settings.steps)),
    )


def _recipe(name: str, model: MemorizingConfig, settings: WorthSettings, steps: int) -> Recipe[MemorizingConfig]:
    return Recipe(
        name=f"worth.{name}",
        model=model,
        data=DataSettings(view="streams", longest=settings.longest, seed=settings.seed),
        train=TrainSettings(
            steps=steps,
            batch_size=settings.batch_size,
            seq_len=settings.seq_len,
            lr=settings.lr,
            warmup=min(100, steps // 4),
            carry_state=True,
            seed=settings.seed,
            eval_every=0,
            sample_every=0,
            checkpoint_every=200,
        ),
        seed=settings.seed,
    )


def readings(settings: WorthSettings) -> tuple[Reading, Reading]:
    """The documents whole, and as if they were short."""
    return WHOLE, Reading("short", settings.short)


# --- what the rows say --------------------------------------------------------------------------------------------------


def summarise(
    rows: Sequence[dict[str, Any]], costs: Mapping[str, Mapping[str, Any]], settings: WorthSettings
) -> dict[str, Any]:
    """A table of the contestants, by how each differs from the plain one, and the verdicts."""
    _, short = readings(settings)
    names = [contestant.name for contestant in contestants(settings)]
    return {
        "settings": to_dict(settings),
        "contestants": {
            name: {
                **means(of(rows, name)),
                "short": means(of(rows, name, short))["bits_per_byte"],
                "against_plain": None if name == PLAIN else against(rows, name, PLAIN),
                "by_position": by_position(of(rows, name)),
                **costs[name],
            }
            for name in names
        },
        "verdicts": verdicts(rows, settings),
    }


def verdicts(rows: Sequence[dict[str, Any]], settings: WorthSettings) -> list[Verdict]:
    """One for each claim."""
    gain, late = against(rows, MEMORY, PLAIN), against(rows, LATE, LONGER)
    large, window = against(rows, MEMORY, LARGE), against(rows, MEMORY, WINDOW)
    short = against(rows, MEMORY, PLAIN, readings(settings)[1])
    share = late.mean / gain.mean if gain and late and gain.mean < 0 else None
    late_word = "not reproduced"
    if share is not None and late is not None and late.below:
        late_word = "reproduced" if share >= 0.5 else "smaller effect"
    return [
        Verdict("a memory lowers the loss on long documents", _lower(gain), {"interval": gain}),
        Verdict(
            f"a memory that comes for the last {_last(settings):.0%} of the steps gets most of the gain",
            late_word,  # type: ignore[arg-type]
            {"interval": late, "share of the gain": share},
        ),
        Verdict("a memory makes up for four times the parameters", _no_worse(large, gain), {"interval": large}),
        Verdict("a memory does more than a longer window", _lower(window), {"interval": window}),
        Verdict("on short documents a memory changes little", _little(short, gain), {"interval": short}),
    ]


def _last(settings: WorthSettings) -> float:
    return settings.late_share / (1 + settings.late_share)


def _lower(interval: Interval | None) -> Any:
    return "reproduced" if interval is not None and interval.below else "not reproduced"


def _no_worse(interval: Interval | None, gain: Interval | None) -> Any:
    """Reproduced where the small model with memory is not surely worse; a smaller effect where it gains at all."""
    if interval is None:
        return "not reproduced"
    if not interval.above:
        return "reproduced"
    return "smaller effect" if gain is not None and gain.below else "not reproduced"


def _little(short: Interval | None, gain: Interval | None) -> Any:
    if short is None or gain is None:
        return "not reproduced"
    return "reproduced" if abs(short.mean) <= max(abs(gain.mean) / 2, 0.005) else "not reproduced"
