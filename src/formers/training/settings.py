"""What a training is asked to do: one frozen dataclass, checked at once, from which the command line is generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from formers.config import require, to_dict
from formers.errors import suggest
from formers.training.schedules import Schedule, ScheduleName

OBJECTIVES = (
    *("auto", "next_token", "masked_token", "next_sentence", "sentence_order"),
    *("replaced_token", "span_corruption", "source_to_target"),
)

FREE = frozenset({"eval_every", "eval_batches", "checkpoint_every", "sample_every", "pictures_every", "minutes"})
"""Settings that no weight depends on: a resumed run may change them."""

RESTORED = frozenset({"precision", "compile", "threads"})
"""Settings that a resumed run takes from the checkpoint, with a warning where it was asked for others."""

LATER: dict[str, tuple[Any, ...]] = {
    "objective": ("auto", "next_token"),
    "masking": ("tokens",),
    "masked_share": (0.15,),
    "mean_span": (3.0,),
    "target_len": (None,),
    "cycle_growth": (1.0,),
    "flat_share": (0.0,),
    "optimizer": ("adamw",),
    "lr_factors": ((), []),
}
"""Settings that old runs do not name, and the values that mean what those runs did."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training. One step is one update of the weights."""

    objective: str = "auto"
    """next_token, masked_token, next_sentence, sentence_order, replaced_token, span_corruption or source_to_target; auto: what
    the model's head is for."""
    masking: Literal["tokens", "words", "ngrams"] = "tokens"
    """What is masked together: single tokens, whole words, or one to three words in a row."""
    masked_share: float = 0.15
    """Share of the tokens that are masked, or lost in span corruption."""
    mean_span: float = 3.0
    """Tokens of a span, on average, in span corruption."""
    target_len: int | None = None
    """Tokens of a target where a source is given with it; None: as many as seq_len."""
    steps: int = 300
    """Updates in all."""
    minutes: float | None = None
    """Train for so many minutes (those before a resume count) in place of `steps`; the schedule then goes by the clock."""
    batch_size: int = 16
    """Rows of one update: those of all micro-batches and all processes together."""
    seq_len: int = 256
    """Tokens a row."""
    accumulate: int = 1
    """Micro-batches that an update is made of, each of batch_size / accumulate rows: less memory, the same gradient."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """adafactor: steps in proportion to the size of each weight, and less to store. Its rates are higher, about 1e-2."""
    lr: float = 1e-3
    """Peak learning rate."""
    min_lr_ratio: float = 0.1
    """Lowest learning rate after the warm-up, as a share of the peak."""
    schedule: ScheduleName = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup: int = 20
    """Steps over which the learning rate rises to its peak."""
    decay_share: float = 0.2
    """Schedule wsd: the share of the steps after the warm-up in which the learning rate falls."""
    cycles: int = 4
    """Schedule restarts: how many cycles."""
    cycle_growth: float = 1.0
    """Schedule restarts: how many times as long as the one before each cycle is."""
    flat_share: float = 0.0
    """Share of the steps after the warm-up that stay at the lowest learning rate, at the end."""
    weight_decay: float = 0.1
    """Decay of weights with two or more axes, embeddings included; norms, biases and gains do not decay."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging of gradients and of their squares. Adafactor has its own."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None: not clipped."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 where the machine is fast in it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """auto: where a compiler is present and the run is long enough to pay for compiling."""
    recompute: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    documents_apart: bool = True
    """Tokens see only their own document. False: all of the row before them, which lets causal kernels run."""
    only: tuple[str, ...] = ("all",)
    """What learns: all, gates (of the memories), memory (the layers that have one), or patterns of parameter names."""
    lr_factors: tuple[str, ...] = ()
    """What learns at a multiple of the rate, in the words of `only`: gates=30, *.norm.*=0.1."""
    carry_state: bool = False
    """Rows go on from step to step with the model's state, as a view of streams gives them."""
    state_length: int | None = None
    """Tokens that a carried state has room for; None: the model's max_length, else the longest document's."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every process holds all weights (ddp) or a share of them (fsdp)."""
    device: str = "auto"
    """auto: CUDA, then MPS, then CPU."""
    threads: int | None = None
    """CPU threads of torch; None: as torch chooses."""
    seed: int = 0
    """Of dropout. The model's weights and the view's rows have their own."""
    eval_every: int = 100
    """Steps between evaluations; 0: only at the end."""
    eval_batches: int = 50
    """Batches of an evaluation; 0: all."""
    checkpoint_every: int = 100
    """Steps between checkpoints; 0: only at the end."""
    sample_every: int = 0
    """Steps between samples of text; 0: only at the end."""
    pictures_every: int = 0
    """Steps between histograms of parameters and pictures of attention, from step 0 on (pictures/step-N); 0: none."""
    overfit_batches: int = 0
    """Train and evaluate on the same first so many batches over and over; 0: off."""
    limit_batches: int = 0
    """At most so many steps, and as many batches an evaluation, for a quick try; 0: off."""

    def __post_init__(self) -> None:
        require("TrainSettings", list(_problems(self)))

    @property
    def steps_limited(self) -> bool:
        """Whether a number of steps ends the training; else the clock alone does."""
        return self.minutes is None or self.limit_batches > 0

    @property
    def total_steps(self) -> int:
        """Updates in all, `limit_batches` applied."""
        if self.limit_batches:
            return self.limit_batches if self.minutes else min(self.steps, self.limit_batches)
        return self.steps

    @property
    def total_eval_batches(self) -> int:
        """Batches of an evaluation, `limit_batches` applied; 0: all."""
        asked = [count for count in (self.eval_batches, self.limit_batches) if count]
        return min(asked, default=0)

    @property
    def learning_rate(self) -> Schedule:
        """The schedule."""
        return Schedule(
            self.schedule,
            peak=self.lr,
            total=self.total_steps,
            warmup=self.warmup,
            floor_ratio=self.min_lr_ratio,
            decay_share=self.decay_share,
            cycles=self.cycles,
            growth=self.cycle_growth,
            flat_share=self.flat_share,
        )

    def of_the_weights(self) -> dict[str, Any]:
        """The settings that the final weights depend on: a checkpoint of others cannot be resumed. What runs of before there
        were objectives do not name is left out where it is as it was then."""
        without = {name for name, values in LATER.items() if getattr(self, name) in values}
        return {name: value for name, value in to_dict(self).items() if name not in FREE | RESTORED | without}


def split_factor(asked: str) -> tuple[str, float]:
    """``gates=30`` as ("gates", 30.0); a factor of 0 where it is none."""
    word, _, factor = asked.rpartition("=")
    try:
        return word, float(factor) if word else 0.0
    except ValueError:
        return word, 0.0


def _problems(s: TrainSettings) -> Iterator[str]:
    for name in ("steps", "batch_size", "seq_len", "accumulate", "cycles"):
        if getattr(s, name) < 1:
            yield f"{name} is {getattr(s, name)}, wanted at least 1"
    for name in ("warmup", "weight_decay", "seed", "eval_every", "eval_batches", "checkpoint_every", "sample_every"):
        if getattr(s, name) < 0:
            yield f"{name} is {getattr(s, name)}, wanted at least 0"
    if s.optimizer == "adafactor" and s.parallel == "fsdp":
        yield "optimizer adafactor with parallel fsdp, wanted adamw, or ddp: means of rows and columns want whole matrices"
    for asked in s.lr_factors:
        if split_factor(asked)[1] <= 0:
            yield f"lr_factors has {asked!r}, wanted WHAT=FACTOR with a factor above 0, such as gates=30"
    if not s.only:
        yield "only is empty, wanted all, or what is to learn"
    for name in ("pictures_every", "overfit_batches", "limit_batches"):
        if getattr(s, name) < 0:
            yield f"{name} is {getattr(s, name)}, wanted at least 0"
    if s.objective not in OBJECTIVES:
        yield f"objective {s.objective!r} is none of {', '.join(OBJECTIVES)} {suggest(s.objective, OBJECTIVES)}".rstrip()
    if not 0 < s.masked_share < 1:
        yield f"masked_share is {s.masked_share}, wanted more than 0 and less than 1"
    if s.mean_span < 1:
        yield f"mean_span is {s.mean_span}, wanted at least 1"
    for name in ("lr", "adam_eps", "minutes", "clip", "threads", "state_length", "target_len"):
        value = getattr(s, name)
        if value is not None and not value > 0:
            yield f"{name} is {value}, wanted more than 0"
    if s.accumulate >= 1 and s.batch_size % s.accumulate:
        yield f"batch_size {s.batch_size} is not a multiple of accumulate {s.accumulate}"
    if not 0 <= s.min_lr_ratio <= 1:
        yield f"min_lr_ratio is {s.min_lr_ratio}, wanted 0 to 1"
    if not 0 < s.decay_share <= 1:
        yield f"decay_share is {s.decay_share}, wanted more than 0 and at most 1"
    if not 0 <= s.flat_share < 1:
        yield f"flat_share is {s.flat_share}, wanted at least 0 and less than 1"
    if not s.cycle_growth > 0:
        yield f"cycle_growth is {s.cycle_growth}, wanted more than 0"
    if not all(0 <= beta < 1 for beta in s.betas):
        yield f"betas are {s.betas}, wanted at least 0 and less than 1"
