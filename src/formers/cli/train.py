"""`formers train`: a recipe and text in, a run folder out."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers import pretrained
from formers.cli import train_options
from formers.cli.console import emit, facts, speaker
from formers.cli.train_options import Options
from formers.errors import ConfigError, RunError
from formers.recipes.find import functions, is_own

if TYPE_CHECKING:
    from formers.cli.live import Live
    from formers.data import Shards
    from formers.recipes import Recipe
    from formers.training import RunResult

HELP = ("-h", "--help")


def main(arguments: list[str]) -> int:
    name, rest = train_options.split(arguments)
    verb = "train RECIPE" if name is None else f"train {name}"
    if name is None and any(word in HELP for word in rest):
        print(_recipes(), end="\n\n")
        train_options.first_reading(rest, verb)  # prints the help and ends
    _check_name(name, rest)
    wants_help = any(word in HELP for word in rest)
    if not wants_help:
        _check_before_torch(train_options.first_reading(rest, verb), name)
    default = _recipe(name, rest)
    options, recipe = train_options.second_reading(rest, verb, default)
    asked = train_options.named_settings(rest, recipe.model) if options.init is not None else {}
    return _train(options, recipe, default, name, asked)


# --- what can be said at once ----------------------------------------------------------------------------------------


def _recipes() -> str:
    lines = [f"  {name:<12} {(make.__doc__ or '').strip()}" for name, make in functions().items()]
    return "\n".join(["recipes:", *lines, "  file.py:function  of your own (formers new block NAME writes one)"])


def _check_name(name: str | None, rest: list[str]) -> None:
    from formers.recipes import get

    if name is None and "--resume" not in rest:
        raise ConfigError(
            "no recipe is named", "formers train RECIPE [FILE...] [options]", "one of " + ", ".join(functions())
        )
    if name is not None and not is_own(name) and name not in functions():
        get(name)  # raises with a suggestion


def _check_before_torch(options: Options, name: str | None) -> None:
    """Missing files, folders that are taken, options that exclude each other: no model is needed to say so."""
    from formers.data import open_shards
    from formers.data.sources import find

    if options.files and options.data is not None:
        raise ConfigError(
            "both files and --data are given", "one of them", "leave --data out to build shards of the files"
        )
    if options.files and not options.resume:
        find(options.files)
    if options.data is not None:
        open_shards(options.data)
    if options.resume:
        _check_resume(options)
    elif options.out is not None and _is_taken(options.out):
        raise RunError(
            f"{options.out} holds files already",
            "a new run folder",
            f"go on with it: {_command(name, options.out)}; or name another --out",
        )
    if options.out is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("no --out is given", "the same run folder for every process", "add --out runs/NAME")


def _check_resume(options: Options) -> None:
    if options.out is None:
        raise ConfigError("--resume does not say which run", "--out RUN", "formers runs lists them")
    pretrained.refuse_to_write(options.out)
    if options.init is not None:
        raise ConfigError("both --resume and --init are given", "one of them: a run goes on with its own weights")
    if not (options.out / "recipe.json").is_file():
        raise RunError(f"{options.out} is no run: it has no recipe.json", "a run folder", "formers runs lists them")


def _is_taken(folder: Path) -> bool:
    """Of the processes of one training only the first looks: it may have begun to write when the others get here."""
    return _is_first() and (folder.is_file() or (folder.is_dir() and any(folder.iterdir())))


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


# --- the training ----------------------------------------------------------------------------------------------------


def _recipe(name: str | None, rest: list[str]) -> Recipe[Any]:
    """The recipe of a name; with --resume the run's own, which a name that is given has to agree with."""
    from formers import recipes

    if "--resume" not in rest or any(word in HELP for word in rest):
        assert name is not None
        return recipes.get(name)
    out = train_options.first_reading(rest, "train").out
    assert out is not None
    found = recipes.read(out, code=name if name is not None and is_own(name) else None)
    if name is not None and name not in (found.name, found.code):
        raise RunError(f"{out} is a run of {found.name}, not of {name}", _command(found.name, out))
    return found


def _train(options: Options, recipe: Recipe[Any], default: Recipe[Any], name: str | None, asked: dict[str, Any]) -> int:
    """`asked`: settings of the model that --init names, in place of its own."""
    from formers.cli.live import Live
    from formers.experiments.run import Run, free_folder, recorded, vocabulary
    from formers.experiments.text import prepare

    _check_init(options, recipe)
    console = speaker(options.json)
    _check_length(recipe, options)
    folder, init, changed = (options.data, options.init, asked) if not options.resume else recorded(_given(options.out))
    recipe, shards = prepare(recipe, files=options.files, folder=options.data or folder, init=init, quiet=options.json)
    out = options.out or free_folder(recipe.name)
    if _is_first():
        console.print(facts([("text", _text(shards)), ("run folder", str(out))]))
    size = recipe.model.vocab_size if options.resume else vocabulary(default.model, recipe.model, shards)
    run = Run(recipe, shards, out, resume=options.resume, vocab_size=size, init=init, settings=changed)
    live = Live(console)
    result = run.start(
        on_event=live.show, progress=live.is_terminal, resume_command=_command(name if recipe.code else None, out)
    )
    if _is_first():
        _tell(result, live, options.json)
    return 0 if result.interrupted is None else 130


def _check_length(recipe: Recipe[Any], options: Options) -> None:
    """Rows that the model cannot read are refused before any text is built. (With --init the model is another.)"""
    limit = getattr(recipe.model, "max_length", None)
    if options.init is None and limit is not None and recipe.train.seq_len > limit:
        raise ConfigError(
            f"seq_len is {recipe.train.seq_len}, but the model has positions for {limit}",
            f"at most {limit}",
            "set --train.seq-len lower or --model.max-length higher",
        )


def _check_init(options: Options, recipe: Recipe[Any]) -> None:
    """Some recipes train only a model that exists already."""
    if recipe.from_init and options.init is None and not options.resume:
        raise ConfigError(
            f"{recipe.name} trains a model that exists already, and no --init names it",
            f"--init and a {recipe.architecture} model",
            "formers graft RUN --out DIR makes one" if recipe.architecture == "grafted" else "",
        )


def _given(out: Path | None) -> Path:
    assert out is not None, "a resume without --out was refused before"
    return out


def _text(shards: Shards) -> str:
    meta = shards.meta
    sizes = ", ".join(f"{meta['tokens'][split]:,} tokens {split}" for split in ("train", "validation"))
    return f"{shards.folder} ({sizes}; {meta['tokenizer_kind']} of {shards.vocab_size:,} tokens)"


def _command(name: str | None, out: Path) -> str:
    """What to type to go on with a run."""
    return shlex.join(["formers", "train", *([name] if name else []), "--resume", "--out", str(out)])


def _tell(result: RunResult, live: Live, as_json: bool) -> None:
    """How it ended, and what to do next."""
    if as_json:
        return emit(_result(result, live))
    if result.interrupted is not None:
        return None  # the training has said where it stopped and how to go on
    from formers.cli.live import measure

    console, out = live.console, shlex.quote(str(result.out))
    score = f", validation {measure(result.evaluation)}" if result.evaluation else ""
    console.print(
        f"done: {result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:,.0f} s{score}", markup=False
    )
    for command in _next_commands((result.evaluation or {}).get("objective", "next_token"), out):
        console.print(f"  formers {command}", markup=False, soft_wrap=True)
    return None


def _next_commands(objective: str, out: str) -> list[str]:
    """What can be done with a run, by what its model learnt."""
    first = {
        "masked_token": [f"pipe fill-mask --model {out} 'def [MASK](self):'", f"eval {out}"],
        "next_sentence": [f"eval {out}"],
        "sentence_order": [f"eval {out}"],
        "replaced_token": [],  # its generator is not kept
    }
    asked = first.get(objective, [f"generate {out} 'def '", f"eval {out}"])
    return [*asked, f"certify {out}", f"report {out}"]


def _result(result: RunResult, live: Live) -> dict[str, Any]:
    return {
        "run": result.out,
        "model": None if result.interrupted else result.out / "model",
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "loss": result.loss,
        "evaluation": result.evaluation,
        "resumed_from": result.resumed_from,
        "interrupted": result.interrupted,
        "resume": result.resume_command,
        "warnings": live.warnings,
    }
