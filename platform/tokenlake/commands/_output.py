"""Streams query results in four formats: a table for people; CSV, JSON and Parquet for programs."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from rich.console import Console
from rich.text import Text

from tokenlake.commands._answers import plain
from tokenlake.commands._tables import ENDLESS, WholeTable
from tokenlake.errors import SchemaError, StorageError
from tokenlake.storage import atomic

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

FORMATS = ("table", "csv", "json", "parquet")
_BATCH_ROWS = 10_000
#: Most rows of a printed table.
_SHOWN = 50
Writer: TypeAlias = Callable[["pa.RecordBatchReader", IO[Any]], None]


def format_of(given: str | None, output: Path | None) -> str:
    """The format: the given one, else by the file's suffix, else a table."""
    suffix = output.suffix.lower().lstrip(".") if output else ""
    return given or (suffix if suffix in FORMATS else "table")


def write(relation: duckdb.DuckDBPyRelation, form: str, output: Path | None) -> None:
    """Write a query result to a file, or to the standard output.

    Raises:
        SchemaError: the format is Parquet, and no file was given.
        StorageError: the file cannot be written; an existing one is not changed.
    """
    if form == "parquet" and output is None:
        raise SchemaError("Parquet is for files: add -o FILE")
    reader = relation.to_arrow_reader(_BATCH_ROWS)
    if output is None:
        _WRITERS[form](reader, sys.stdout)
        return
    with _whole(output, binary=form == "parquet") as file:
        _WRITERS[form](reader, file)


@contextmanager
def _whole(path: Path, *, binary: bool) -> Iterator[IO[Any]]:
    try:
        with (
            atomic.file(path) as part,
            part.open("wb") if binary else part.open("w", encoding="utf-8", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from error


def _table(reader: pa.RecordBatchReader, file: IO[str]) -> None:
    table = WholeTable(*reader.schema.names, row_styles=["", "dim"])
    count = 0
    for row in _rows(reader):
        if count < _SHOWN:
            table.add_row(*(_cell(value) for value in row))
        count += 1
    # Lines for a file or another program are not truncated.
    console = Console(file=file, width=None if file.isatty() else ENDLESS)
    console.print(table)
    more = f" (the first {_SHOWN} shown; --format csv gives all)" if count > _SHOWN else ""
    console.print(f"{count} row{'' if count == 1 else 's'}{more}", style="dim", highlight=False)


def _csv(reader: pa.RecordBatchReader, file: IO[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(reader.schema.names)
    for row in _rows(reader):
        writer.writerow("" if value is None else _text(value) for value in row)


def _json(reader: pa.RecordBatchReader, file: IO[str]) -> None:
    names = _distinct(reader.schema.names)
    between = "[\n"
    for row in _rows(reader):
        file.write(between + json.dumps(plain(dict(zip(names, row, strict=True))), ensure_ascii=False))
        between = ",\n"
    file.write("\n]\n" if between == ",\n" else "[]\n")


def _parquet(reader: pa.RecordBatchReader, file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


_WRITERS: dict[str, Writer] = {"table": _table, "csv": _csv, "json": _json, "parquet": _parquet}


def _rows(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in reader:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _distinct(names: list[str]) -> list[str]:
    """Column names made unique: a repeated name gets a number, as in `a, a_1`."""
    keys: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        keys.append(next(key for key in itertools.chain([name], numbered) if key not in keys))
    return keys


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(plain(value), ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _cell(value: object) -> Text | str:
    if value is None:
        return Text("null", "dim")
    if isinstance(value, list) and len(value) > 8:
        value = [*(round(v, 4) if isinstance(v, float) else v for v in value[:6]), f"... {len(value)} in all"]
    return f"{value:.6g}" if isinstance(value, float) else _text(value)
