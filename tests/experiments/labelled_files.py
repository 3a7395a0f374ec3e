"""Small labelled files that are easy to learn, written for these tests."""

from __future__ import annotations

import json
import random
from pathlib import Path

PEOPLE, PLACES = "Ada Bob Carla Dmitri Emma".split(), "London Paris Rome Oslo".split()
KINDS, THINGS = "red blue green small large fast slow free".split(), "tool game server library editor".split()


def conll(path: Path, articles: int = 15) -> Path:
    """Sentences of which the words tell the tags."""
    draw, lines = random.Random(0), []
    for _ in range(articles):
        lines.append("-DOCSTART- O\n")
        for _ in range(3):
            lines += [f"{draw.choice(PEOPLE)} I-PER", "went O", "to O", f"{draw.choice(PLACES)} I-LOC", ". O", ""]
    path.write_text("\n".join(lines) + "\n")
    return path


def ratings(path: Path, texts: int = 90) -> Path:
    """Texts of which one word tells the rating."""
    draw, lines = random.Random(0), []
    for number in range(texts):
        word, rating = draw.choice([("awful", -2.0), ("there", 0.2), ("lovely", 1.5)])
        lines.append(f"{number}\t{rating}\tthe {draw.choice(KINDS)} {draw.choice(THINGS)} {number} is {word}\n")
    path.write_text("".join(lines))
    return path


def pairs(path: Path, count: int = 80) -> Path:
    """Descriptions and their synopses, every fourth for the test."""
    draw, lines = random.Random(0), []
    for number in range(count):
        what, split = f"{draw.choice(KINDS)} {draw.choice(THINGS)}", "train" if number % 4 else "test"
        row = {"doc": f"This is a {what}. It does {number} things.", "summary": what, "split": split}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))
    return path
