"""`formers generate`: a prompt continued, or answered by an encoder-decoder, on the terminal as it comes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from formers.cli.console import emit, remark
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import TargetError
from formers.hub import targets

if TYPE_CHECKING:
    from formers.text import Tokenizer


@dataclass(frozen=True)
class Options:
    """Continue a prompt with a trained model, or write what an encoder-decoder makes of it. Text comes as it is made; several
    samples come one after another."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, a checkpoint folder or a hub name."""
    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = ""
    """The text to go on from; without it, the beginning of a document."""
    max_new_tokens: int = 200
    """At most so many tokens."""
    temperature: float = 0.8
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
    """Of the first sample; the next ones count on from it."""
    stop: tuple[str, ...] = ()
    """Texts at which a sample ends."""
    num_samples: int = 1
    """How many continuations."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones, such as memory_length=1600. Its weights must still fit."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""

    def sampling(self, number: int = 0) -> dict[str, Any]:
        """As formers.generate takes them, for sample `number`."""
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {**{name: getattr(self, name) for name in names}, "stop_strings": self.stop, "seed": self.seed + number}


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "generate")
    targets.parse(options.run)  # a wrong name costs no torch
    from formers.generation import GenerateSettings, generate_text

    settings = GenerateSettings(**options.sampling())
    found = targets.resolve(options.run, code=options.code, changes=changed_settings(options.set))
    tokenizer = _tokenizer(found)
    tokenizer.encode(options.prompt)  # what it cannot express is said before anything is printed
    if options.json:
        prompts = [options.prompt] * options.num_samples
        return emit(generate_text(found.model, tokenizer, prompts, settings=settings))
    remark(found.note)
    for number in range(options.num_samples):
        _stream(found.model, tokenizer, options, number)
    return None


def _tokenizer(found: targets.Resolved) -> Tokenizer:
    """Beside the model; of a run that has not ended, where its text is."""
    tokenizer = found.tokenizer
    if tokenizer is None and found.kind == "run":
        from formers.experiments.run import recorded
        from formers.text import load_tokenizer

        folder, _ = recorded(Path(found.name))
        tokenizer = None if folder is None else load_tokenizer(folder)
    if tokenizer is None:
        raise TargetError(
            f"{found.name} has no tokenizer",
            "a run, or a model folder with a tokenizer.json",
            "train it first: formers train gpt2.tiny" if found.fresh else "put the tokenizer.json beside the model",
        )
    return tokenizer


def _stream(model: Any, tokenizer: Tokenizer, options: Options, number: int) -> None:
    """One sample, written piece by piece. Nothing is written before the first piece: until then it may still be refused."""
    from formers.generation import GenerateSettings, stream_text
    from formers.generation.readers import takes_source

    title = f"--- sample {number + 1} (seed {options.seed + number}) ---\n" if options.num_samples > 1 else ""
    settings = GenerateSettings(**options.sampling(number))
    before = title + options.prompt * (not takes_source(model))
    for piece in stream_text(model, tokenizer, [options.prompt], settings=settings):
        sys.stdout.write(before + piece.text)
        sys.stdout.flush()
        before = ""
    print()
