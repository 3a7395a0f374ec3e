"""`formers push`: a model and its card to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, remark, stdout
from formers.cli.parse import Flag, parse


@dataclass(frozen=True)
class Options:
    """Push the model of a run, or a model folder, to the Hugging Face hub, with a card made from the run's own record.

    A README.md in the folder is the card, if you wrote it. Needs a token: `hf auth login`, or HF_TOKEN.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A run that has ended, or a model folder."""
    repo: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]
    """organisation/name, or a name under your own account."""
    dry_run: Flag = False
    """Write the card as README.md in the folder and list the files; without network."""
    license: str | None = None
    """Of the model, such as apache-2.0; without it the card says that it is unknown."""
    private: Flag = False
    """Make the repository private, if it is new."""
    message: str = "Push by formers"
    """Of the commit."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "push")
    from formers.hub.push import pack, push

    parcel = pack(options.folder, options.repo, license=options.license)
    if parcel.left:
        remark(f"left here: {', '.join(parcel.left)}")
    if not parcel.is_ours:
        remark(
            f"the card is your {parcel.home / 'README.md'}" + (", --license is not in it" if options.license else "")
        )
    address = None
    if options.dry_run:
        parcel.write_card()
    else:
        address = push(parcel, private=options.private, message=options.message)
    sizes = {name: path.stat().st_size for name, path in parcel.files.items()} | {
        "README.md": len(parcel.card.encode())
    }
    if options.json:
        return emit({"repo": options.repo, "address": address, "card": parcel.home / "README.md", "files": sizes})
    for name, size in sizes.items():
        stdout().print(f"{size:>15,}  {name}", markup=False)
    said = f"pushed: {address}" if address else f"not pushed (--dry-run); the card: {parcel.home / 'README.md'}"
    stdout().print(said, markup=False, soft_wrap=True)
    return None
