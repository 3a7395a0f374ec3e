"""`formers models`: the architectures, and the trained models that come with the package, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass

from formers import pretrained
from formers.cli.console import emit, stdout, table
from formers.cli.parse import Flag, parse
from formers.files import plain
from formers.models import registry


@dataclass(frozen=True)
class Options:
    """The architectures: paper, year, what it is, and the reference its certificate compares with; and the small trained models
    that come with formers, which every verb takes by their names."""

    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "models")
    from formers import recipes

    specs = registry.specs().values()
    trained_by = {spec.name: [name for name in recipes.names() if name.startswith(spec.name + ".")] for spec in specs}
    trained = [pretrained.facts(name) for name in pretrained.names()]
    if options.json:
        of = {spec.name: [plain(each) for each in trained if each.architecture == spec.name] for spec in specs}
        return emit([{**plain(spec), "recipes": trained_by[spec.name], "pretrained": of[spec.name]} for spec in specs])
    content = table("Name", "Paper", "Year", "What it is", "Equal to", "Recipes")
    for spec in specs:
        names = ", ".join(trained_by[spec.name])
        content.add_row(spec.name, spec.paper, str(spec.year), spec.summary, spec.reference, names)
    stdout().print(content)
    _print(trained)
    stdout().print("\nTrain one: formers train gpt2.tiny    Look at one: formers show gpt2.tiny", style="dim")
    return None


def _print(trained: list[pretrained.Facts]) -> None:
    """The models that come with the package; nothing where it came without."""
    if not trained:
        return
    content = table(
        "Trained, in the package", "Parameters", "MB", "Bits per byte", "gzip -9", "Tokens read", right=range(1, 6)
    )
    for each in trained:
        row = (each.parameters, each.bytes / 1e6, each.scored, each.gzip, each.tokens)
        content.add_row(each.name, *(text.format(value) for text, value in zip(_FORMATS, row, strict=True)))
    stdout().print()
    stdout().print(content)
    stdout().print(f'Try one: formers generate {trained[0].name} "def "', style="dim", markup=False)


_FORMATS = ("{:,}", "{:.2f}", "{:.3f}", "{:.3f}", "{:,}")
