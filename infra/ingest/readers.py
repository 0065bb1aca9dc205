"""A file becomes rows: Parquet through pyarrow, CSV and JSON Lines line by line, never read whole.

Text formats go through the standard library rather than pyarrow: pyarrow guesses types (the id
"007" would become 7) and ends at the first bad line; here each bad line is one rejected row.
"""

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from infra.ingest.errors import UnreadableFile
from infra.ingest.values import parse_json
from sql.ids import BadInput

BATCH_ROWS = 10_000
MAX_LINE_CHARACTERS = 1_000_000
MAX_COLUMNS = 1_000
MAX_JSON_COLUMNS = 100_000
"""Of all rows together: each may have others."""
FORMATS = ".parquet, .csv, .tsv, .jsonl, .ndjson (text also with .gz)"

Row = tuple[int, dict[str, Any] | BadInput]


@dataclass(frozen=True, slots=True)
class Rows:
    """An open file. `columns`: of JSON Lines, all that any row has.

    `rows`: (number, cells by column), or (number, why it is none, with what was read as the value).
    The number is that of the line at which the row begins, from 1 (the header is a line, blank
    lines are); of Parquet that of the row, from 1. Numbers ascend.
    """

    path: Path
    columns: tuple[str, ...]
    total: int | None
    rows: Iterator[Row]


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a text file is written; a delimiter of None is the one of its suffix."""

    delimiter: str | None = None
    encoding: str = "utf-8"


@contextmanager
def open_rows(path: Path, text: TextOptions | None = None) -> Iterator[Rows]:
    """Open `path` by its suffix.

    Raises:
        UnreadableFile: absent, unknown, or damaged; also while the rows are read.
    """
    options = text or TextOptions()
    packed = path.suffix.lower() == ".gz"
    kind = (path.with_suffix("") if packed else path).suffix.lower()
    try:
        if kind == ".parquet":
            with pq.ParquetFile(path) as file:
                yield _parquet(path, file)
        elif kind in (".csv", ".tsv"):
            with _open_text(path, options.encoding) as lines:
                default = "\t" if kind == ".tsv" else ","
                yield _csv(path, lines, options.delimiter or default)
        elif kind in (".jsonl", ".ndjson"):
            with _open_text(path, options.encoding) as lines:
                columns = _json_columns(path, lines)
            with _open_text(path, options.encoding) as lines:
                yield Rows(path, columns, None, _json_lines(lines))
        else:
            raise UnreadableFile(path, f"unknown format {kind!r}", hint=f"accepted: {FORMATS}")
    except FileNotFoundError as error:
        raise UnreadableFile(path, "no such file", hint="check the path") from error
    except (pa.ArrowException, gzip.BadGzipFile, EOFError) as error:
        raise UnreadableFile(path, f"damaged: {error}", hint="write the file again") from error
    except LookupError as error:
        if "unknown encoding" not in str(error):
            raise
        raise UnreadableFile(path, str(error), hint="such as --encoding latin-1") from error


def columns_of(path: Path, text: TextOptions | None = None) -> tuple[str, ...]:
    """The columns of a file. Raises `UnreadableFile`."""
    with open_rows(path, text) as source:
        return source.columns


def _open_text(path: Path, encoding: str) -> TextIO:
    """Bytes that are no text become lone surrogates, which the rules for ids and texts refuse."""
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    if path.suffix.lower() == ".gz":
        stream = io.BufferedReader(gzip.GzipFile(path))
        return io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
    return path.open(encoding=encoding, errors="surrogateescape", newline="")


def _parquet(path: Path, file: Any) -> Rows:
    return Rows(path, tuple(file.schema_arrow.names), file.metadata.num_rows, _parquet_rows(file))


def _parquet_rows(file: Any) -> Iterator[Row]:
    number = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS):
        for cells in _with_milliseconds(batch).to_pylist():
            number += 1
            yield number, cells


def _with_milliseconds(batch: Any) -> Any:
    """Times cut to milliseconds: Python's datetime has no nanoseconds."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            kind = pa.timestamp("ms", field.type.tz)
            cut = batch.column(index).cast(kind, safe=False)
            batch = batch.set_column(index, pa.field(field.name, kind), cut)
    return batch


def _csv(path: Path, text: TextIO, delimiter: str) -> Rows:
    if len(delimiter) != 1:
        raise UnreadableFile(path, f"delimiter {delimiter!r}", hint="accepted: one character")
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UnreadableFile(path, f"header: {error}", hint=f"accepted: {FORMATS}") from error
    if not header or len(set(header)) != len(header) or len(header) > MAX_COLUMNS:
        hint = f"the first line names each column once, at most {MAX_COLUMNS}"
        raise UnreadableFile(path, f"header {header[:20]}", hint=hint)
    return Rows(path, tuple(header), None, _csv_rows(reader, lines, header))


class _Lines:
    """The lines of a text; `read` is the beginning of those that were read since it was emptied."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.read = ""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._text)
        if len(self.read) < MAX_LINE_CHARACTERS:
            self.read += line
        return line


def _csv_rows(reader: Any, lines: _Lines, header: list[str]) -> Iterator[Row]:
    while True:
        number, lines.read = reader.line_num + 1, ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, BadInput("row", lines.read, f"a row of CSV ({error})")
            continue
        if len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        elif cells:  # a blank line is no row
            accepted = f"{len(header)} columns, as the header; it has {len(cells)}"
            yield number, BadInput("row", cells, accepted)


def _json_lines(text: TextIO) -> Iterator[Row]:
    number = 0
    while line := text.readline(MAX_LINE_CHARACTERS):
        number += 1
        if len(line) == MAX_LINE_CHARACTERS and not line.endswith("\n"):
            _skip_line(text)
            yield number, BadInput("row", line, f"at most {MAX_LINE_CHARACTERS} characters")
        elif line.strip():
            yield number, _json_object(line)


def _json_columns(path: Path, text: TextIO) -> tuple[str, ...]:
    """All that any row has, in the order in which they come."""
    found: dict[str, None] = {}
    for _, cells in _json_lines(text):
        if isinstance(cells, dict):
            found.update(dict.fromkeys(cells))
        if len(found) > MAX_JSON_COLUMNS:
            reason = f"more than {MAX_JSON_COLUMNS:,} different keys"
            raise UnreadableFile(path, reason, hint="put what varies into `attributes`")
    return tuple(found)


def _skip_line(text: TextIO) -> None:
    while (part := text.readline(MAX_LINE_CHARACTERS)) and not part.endswith("\n"):
        pass


def _json_object(line: str) -> dict[str, Any] | BadInput:
    try:
        cells = parse_json(line)
    except (ValueError, RecursionError) as error:
        return BadInput("row", line, f"a JSON object ({error})")
    return cells if isinstance(cells, dict) else BadInput("row", line, "a JSON object")
