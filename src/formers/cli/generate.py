"""`formers generate`: a prompt continued, or answered by an encoder-decoder, on the terminal as it comes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from formers.cli.console import emit, remark
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import ConfigError, TargetError
from formers.hub import targets

if TYPE_CHECKING:
    from formers.generation import BeamSettings
    from formers.text import Tokenizer


EarlyStopping = Literal["no", "yes", "never"]
EARLY: dict[str, bool | Literal["never"]] = {"no": False, "yes": True, "never": "never"}

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "tokens", "memory")
SEARCH = ("length_penalty", "early_stopping")
"""Options that mean nothing to the other way of choosing tokens."""


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
    """How many continuations; of a beam search the best ones."""
    beams: int = 0
    """Beam search in place of sampling: continuations that are followed at a time. The text then comes when it is whole."""
    length_penalty: float = 1.0
    """Of a beam search: above 0 longer texts gain, below 0 shorter ones do."""
    early_stopping: EarlyStopping = "no"
    """When a beam search ends, enough texts having ended: yes, at once; no, when the best other one is no better; never, when
    none could become better."""
    tokens: Flag = False
    """Put a bar between tokens, those of the prompt included."""
    memory: Path | None = None
    """A folder of formers memorise, by this very model: the prompt's look-ups find what stands in it."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones, such as memory_length=1600. Its weights must still fit."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""

    def searching(self) -> dict[str, Any]:
        """As formers.generation.search_text takes them."""
        names = {"num_beams": self.beams, "num_return": self.num_samples, "early_stopping": EARLY[self.early_stopping]}
        return {**names, "max_new_tokens": self.max_new_tokens, "length_penalty": self.length_penalty}

    def sampling(self, number: int = 0) -> dict[str, Any]:
        """As formers.generate takes them, for sample `number`."""
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {**{name: getattr(self, name) for name in names}, "stop_strings": self.stop, "seed": self.seed + number}


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "generate")
    _check(options)
    targets.parse(options.run)  # a wrong name costs no torch
    from formers.generation import BeamSettings, GenerateSettings, generate_text

    settings = BeamSettings(**options.searching()) if options.beams else GenerateSettings(**options.sampling())
    found = targets.resolve(options.run, code=options.code, changes=changed_settings(options.set))
    tokenizer = _tokenizer(found)
    tokenizer.encode(options.prompt)  # what it cannot express is said before anything is printed
    if isinstance(settings, BeamSettings):
        return _search(found, tokenizer, options, settings)
    memorised = _memorised(found.model, options.memory)
    if options.json:
        prompts = [options.prompt] * options.num_samples
        return emit(generate_text(found.model, tokenizer, prompts, cache=memorised, settings=settings))
    remark(found.note)
    for number in range(options.num_samples):
        _stream(found.model, tokenizer, options, number, memorised)
    return None


def _check(options: Options) -> None:
    """Refuse options of the way of choosing tokens that was not asked for."""
    if options.tokens and options.json:
        raise ConfigError("--tokens with --json", "one of them: --json lists the ids of each text")
    given = {field.name for field in fields(options) if getattr(options, field.name) != field.default}
    wrong = sorted(given & set(SAMPLING if options.beams else SEARCH))
    if options.beams < 0 or wrong:
        names = "".join(" and --" + name.replace("_", "-") for name in wrong)
        raise ConfigError(
            f"--beams {options.beams}{names}",
            "a beam search (--beams N, --length-penalty, --early-stopping), or sampling (--temperature, --seed, ..)",
            "leave out the options of the other",
        )


def _search(found: targets.Resolved, tokenizer: Tokenizer, options: Options, settings: BeamSettings) -> None:
    """The best texts of a beam search."""
    from formers.generation import search_text
    from formers.generation.readers import takes_source

    (best,) = search_text(found.model, tokenizer, options.prompt, settings=settings)
    if options.json:
        return emit(best)
    remark(found.note)
    for number, text in enumerate(best, start=1):
        title = f"--- {number} (score {text.score:.4f}) ---\n" if len(best) > 1 else ""
        print(title + options.prompt * (not takes_source(found.model)) + text.text)
    return None


def _tokenizer(found: targets.Resolved) -> Tokenizer:
    """Beside the model; of a run that has not ended, where its text is."""
    tokenizer = found.tokenizer
    if tokenizer is None and found.kind == "run":
        from formers.experiments.run import recorded
        from formers.text import load_tokenizer

        folder, *_ = recorded(found.run or Path(found.name))
        tokenizer = None if folder is None else load_tokenizer(folder)
    if tokenizer is None:
        raise TargetError(
            f"{found.name} has no tokenizer",
            "a run, or a model folder with a tokenizer.json",
            "train it first: formers train gpt2.tiny" if found.fresh else "put the tokenizer.json beside the model",
        )
    return tokenizer


def _memorised(model: Any, folder: Path | None) -> Any:
    """What was memorised, if anything was named."""
    if folder is None:
        return None
    from formers.generation.memorised import Memorised

    return Memorised(model, folder)


def _stream(model: Any, tokenizer: Tokenizer, options: Options, number: int, memorised: Any) -> None:
    """One sample, written piece by piece. Nothing is written before the first piece: until then it may still be refused."""
    from formers.generation import GenerateSettings, stream_text
    from formers.generation.readers import takes_source

    title = f"--- sample {number + 1} (seed {options.seed + number}) ---\n" if options.num_samples > 1 else ""
    settings = GenerateSettings(**options.sampling(number))
    bar = "|" * options.tokens
    before = title + bar.join(tokenizer.display(options.prompt)) * (not takes_source(model))
    for piece in stream_text(model, tokenizer, [options.prompt], cache=memorised, settings=settings):
        sys.stdout.write(before + bar + piece.text)
        sys.stdout.flush()
        before = ""
    print()
