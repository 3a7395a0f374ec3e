"""From files and data sets to documents: strings, in a fixed order, as often as asked.

A text file is one document unless a separator is given; each line of a .jsonl file, each row of a .parquet file or of a
data set is one. Files found in folders and globs that are no text are skipped and counted; a file named by the user is
not.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from formers.data.sources import File, HubDataset, Item, Source, find
from formers.errors import DataError

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
SKIPPED_NAMES = 20  # how many names of skipped files are kept: enough to see a pattern
CHUNK = 1 << 20


class Unusable(Exception):
    """A file that holds no text. Inside this module: it becomes a count or a DataError."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Reader:
    """The documents of `sources`. Iterating reads the files anew, so that text larger than memory can be gone through
    several times; empty documents (nothing but white space) are left out and counted.

    Attributes:
        skipped: reason ("binary", "undecodable", "unreadable", "empty") -> count, of the last pass.
        skipped_files: the first few names.
        files: how many files and data sets are read.
    """

    def __init__(self, sources: Sequence[Source], *, text_field: str = "text", separator: str | None = None) -> None:
        if separator == "":
            raise DataError(
                "the separator is empty", "characters between documents", "leave it out for one file = one document"
            )
        self.items = find(sources)
        self.text_field, self.separator = text_field, separator
        self.skipped: Counter[str] = Counter()
        self.skipped_files: list[str] = []

    @property
    def files(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[str]:
        self.skipped, self.skipped_files = Counter(), []
        for item in self.items:
            for text in self._usable(item):
                if text.strip():
                    yield text
                else:
                    self.skipped["empty"] += 1

    def _usable(self, item: Item) -> Iterator[str]:
        if isinstance(item, HubDataset):
            yield from hub_texts(item, self.text_field)
            return
        try:
            yield from self._texts(item)
        except Unusable as error:
            if item.named:
                raise _refusal(item.path, error) from error
            self._skip(error.reason, item.path)

    def _skip(self, reason: str, path: Path) -> None:
        self.skipped[reason] += 1
        if len(self.skipped_files) < SKIPPED_NAMES:
            self.skipped_files.append(str(path))

    def _texts(self, file: File) -> Iterator[str]:
        path = file.path
        try:
            if not path.is_file():
                raise Unusable("unreadable", "not a regular file")
            if path.suffix == PARQUET:
                yield from parquet_texts(path, self.text_field)
            elif path.suffix in JSON_LINES:
                if not file.named:
                    check_decodes(path)
                yield from json_texts(path, self.text_field)
            else:
                text = decode(path.read_bytes())
                yield from [text] if self.separator is None else text.split(self.separator)
        except OSError as error:
            raise Unusable("unreadable", error.strerror or str(error)) from error


def _refusal(path: Path, error: Unusable) -> DataError:
    do = {
        "binary": "name text files, .jsonl or .parquet",
        "undecodable": f"convert it: iconv -f ENCODING -t UTF-8 {path} > {path.stem}.utf8{path.suffix}",
        "unreadable": "check the file and its permissions",
    }[error.reason]
    return DataError(f"{path} cannot be used: {error.detail}", "text in UTF-8", do)


def decode(data: bytes) -> str:
    """UTF-8 text; a byte order mark is dropped, newlines are kept.

    Raises:
        Unusable: a zero byte (binary), or bytes that are not UTF-8 (undecodable).
    """
    if (zero := data.find(0)) >= 0:
        raise Unusable("binary", f"a zero byte at {zero}: a binary file, or text in UTF-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(
            "undecodable", f"byte 0x{error.object[error.start]:02x} at {error.start} is not UTF-8"
        ) from error


def check_decodes(path: Path) -> None:
    """`decode` of a large file piece by piece, for its errors alone."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while data := file.read(CHUNK):
                if b"\0" in data:
                    raise Unusable("binary", "a zero byte")
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise Unusable("undecodable", str(error)) from error


def json_texts(path: Path, field: str) -> Iterator[str]:
    """The text in `field` of every line; blank lines are passed over.

    Raises:
        DataError: a line that is no JSON object with text in that field, named file:line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if data.strip():
                yield _json_text(data, field, f"{path}:{number}")


def _json_text(line: bytes, field: str, where: str) -> str:
    wanted, do = f"a JSON object with text in the field {field!r}", "mend or remove the line"
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError as error:  # bad JSON and bad UTF-8 are both ValueErrors
        raise DataError(f"{where}: no JSON ({error})", wanted, do) from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON {type(record).__name__}", wanted, do)
    if field not in record:
        raise DataError(f"{where}: no field {field!r} among {_names(record)}", wanted, "name it: --text-field FIELD")
    if not isinstance(record[field], str):
        raise DataError(f"{where}: the field {field!r} is {type(record[field]).__name__}, not text", wanted, do)
    try:
        record[field].encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half of a surrogate pair in {field!r}", "characters that UTF-8 can express", do
        ) from error
    return record[field]


def parquet_texts(path: Path, column: str) -> Iterator[str]:
    """The text in `column` of every row; rows without a value count as empty.

    Raises:
        DataError: pyarrow is not installed, the file is no Parquet, or the column is missing or holds no text.
    """
    parquet = _optional("pyarrow.parquet", f"to read {path}")
    arrow = _optional("pyarrow", f"to read {path}")
    try:
        with parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, column, arrow)
            for rows in file.iter_batches(batch_size=1024, columns=[column]):
                yield from (text or "" for text in rows.column(0).to_pylist())
    except arrow.ArrowException as error:
        raise DataError(f"{path} is damaged or no Parquet file: {error}", "a Parquet file", "write it anew") from error


def _check_column(path: Path, schema: Any, column: str, arrow: Any) -> None:
    do = "name the column with the text: --text-field COLUMN"
    if column not in schema.names:
        raise DataError(f"{path} has no column {column!r}; its columns: {_names(schema.names)}", "a column of text", do)
    kind = schema.field(column).type
    if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise DataError(f"{path}: the column {column!r} holds {kind}", "a column of text (string)", do)


def hub_texts(source: HubDataset, column: str) -> Iterator[str]:
    """The text in `column` of every row of a data set, through the package `datasets` (and its own cache).

    Raises:
        DataError: `datasets` is not installed, the set cannot be loaded, or it has no such column.
    """
    datasets = _optional("datasets", f"to read hf:{source.name}")
    try:
        rows = datasets.load_dataset(source.name, source.config, split=source.split)
    except (OSError, ValueError) as error:  # its "not found" are OSErrors; unknown configs and splits ValueErrors
        raise DataError(f"hf:{source.name} cannot be loaded: {error}", "a data set's name, config and split") from error
    if column not in rows.column_names:
        found = f"hf:{source.name} has no column {column!r}; its columns: {_names(rows.column_names)}"
        raise DataError(found, "a column of text", "name it: --text-field COLUMN")
    for number, row in enumerate(rows):
        if not isinstance(row[column], str | None):
            found = f"hf:{source.name}, row {number}: the column {column!r} is {type(row[column]).__name__}, not text"
            raise DataError(found, "a column of text", "name it: --text-field COLUMN")
        yield row[column] or ""


def _optional(module: str, why: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(
            f"the package {package} is not installed", f"{package}, {why}", "pip install 'formers[data]'"
        ) from error


def _names(names: Iterable[str], limit: int = 20) -> str:
    shown = list(names)
    return ", ".join(map(repr, shown[:limit])) + (", ..." if len(shown) > limit else "")
