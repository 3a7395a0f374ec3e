"""How to generate: the sampler's settings, how long, from which seed, and where to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from formers.config import replace, require
from formers.errors import ConfigError
from formers.generation.samplers import SampleSettings


@dataclass(frozen=True)
class GenerateSettings(SampleSettings):
    """What `generate` and its kin take as keywords, beside the sampler's own settings.

    max_new_tokens  at most so many tokens a row
    seed            row i draws from seed + i
    seeds           or one seed a row; a row's text depends on its own prompt and seed alone
    stop_tokens     ids that end a row; the id itself still belongs to it
    stop_strings    texts that end a row as soon as they stand in its new text (they need a tokenizer)
    """

    max_new_tokens: int = 64
    seed: int = 0
    seeds: tuple[int, ...] | None = None
    stop_tokens: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    vocab_size: int | None = None
    pack: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens is {self.max_new_tokens}, wanted at least 1")
        if self.vocab_size is not None and self.vocab_size < 1:
            problems.append(f"vocab_size is {self.vocab_size}, wanted at least 1, or None")
        if any(seed < 0 for seed in (self.seed, *(self.seeds or ()))):
            problems.append("a seed is below 0")
        if any(not text for text in self.stop_strings):
            problems.append("a stop string is empty")
        require("GenerateSettings", problems)

    @classmethod
    def of(cls, settings: GenerateSettings | None, changes: dict[str, Any]) -> GenerateSettings:
        """`settings`, or the defaults, with `changes`; a lone stop token or string stands for a tuple of one."""
        for name, kind in (("stop_tokens", int), ("stop_strings", str)):
            if isinstance(changes.get(name), kind):
                changes = changes | {name: (changes[name],)}
        if isinstance(changes.get("seeds"), Sequence):
            changes = changes | {"seeds": tuple(changes["seeds"])}
        return replace(settings or cls(), **changes)

    def row_seeds(self, rows: int) -> list[int]:
        """A seed for each row. Raises ConfigError where `seeds` are not as many."""
        if self.seeds is None:
            return [self.seed + i for i in range(rows)]
        if len(self.seeds) != rows:
            raise ConfigError(f"{len(self.seeds)} seeds for {rows} prompts", "a seed a row", "or one `seed` for all")
        return list(self.seeds)
