"""How a model card that was made here is told from one that someone wrote."""

from __future__ import annotations

from pathlib import Path

CARD = "README.md"
MARK = "<!-- Made by `formers push`. Without this line the card is yours, and stays as it is. -->"


def is_made_card(path: Path) -> bool:
    """Whether a file is a card that `formers push` made, and may make anew."""
    return path.name == CARD and MARK in path.read_text("utf-8", errors="replace")
