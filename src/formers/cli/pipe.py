"""`formers pipe TASK`: texts in, labels, entities, answers, vectors or texts out."""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from formers.cli import pipe_print
from formers.cli.console import emit
from formers.cli.parse import Flag, parse
from formers.errors import ConfigError, DataError
from formers.hub import targets
from formers.tasks.names import ALWAYS, NEVER, TASKS, Task, find

if TYPE_CHECKING:
    from formers.tasks import Pipeline

STDIN = "-"


@dataclass(frozen=True)
class Options:
    """Try a model on texts. Each task has options of its own, which formers pipe TASK --help lists."""

    model: str = ""
    """A model folder, a run or a hub name."""
    texts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT...]", help_behavior_hint="")
    ] = ()
    """One text or many; - reads lines of standard input (of pairs: both texts, with a tab between)."""
    file: tuple[Path, ...] = ()
    """Files in place of texts, each read whole."""
    pair: str | None = None
    """The second text of every pair: the passage that questions are about, what another sentence is compared with."""
    pair_file: Path | None = None
    """The same from a file."""
    tokenizer: Path | None = None
    """A folder or file with a tokenizer, by default the one beside the model."""
    batch_size: int = 16
    """Texts that go through the model at a time; 1 answers every line of standard input at once."""
    device: str | None = None
    """cpu, cuda, mps; by default the processor."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        return _without_task(arguments)
    task = find(arguments[0])
    options = parse(_options_of(task), arguments[1:], f"pipe {arguments[0]}", about=f"{task.name}: {task.summary}.")
    own: Any = options.task  # type: ignore[attr-defined]
    _check(task, options)
    targets.parse(options.model)  # a wrong name costs no torch
    from formers.tasks import pipeline

    pipe = pipeline(
        arguments[0],
        options.model,
        tokenizer=options.tokenizer,
        batch_size=options.batch_size,
        device=options.device,
        code=options.code,
        **dataclasses.asdict(own),
    )
    if options.json:
        return emit(_everything(pipe, task, options))
    return _show(pipe, task, options)


def _without_task(arguments: Sequence[str]) -> None:
    """Help with a list of the tasks, or an error that lists them."""
    if any(word in ("-h", "--help") for word in arguments):
        print("\n".join(["tasks:", *(f"  {task.name:<20} {task.summary}" for task in TASKS.values())]), end="\n\n")
        parse(Options, arguments, "pipe TASK")  # prints the help and ends
    raise ConfigError("no task is named", "formers pipe TASK --model FOLDER TEXT...", "one of " + ", ".join(TASKS))


def _options_of(task: Task) -> type[Options]:
    """The options of the verb, and those of the task without a prefix."""
    own = Annotated[task.options, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff]
    return dataclasses.make_dataclass(
        "Options", [("task", own, field(default_factory=task.options))], bases=(Options,), frozen=True
    )


def _check(task: Task, options: Options) -> None:
    """What can be said before anything is loaded."""
    if not options.model:
        raise ConfigError("no model is named", "--model FOLDER")
    sources = [name for name, given in (("TEXT", options.texts), ("--file", options.file)) if given]
    if len(sources) != 1:
        found = "no text is given" if not sources else "both texts and files are given"
        raise DataError(found, "one or more texts, - for lines of standard input, or --file FILE")
    if STDIN in options.texts and len(options.texts) > 1:
        raise DataError("- and texts beside it", "- alone, which reads lines of standard input")
    seconds = [
        name for name, given in (("--pair", options.pair), ("--pair-file", options.pair_file)) if given is not None
    ]
    if seconds and task.pairs == NEVER:
        raise ConfigError(f"{seconds[0]} with {task.name}", "a task that takes pairs", "leave it out")
    if len(seconds) > 1:
        raise ConfigError("both --pair and --pair-file", "one of them")
    if task.pairs == ALWAYS and not seconds and STDIN not in options.texts and len(options.texts) != 2:
        raise DataError(
            f"{task.name} takes pairs, and the second text is missing",
            "--pair TEXT or --pair-file FILE, or exactly two texts, or lines of standard input with a tab in them",
        )


# -- inputs -------------------------------------------------------------------------------------------------------------


def _inputs(task: Task, options: Options) -> Iterator[str | tuple[str, str]]:
    """Texts, or pairs of them, as they come."""
    second = options.pair if options.pair_file is None else _read(options.pair_file)
    if task.pairs == ALWAYS and second is None and STDIN not in options.texts:
        yield (options.texts[0], options.texts[1])
        return
    for text in _texts(options):
        if second is not None:
            yield text, second
        elif STDIN in options.texts and (task.pairs == ALWAYS or (task.pairs != NEVER and "\t" in text)):
            yield _two(text)
        else:
            yield text


def _texts(options: Options) -> Iterable[str]:
    if options.file:
        return (_read(path) for path in options.file)
    if options.texts == (STDIN,):
        return _typed()
    return options.texts


def _typed() -> Iterator[str]:
    """Lines of standard input."""
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input is no UTF-8 text ({error.reason})", "lines of text in UTF-8") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text (byte {error.start})", "a text file in UTF-8") from None


def _two(line: str) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise DataError(f"the line {line!r:.60} has no tab", "two texts with a tab between", "or give --pair")
    return first, second


# -- outputs ------------------------------------------------------------------------------------------------------------


def _everything(pipe: Pipeline[Any, Any], task: Task, options: Options) -> Any:
    """A list: every text, and its result."""
    inputs = list(_inputs(task, options))
    results = zip(inputs, pipe(inputs), strict=True)
    return [{**pipe_print.plain_input(text), "result": pipe_print.plain_result(found)} for text, found in results]


def _show(pipe: Pipeline[Any, Any], task: Task, options: Options) -> None:
    """Results for people, as they come."""
    inputs = _inputs(task, options)
    if task.name == "sentence-embedding":
        return pipe_print.embeddings(list(inputs), pipe)
    if task.name == "text-generation" and len(options.texts) == 1 and STDIN not in options.texts:
        return pipe_print.streamed(pipe, options.texts[0])
    waiting: deque[Any] = deque()  # texts whose results are not there yet: lines may come without end

    def noted() -> Iterator[Any]:
        for text in inputs:
            waiting.append(text)
            yield text

    alone, nothing = _is_one(task, options), True
    for result in pipe.each(noted()):
        pipe_print.result(task.name, waiting.popleft(), result, alone=alone)
        nothing = False
    if nothing:
        raise DataError("a batch of nothing", "at least one text")
    return None


def _is_one(task: Task, options: Options) -> bool:
    """Whether one text, or pair, was given, and not lines."""
    both = task.pairs == ALWAYS and options.pair is None and options.pair_file is None
    return STDIN not in options.texts and len(options.texts) + len(options.file) == (2 if both else 1)
