"""`formers doctor`: what this machine can do, what will be slow and why."""

from __future__ import annotations

from dataclasses import dataclass

from formers.cli.console import emit, facts, stdout
from formers.cli.parse import Flag, parse
from formers.files import plain

_MARKS = {
    "good": ("ok  ", "green"),
    "slow": ("slow", "yellow"),
    "missing": ("none", "yellow"),
    "bad": ("BAD ", "bold red"),
}


@dataclass(frozen=True)
class Options:
    """What this machine can do: processor, memory, compiler, devices, versions; what will be slow, why, and what helps."""

    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "doctor")
    from formers.cli.machine import examine, findings

    machine = examine()
    found = findings(machine)
    if options.json:
        return emit({"machine": plain(machine), "findings": plain(found)})
    from rich.text import Text

    console = stdout()
    console.print(facts(machine.lines()))
    console.print()
    for item in found:
        mark, style = _MARKS[item.level]
        console.print(Text.assemble((mark, style), f"  {item.what}"))
        if item.advice:
            console.print(Text.assemble(("      -> ", "dim"), item.advice))
    return None
