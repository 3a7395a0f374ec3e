"""The numbers of runs as one table: in the terminal, as JSON, as CSV, and in the report."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .runs import Row, RunLike, RunRecord, RunSummary, labels, read_runs
from .words import certificate_words, fails, show

if TYPE_CHECKING:
    import rich.table

SIDE_BY_SIDE = 4
"""Up to this many runs stand side by side in the terminal, a number a line; more of them take a line each."""


@dataclass(frozen=True)
class Column:
    """What one number is: its key in JSON and CSV, a heading, its meaning, how it prints, and which way is better."""

    key: str
    heading: str
    kind: str = "number"
    meaning: str = ""
    better: str = ""
    essential: bool = False

    def __post_init__(self) -> None:
        assert self.better in ("", "low", "high")
        assert self.kind in (
            "text",
            "whole",
            "short",
            "number",
            "percent",
            "seconds",
        )


COLUMNS = (
    Column("name", "Run", "text", "the run's folder", essential=True),
    Column("status", "Status", "text", "whether the training reached its end", essential=True),
    Column("bits_per_byte", "Bits/byte", "number", "on validation text; compares across tokenizers", "low", True),
    Column("validation_loss", "Val. loss", "number", "nats per token on validation text, last evaluation", "low", True),
    Column("best_validation_loss", "Best val. loss", "number", "the lowest of all evaluations", "low"),
    Column("perplexity", "Perplexity", "number", "e to the validation loss; compares only within one tokenizer", "low"),
    Column("accuracy", "Accuracy", "percent", "share of validation tokens guessed right", "high", essential=True),
    Column("train_loss", "Train loss", "number", "nats per token, last recorded step"),
    Column("parameters", "Parameters", "short", "trained numbers in the model", essential=True),
    Column("steps", "Steps", "whole", "updates of the parameters", essential=True),
    Column("tokens", "Tokens", "short", "pieces of text read in training, repeats included", essential=True),
    Column("seconds", "Time", "seconds", "training time as the run recorded it"),
    Column("tokens_per_second", "Tokens/s", "whole", "median over the steps", "high", essential=True),
    Column("gzip_bits_per_byte", "gzip bits/byte", "number", "gzip -9 on the same bytes"),
    Column("unigram_bits_per_byte", "Unigram bits/byte", "number", "counting single tokens, on the same bytes"),
    Column("certificate", "Certificate", "text", "the laws of the code that were checked", essential=True),
    Column("recipe", "Recipe", "text", "what it was made from"),
)


@dataclass(frozen=True)
class Table:
    """Rows of values by column key. ``rich.print(table)`` shows it; ``json()`` and ``csv()`` write it out in full.

    ``distrusted`` are the rows that never count as best: runs whose certificate fails.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    distrusted: frozenset[int] = frozenset()

    def json(self) -> str:
        """A list with an object a run; what is unknown or not finite is null."""
        return json.dumps([{c.key: _plain(row[c.key]) for c in self.columns} for row in self.rows], indent=2)

    def csv(self) -> str:
        """A header line of keys, then a line a run; what is unknown is empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        writer.writerows([_plain(row[column.key]) for column in self.columns] for row in self.rows)
        return out.getvalue()

    def best(self, column: Column) -> set[int]:
        """The rows that hold the column's best value, where one way is better and there is something to choose."""
        trusted = ((i, row[column.key]) for i, row in enumerate(self.rows) if i not in self.distrusted)
        values = {i: value for i, value in trusted if _plain(value) is not None}
        if not column.better or len(set(values.values())) < 2:
            return set()
        best = (min if column.better == "low" else max)(values.values())
        return {i for i, value in values.items() if value == best}

    def part(self, *keys: str) -> Table:
        """The table with only these columns."""
        return Table(tuple(c for c in self.columns if c.key in keys), self.rows, self.distrusted)

    def used(self) -> tuple[Column, ...]:
        """The columns in which at least one run has a value."""
        return tuple(c for c in self.columns if any(row[c.key] is not None for row in self.rows))

    def __rich__(self) -> rich.table.Table:
        return _side_by_side(self) if len(self.rows) <= SIDE_BY_SIDE else _line_each(self)


def table(runs: Sequence[RunLike]) -> Table:
    """The table of runs: folders or records, in the order given. Raises RunError as :func:`read_runs` does."""
    records = read_runs(runs)
    rows = tuple({**numbers(run), "name": name} for run, name in zip(records, labels(records), strict=True))
    return Table(COLUMNS, rows, frozenset(i for i, run in enumerate(records) if fails(run.certificate)))


def numbers(run: RunRecord) -> dict[str, Any]:
    """One run's row: every column's key, None where the run does not say."""
    last, evaluation = (run.train or ({},))[-1], (run.validation or ({},))[-1]
    baselines = next((row["baselines"] for row in reversed(run.evals) if isinstance(row.get("baselines"), Mapping)), {})
    return {
        "name": run.name,
        "recipe": run.recipe_name,
        "status": run.status,
        "parameters": run.parameters,
        "steps": run.steps,
        "tokens": last.get("tokens"),
        "seconds": last.get("seconds"),
        "tokens_per_second": _over(statistics.median, run.train, "tokens_per_second"),
        "train_loss": _loss(last),
        "validation_loss": _loss(evaluation),
        "best_validation_loss": _over(min, run.validation, "loss"),
        "bits_per_byte": evaluation.get("bits_per_byte"),
        "perplexity": evaluation.get("perplexity"),
        "accuracy": evaluation.get("accuracy"),
        "gzip_bits_per_byte": baselines.get("gzip_bits_per_byte"),
        "unigram_bits_per_byte": baselines.get("unigram_bits_per_byte"),
        "certificate": certificate_words(run.certificate),
    }


def listing(found: Iterable[RunSummary]) -> Table:
    """What ``find_runs`` found, as a table (``formers runs``)."""
    columns = (
        Column("name", "Run", "text"),
        Column("recipe", "Recipe", "text"),
        Column("steps", "Steps", "whole"),
        Column("last_loss", "Last loss", "number", "nats per token, training"),
        Column("bits_per_byte", "Bits/byte", "number", "on validation text"),
        Column("status", "Status", "text"),
        Column("age", "Age", "seconds", "since it last wrote"),
        Column("problem", "Problem", "text"),
        Column("path", "Folder", "text"),
    )
    rows = ({**vars(run), "path": str(run.path), "problem": run.problem or None} for run in found)
    return Table(columns, tuple(rows))


def _loss(row: Row) -> float | None:
    """The row's loss; NaN where it stands as null, which is how a run writes a loss that was not finite."""
    return math.nan if "loss" in row and row["loss"] is None else row.get("loss")


def _over(choose: Callable[[list[float]], float], rows: Iterable[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return choose(values) if values else None


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _side_by_side(content: Table) -> rich.table.Table:
    """A line a number, a column a run: what fits an 80-column terminal."""
    from rich.markup import escape

    head, *rest = content.used()
    out = _rich_table()
    out.add_column("")
    for row in content.rows:
        out.add_column(escape(str(row[head.key])), justify="right", overflow="fold")
    for column in rest:
        out.add_row(column.heading, *_cells(content, column))
    return out


def _line_each(content: Table) -> rich.table.Table:
    """A line a run, the essential columns only (all of them where none is marked)."""
    used = content.used()
    columns = [column for column in used if column.essential] or list(used)
    out = _rich_table()
    for column in columns:
        out.add_column(column.heading, justify="left" if column.kind == "text" else "right", overflow="fold")
    for cells in zip(*(_cells(content, column) for column in columns), strict=True):
        out.add_row(*cells)
    return out


def _cells(content: Table, column: Column) -> list[str]:
    from rich.markup import escape

    best = content.best(column)
    shown = [escape(show(row[column.key], column.kind)) for row in content.rows]
    return [f"[bold]{cell}[/bold]" if i in best else cell for i, cell in enumerate(shown)]


def _rich_table() -> rich.table.Table:
    import rich.box
    from rich.table import Table as RichTable

    return RichTable(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
