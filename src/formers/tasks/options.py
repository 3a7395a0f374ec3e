"""What can be asked of each pipeline. Plain dataclasses: the command line makes its options from them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from formers.config import below_one, require

Aggregation = Literal["none", "simple", "first", "average", "max"]
Scoring = Literal["auto", "softmax", "sigmoid", "none"]
Pooling = Literal["auto", "mean", "first"]
EarlyStopping = Literal["no", "yes", "never"]


@dataclass(frozen=True)
class FillMaskOptions:
    """Words for gaps."""

    top_k: int = 5
    """How many for each gap."""
    targets: tuple[str, ...] = ()
    """Only these words, each a token of the vocabulary."""
    relative: bool = False
    """Rank tokens by how much more probable the text makes them than a mask token alone does, not by their probability."""

    def __post_init__(self) -> None:
        require("FillMaskOptions", below_one(self, ["top_k"]))


@dataclass(frozen=True)
class EntityOptions:
    """Names in a text."""

    aggregation: Aggregation = "first"
    """From tokens to entities. none: every token that is not O, with its tag; simple: tokens with tags that belong together; of
    words: first (the tag of its first token), average (of the probabilities), max (of its surest token)."""
    max_length: int | None = None
    """Tokens of a window; by default as many as the model has positions for. Longer texts are read in windows."""
    stride: int | None = None
    """Tokens that windows share, a quarter of max_length by default."""

    def __post_init__(self) -> None:
        require("EntityOptions", _lengths(self.max_length, self.stride))


@dataclass(frozen=True)
class LabelOptions:
    """Labels of texts."""

    top_k: int | None = None
    """Only so many, the most probable ones; by default all labels."""
    scoring: Scoring = "auto"
    """softmax: one label of several; sigmoid: each by itself; none: the logits. auto: what the folder says of its problem, else
    softmax, or sigmoid of a single label."""
    max_length: int | None = None
    """Tokens that are read; what is longer is cut with a warning. By default as many as the model has positions for."""

    def __post_init__(self) -> None:
        problems = [] if self.top_k is None else below_one(self, ["top_k"])
        require("LabelOptions", problems + _lengths(self.max_length))


@dataclass(frozen=True)
class AnswerOptions:
    """Answers in passages."""

    top_k: int = 1
    """How many answers for each question, the best first."""
    max_answer: int = 30
    """Tokens that an answer may have."""
    no_answer: bool = False
    """Whether a passage may hold no answer (SQuAD 2.0): the model then says so by its first token."""
    null_threshold: float = 0.0
    """How much higher, in logits, "no answer" must score than the best answer to be given first."""
    max_length: int | None = None
    """Tokens of a window of question and passage, 384 by default, or as many as the model has positions for."""
    stride: int | None = None
    """Tokens of the passage that windows share; 128 by default, or half of max_length."""

    def __post_init__(self) -> None:
        problems = below_one(self, ["top_k", "max_answer"])
        require("AnswerOptions", problems + _lengths(self.max_length, self.stride))


@dataclass(frozen=True)
class EmbeddingOptions:
    """Vectors of texts."""

    pooling: Pooling = "auto"
    """mean: of all tokens; first: the first token's. auto: what the folder says, else mean."""
    normalise: bool = True
    """To length 1, so that the dot product of two is their cosine."""
    max_length: int | None = None
    """Tokens that are read; what is longer is cut with a warning. By default what the folder says, or the model's positions."""

    def __post_init__(self) -> None:
        require("EmbeddingOptions", _lengths(self.max_length))


@dataclass(frozen=True)
class WritingOptions:
    """Texts from texts, by an encoder-decoder."""

    prefix: str | None = None
    """What stands before every text, such as "summarize: "; by default what the folder says for this task, or nothing."""
    beams: int = 4
    """Continuations that the search follows at a time; 1 takes the likeliest token each time."""
    num_return: int = 1
    """How many texts for each, the best first."""
    max_new_tokens: int = 128
    """At most so many tokens."""
    length_penalty: float = 1.0
    """Above 0 longer texts gain, below 0 shorter ones do."""
    early_stopping: EarlyStopping = "no"
    """When a search ends, enough texts having ended: yes, at once; no, when the best other one is no better; never, when none
    could become better."""
    max_length: int | None = None
    """Tokens of a source that are read; what is longer is cut with a warning. By default all."""

    def __post_init__(self) -> None:
        problems = below_one(self, ["beams", "num_return", "max_new_tokens"])
        if self.num_return > self.beams:
            problems.append(f"num_return is {self.num_return}, wanted at most beams, {self.beams}")
        require("WritingOptions", problems + _lengths(self.max_length))


@dataclass(frozen=True)
class GenerationOptions:
    """Texts gone on with."""

    max_new_tokens: int = 64
    """At most so many tokens."""
    temperature: float = 1.0
    """Below 1 more probable, above 1 more surprising; 0 takes the most probable token each time."""
    top_k: int | None = None
    """Only the k most probable tokens."""
    top_p: float | None = None
    """Only the fewest most probable tokens whose probabilities add up to p."""
    min_p: float | None = None
    """Only tokens at least min_p times as probable as the most probable one."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that stand in the text already become less probable."""
    seed: int = 0
    """Of the first sample of every text; the next ones count on from it."""
    stop: tuple[str, ...] = ()
    """Texts at which a sample ends."""
    num_samples: int = 1
    """How many continuations of each text."""

    def __post_init__(self) -> None:
        require("GenerationOptions", below_one(self, ["max_new_tokens", "num_samples"]))


def _lengths(max_length: int | None, stride: int | None = None) -> list[str]:
    """Problems of a length and the overlap of windows."""
    problems = []
    if max_length is not None and max_length < 1:
        problems.append(f"max_length is {max_length}, wanted at least 1, or None")
    if stride is not None and stride < 0:
        problems.append(f"stride is {stride}, wanted at least 0, or None")
    return problems
