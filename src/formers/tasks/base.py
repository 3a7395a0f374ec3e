"""What every pipeline is: a model, its tokenizer and options; called with one text or many, in batches that change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from formers.config import replace
from formers.errors import ConfigError, DataError, TargetError
from formers.parts.model import Model
from formers.tasks.names import ALWAYS, NEVER, Task, tasks_of
from formers.text.base import Tokenizer, check_text

Options = TypeVar("Options")
Result = TypeVar("Result")

Given = str | tuple[str, str] | Mapping[str, str]
"""A text; of tasks that take pairs also (first, second), or a mapping with the names below."""

KEYS = (("text", "text_pair"), ("question", "context"))
"""How a pair may be spelt as a mapping."""

BATCHES_AT_ONCE = 32
"""So many batches of texts are sorted by length together: what a batch wastes on padding, against what is held at a time."""


@dataclass(frozen=True)
class Item:
    """A text, its partner where the task takes pairs, and which of the texts it is, for errors."""

    place: int
    text: str
    second: str | None = None


class Pipeline(Generic[Options, Result]):
    """Base of all pipelines. A kind of pipeline writes `answer`, which gives the results of some items.

        pipe(text)                the result of a text
        pipe([text, text])        a list of results, in the order of the texts
        pipe.each(texts)          the same one by one, for texts without end
        pipe(text, top_k=3)       with another option than those the pipeline was opened with

    What a text gives does not depend on the texts beside it. Raises DataError for a batch of nothing, an empty text, or
    something that is no text; ConfigError for options.

    Attributes:
        name: the task, as it was asked for.
        stored: the settings that the model's folder keeps for tasks (see `opening.stored_settings`).
    """

    takes: ClassVar[type[nn.Module]] = Model

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        options: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        stored: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", "at least 1")
        self.task, self.tokenizer, self.batch_size = task, tokenizer, batch_size
        self.model: Any = model
        self.name, self.stored = name or task.name, dict(stored or {})
        self.options: Options = replace(task.options(), **options or {})
        self.check_model()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {type(self.model).__name__}, {self.options})"

    def answer(self, items: Sequence[Item], options: Options) -> list[Result]:
        """The results of the items, in their order."""
        raise NotImplementedError

    # -- calling --------------------------------------------------------------------------------------------------------

    def __call__(self, texts: Given | Sequence[Given], **changes: Any) -> Any:
        """The result of a text, or a list of the results of texts. `changes` are options."""
        many, alone = self._as_many(texts)
        options = replace(self.options, **changes)
        items = [self.item(place, given) for place, given in enumerate(many)]  # all are checked before anything runs
        if not items:
            raise DataError("a batch of nothing", "at least one text")
        results = [result for some in _chunks(items, self._at_once) for result in self.answer(some, options)]
        return results[0] if alone else results

    def each(self, texts: Iterable[Given], **changes: Any) -> Iterator[Result]:
        """Results one by one, in order. Only `batch_size` texts are taken at a time."""
        if isinstance(texts, str | Mapping):
            raise DataError("found one text", "texts, to give the results of one by one", "put it in a list")
        options = replace(self.options, **changes)
        items = (self.item(place, given) for place, given in enumerate(texts))
        for some in _chunks(items, self.batch_size):
            yield from self.answer(some, options)

    @property
    def _at_once(self) -> int:
        return self.batch_size * BATCHES_AT_ONCE

    def _as_many(self, texts: Any) -> tuple[list[Any], bool]:
        """What was given as a list, and whether it was one text."""
        pair = self.task.pairs != NEVER and isinstance(texts, tuple) and [type(t) for t in texts] == [str, str]
        if isinstance(texts, str | Mapping) or pair:
            return [texts], True
        try:
            return list(texts), False
        except TypeError:
            raise DataError(f"found {type(texts).__name__}", "a text (str), or a list of texts") from None

    def item(self, place: int, given: Any) -> Item:
        """What was given as text number `place`, checked."""
        texts = _texts(given)
        if not 1 <= len(texts) <= 2 or not all(isinstance(text, str) for text in texts):
            raise DataError(f"text {place} is {given!r:.60}", "a text (str)" + self._or_pair)
        if (len(texts) == 2) != (self.task.pairs == ALWAYS) and self.task.pairs in (NEVER, ALWAYS):
            number = "one text" if len(texts) == 1 else "two texts"
            raise DataError(f"item {place} is {number}", f"a pair for {self.name}" if len(texts) == 1 else "one text")
        for text in texts:
            check_text(text)
        if self.refuses_empty and not all(text.strip() for text in texts):
            raise DataError(f"text {place} is empty", f"some text for {self.name}", "leave it out")
        return Item(place, *texts)

    refuses_empty: ClassVar[bool] = True

    @property
    def _or_pair(self) -> str:
        return "" if self.task.pairs == NEVER else ", or a pair of them (first, second)"

    # -- the model ------------------------------------------------------------------------------------------------------

    def check_model(self) -> None:
        """Raise TargetError where the model cannot do the task."""
        if not isinstance(self.model, self.takes):
            raise TargetError(
                f"{type(self.model).__module__}.{type(self.model).__name__} is no model of formers",
                f"one for {self.name}",
                "formers.load(FOLDER) reads the folder of a transformers model",
            )
        head = getattr(getattr(self.model, "config", None), "head", None)
        if self.task.heads and head not in self.task.heads:
            raise self.wrong_head(head)

    def wrong_head(self, head: str | None) -> TargetError:
        """The error for a model whose head does not answer this task."""
        kind, wanted = type(self.model).__name__, " or ".join(self.task.heads)
        fitting = tasks_of(head) if head else ["text-generation"]
        do = f"this head is for {', '.join(fitting)}; " if fitting else ""
        return TargetError(
            f"this {kind} has " + (f"the head {head!r}" if head else "no head that labels"),
            f"the head {wanted} for {self.name}",
            f"{do}train the body for {self.name}: formers.load(FOLDER, head={self.task.heads[0]!r})",
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels; LABEL_0, LABEL_1, .. where the folder has none."""
        config = self.model.config
        return tuple(config.labels) or tuple(f"LABEL_{i}" for i in range(config.num_labels))

    def limit(self, asked: int | None, usual: int | None = None) -> int | None:
        """How many tokens are read: what was asked for, else the usual, at most the model's positions.

        Raises ConfigError where more are asked for than the model has positions.
        """
        has: int | None = getattr(self.model.config, "max_length", None)
        if asked is not None and has is not None and asked > has:
            raise ConfigError(f"max_length is {asked}", f"at most {has}, the positions that this model has")
        return min((n for n in (asked or usual, has) if n is not None), default=None)


def _texts(given: Any) -> tuple[Any, ...]:
    if isinstance(given, Mapping):
        for first, second in KEYS:
            if given.keys() == {first, second}:
                return given[first], given[second]
        return tuple(given.values()) if list(given) == ["text"] else ()
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    some = iter(items)
    while chunk := list(islice(some, size)):
        yield chunk
