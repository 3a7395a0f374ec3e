"""`formers models`: the architectures, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from formers.cli.console import emit, stdout, table
from formers.cli.parse import Flag, parse
from formers.files import plain
from formers.models import registry


@dataclass(frozen=True)
class Options:
    """The architectures: paper, year, what it is, and the reference its certificate compares with."""

    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "models")
    from formers import recipes

    specs = registry.specs().values()
    trained_by = {spec.name: [name for name in recipes.names() if name.startswith(spec.name + ".")] for spec in specs}
    if options.json:
        return emit([{**plain(spec), "recipes": trained_by[spec.name]} for spec in specs])
    content = table("Name", "Paper", "Year", "What it is", "Equal to", "Recipes")
    for spec in specs:
        names = ", ".join(trained_by[spec.name])
        content.add_row(spec.name, spec.paper, str(spec.year), spec.summary, spec.reference, names)
    stdout().print(content)
    stdout().print("\nTrain one: formers train gpt2.tiny    Look at one: formers show gpt2.tiny", style="dim")
    return None
