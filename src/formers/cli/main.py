"""`formers`: finds the verb, calls it, and turns what can go wrong into one clear line and an exit code.

Exit codes: 0 done; 1 a law failed, or a fault of our own (with its traceback); 2 the caller's mistake, printed once;
130 Ctrl-C; 141 whoever read our output went away. ``--debug`` or FORMERS_DEBUG=1 shows the traceback of any error.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from formers.cli.verbs import VERBS, Verb
from formers.errors import ConfigError, FormersError, suggest

HELP = ("-h", "--help", "help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take(words, "--debug") or os.environ.get("FORMERS_DEBUG", "") not in ("", "0")
    try:
        with _warnings_in_a_line(debug):
            code = _run(words)
        sys.stdout.flush()
    except SystemExit as stop:  # how tyro ends after --help and after a mistake in the options
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt as stop:
        return _stopped(str(stop), debug)
    except (FormersError, OSError) as error:
        if debug:
            raise
        return _mistake(error)
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in HELP:
        print(help_text())
        return 0
    if words[0] in ("--version", "-V"):
        import formers

        print(f"formers {formers.__version__}")
        return 0
    if (members := group(words[0])) and (len(words) == 1 or words[1] in HELP):
        print("\n".join([*_lines(members), "", "Each has --help, which says more, and --json."]))
        return 0
    verb, rest = find(words)
    module = importlib.import_module(verb.module)
    return module.main(rest) or 0


def find(words: Sequence[str]) -> tuple[Verb, list[str]]:
    """The verb that the words begin with, and the rest. Raises ConfigError with a suggestion."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS:
            return VERBS[name], list(words[length:])
    if members := group(words[0]):
        second = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
        hint = suggest(second, [verb.name.partition(" ")[2] for verb in members])
        wanted = " or ".join(f"formers {verb.name}" for verb in members)
        raise ConfigError(f"`formers {f'{words[0]} {second}'.strip()}` is no verb", wanted, hint)
    hint = suggest(words[0], [name.partition(" ")[0] for name in VERBS])
    raise ConfigError(
        f"unknown verb {words[0]!r}", "one of " + ", ".join(VERBS), hint or "formers --help explains them"
    )


def group(word: str) -> list[Verb]:
    """The verbs of two words that begin with this one."""
    return [verb for verb in VERBS.values() if verb.name.startswith(word + " ")]


def help_text() -> str:
    """What `formers --help` prints."""
    lines = ["usage: formers VERB ...", "", "Transformer papers as short, certified, fast code."]
    for heading in dict.fromkeys(verb.group for verb in VERBS.values()):
        lines += ["", f"{heading}:", *_lines([verb for verb in VERBS.values() if verb.group == heading])]
    return "\n".join([*lines, "", *_FOOTER])


def _lines(verbs: Sequence[Verb]) -> list[str]:
    width = max(len(f"{verb.name} {verb.usage}") for verb in VERBS.values())
    return [f"  {f'{verb.name} {verb.usage}':<{width}}  {verb.summary}" for verb in verbs]


_FOOTER = (
    "RECIPE is a name such as gpt2.tiny, or file.py:function of your own. TARGET is a run, a checkpoint folder,",
    "an architecture's name, or file.py:function. SOURCE is stdlib, a file, a folder, a glob, or hf:NAME.",
    "",
    "`formers VERB --help` lists a verb's options, `formers train RECIPE --help` the recipe's settings.",
    "Every verb takes --json (the result alone on stdout) and --debug (tracebacks); NO_COLOR is honoured.",
    "Begin with: formers demo",
)


def _take(words: list[str], flag: str) -> bool:
    """Whether the flag was given; it is taken out. What stands behind ``--`` is left alone."""
    end = words.index("--") if "--" in words else len(words)
    if flag not in words[:end]:
        return False
    words.remove(flag)
    return True


@contextlib.contextmanager
def _warnings_in_a_line(debug: bool) -> Iterator[None]:
    """A warning is for whoever runs the command: its text, without the place in our code that gave it."""
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _mistake(error: Exception) -> int:
    from formers.cli.console import print_error

    print_error(str(error))
    return 2


def _stopped(message: str, debug: bool) -> int:
    if debug and not message:
        raise
    from formers.cli.console import stderr

    stderr().print(message or "stopped", soft_wrap=True, markup=False)
    return 130


def _reader_gone() -> int:
    """Nobody reads our output any more (`formers runs | head`): end without a word, as other tools do."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


if __name__ == "__main__":
    sys.exit(main())
