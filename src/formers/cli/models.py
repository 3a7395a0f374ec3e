"""`formers models`: the architectures, the trained models of the package and of the hub's cache, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from formers import pretrained
from formers.cli.console import emit, stdout, table
from formers.cli.parse import Flag, parse
from formers.files import plain
from formers.models import registry

if TYPE_CHECKING:
    from formers.hub.cached import Cached


@dataclass(frozen=True)
class Options:
    """The architectures: paper, year, what it is, and the reference its certificate compares with; the small trained models
    that come with formers, and those that the Hugging Face hub's cache on this machine holds. Every verb takes both by their
    names, without a network."""

    downloaded: Flag = False
    """Only the models of the hub's cache, also with --json."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "models")
    from formers import recipes
    from formers.hub.cached import cached

    there = cached()
    if options.downloaded:
        return emit(plain(there)) if options.json else _print_cached(there, empty=True)
    specs = registry.specs().values()
    trained_by = {spec.name: [name for name in recipes.names() if name.startswith(spec.name + ".")] for spec in specs}
    trained = [pretrained.facts(name) for name in pretrained.names()]
    if options.json:
        of = {spec.name: [plain(each) for each in trained if each.architecture == spec.name] for spec in specs}
        usable = {spec.name: [e.name for e in there if e.architecture == spec.name and not e.refused] for spec in specs}
        facts = {name: {"pretrained": of[name], "cached": usable[name]} for name in of}
        return emit([{**plain(spec), "recipes": trained_by[spec.name], **facts[spec.name]} for spec in specs])
    content = table("Name", "Paper", "Year", "What it is", "Equal to", "Recipes")
    for spec in specs:
        names = ", ".join(trained_by[spec.name])
        content.add_row(spec.name, spec.paper, str(spec.year), spec.summary, spec.reference, names)
    stdout().print(content)
    _print(trained)
    _print_cached(there)
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


def _print_cached(there: list[Cached], *, empty: bool = False) -> None:
    """The models in the hub's cache, with what is wrong with those that cannot be opened; of none a word if asked."""
    if not there:
        if empty:
            from formers.hub.cached import cache

            stdout().print(f"The hub's cache, {cache()}, holds no models.", markup=False, soft_wrap=True)
        return
    from rich.text import Text

    content = table("In the hub's cache", "Architecture", "MB", "Opens", right=(2,))
    for each in there:
        size = f"{each.bytes / 1e6:,.1f}"
        row = (each.name, each.architecture or each.model_type or "", size, each.refused or "yes")
        content.add_row(*map(Text, row))  # others wrote them, and may have brackets in them
    stdout().print()
    stdout().print(content)


_FORMATS = ("{:,}", "{:.2f}", "{:.3f}", "{:.3f}", "{:,}")
