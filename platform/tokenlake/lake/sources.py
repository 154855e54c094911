"""What events can be read from: Arrow data in memory, Parquet and CSV files, folders and globs of them.

Every source can be read more than once: an Arrow stream, which cannot, is spooled to a temporary file first.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import glob
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenlake.errors import SchemaError, SourceError
from tokenlake.lake.arrays import flat

BATCH_ROWS = 131_072
#: Bytes of a text file that are looked at before it is read.
_HEAD = 1 << 20
_PARQUET = (".parquet", ".pq")
_TEXT = (".csv", ".tsv")
_PACKED = (".gz", ".bz2", ".zst")
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


@dataclass(frozen=True)
class Chunk:
    """A batch of a source's rows.

    Attributes:
        rows: the columns that were asked for.
        numbers: int64 `(rows,)`, their numbers in the source, from 1.
        broken: lines that could not be split into columns: number and text.
    """

    rows: pa.RecordBatch
    numbers: NDArray[np.int64]
    broken: tuple[tuple[int, str], ...] = ()


class Source(Protocol):
    """Rows that can be read, more than once."""

    name: str
    #: All values are text, and only the config knows what they mean.
    text: ClassVar[bool]

    @property
    def schema(self) -> pa.Schema:
        """Columns and types."""

    @property
    def rows(self) -> int:
        """How many rows there are; an estimate for text."""

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Stream some columns."""


@dataclass
class TableSource:
    """Arrow data in memory."""

    table: pa.Table
    name: str = "<table>"
    text: ClassVar[bool] = False

    @property
    def schema(self) -> pa.Schema:
        """Columns and types."""
        return self.table.schema

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.table.num_rows)

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Stream some columns."""
        batches = self.table.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS)
        yield from _numbered(iter(batches))


@dataclass
class ParquetSource:
    """One Parquet file."""

    path: Path
    name: str
    text: ClassVar[bool] = False
    _schema: pa.Schema | None = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        """Columns and types."""
        if self._schema is None:
            with _reading(self.name), pq.ParquetFile(self.path) as file:
                self._schema = file.schema_arrow
        return self._schema

    @property
    def rows(self) -> int:
        """How many rows there are."""
        with _reading(self.name), pq.ParquetFile(self.path) as file:
            return int(file.metadata.num_rows)

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Stream some columns, a piece of a row group at a time."""
        # A buffered read holds pages instead of whole column chunks: one row group may be the whole file.
        with _reading(self.name), pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield from _numbered(file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)))


@dataclass
class CsvSource:
    """One file of separated values, perhaps compressed; every value is read as text."""

    path: Path
    name: str
    text: ClassVar[bool] = True

    @property
    def delimiter(self) -> str:
        """Tab for `.tsv`, else comma."""
        return "\t" if ".tsv" in self.path.suffixes else ","

    @property
    def schema(self) -> pa.Schema:
        """Columns of the header, all text."""
        self._check_encoding()
        with _reading(self.name), self._stream() as stream:
            names = pcsv.open_csv(
                stream,
                read_options=pcsv.ReadOptions(block_size=1 << 20),
                parse_options=pcsv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=lambda _: "skip"
                ),
            ).schema.names
        return pa.schema([(name, pa.string()) for name in names])

    @property
    def rows(self) -> int:
        """A guess from the file's size and its first megabyte."""
        with _reading(self.name), self._stream() as stream:
            head = stream.read(_HEAD)
        return int(self.path.stat().st_size * max(head.count(b"\n"), 1) / max(len(head), 1)) if head else 0

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """Stream some columns; lines that do not split into the header's columns come beside them."""
        broken: list[tuple[int, str]] = []

        def keep(row: pcsv.InvalidRow) -> str:
            broken.append((row.number - 1, row.text))  # Arrow counts the header
            return "skip"

        with _reading(self.name), self._stream() as stream:
            reader = pcsv.open_csv(
                stream,
                # Without threads, for only then Arrow numbers the lines that it skips.
                read_options=pcsv.ReadOptions(block_size=8 << 20, use_threads=False),
                parse_options=pcsv.ParseOptions(
                    delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=keep
                ),
                convert_options=pcsv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=True,
                    null_values=["", "NULL", "null", "\\N"],
                ),
            )
            yield from _renumbered(reader, broken)

    def _check_encoding(self) -> None:
        """Look at the first megabyte: Arrow's reader has no words for text of another encoding."""
        with _reading(self.name), self._stream() as stream:
            head = stream.read(_HEAD)
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD)
        except UnicodeDecodeError as error:
            told = f"byte 0x{head[error.start]:02x} at {error.start}"
            raise SourceError(
                f"{self.name} is not text in UTF-8 ({told}); save it as UTF-8 or Parquet; nothing was changed"
            ) from error

    def _stream(self) -> Any:
        return pa.input_stream(str(self.path), compression="detect")


def open_sources(source: Any, spool: Path) -> list[Source]:
    """Turn what a person gave into sources, in a fixed order, each file once.

    Args:
        source: Arrow data, anything with `__arrow_c_stream__`, a path, a folder, a glob, or a list of these.
        spool: folder for streams that can be read only once; made when needed.

    Raises:
        SourceError: nothing there, or of no known kind.
    """
    found: list[Source] = []
    for one in source if isinstance(source, list | tuple) else [source]:
        name = "<table>" if not found else f"<table {len(found) + 1}>"
        if isinstance(one, str | Path):
            found += [_file(path) for path in _paths(one)]
        elif isinstance(one, pa.Table):
            found.append(TableSource(one, name))
        elif isinstance(one, pa.RecordBatch):
            found.append(TableSource(pa.Table.from_batches([one]), name))
        elif hasattr(one, "__arrow_c_stream__"):
            found.append(_spooled(pa.RecordBatchReader.from_stream(one), spool / f"stream-{len(found)}.parquet", name))
        else:
            raise SourceError(
                f"{type(one).__name__} given; expected an Arrow table or stream, a path, a folder, a glob, or a list of these"
            )
    if not found:
        raise SourceError("an empty list was given; name at least one file")
    return list({s.name: s for s in found}.values())


def check_columns(source: Source, wanted: Sequence[str]) -> None:
    """See that a source has the columns, each once.

    Raises:
        SchemaError: it has not; the message lists them beside those that are there.
    """
    names = source.schema.names
    if twice := sorted({n for n in wanted if names.count(n) > 1}):
        raise SchemaError(f"{source.name}: columns {twice} stand there more than once; nothing was changed")
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    if isinstance(source, CsvSource) and len(names) == 1:
        for delimiter, called in _DELIMITERS.items():
            if delimiter in names[0] and delimiter != source.delimiter:
                raise SourceError(
                    f"{source.name} looks separated by {called}, and was split at {_DELIMITERS[source.delimiter]}: its "
                    f"header is the single column {names[0]!r}. Write it with commas, or with tabs as .tsv; nothing was changed"
                )
    raise SchemaError(
        f"{source.name} lacks {len(missing)} of the columns that tokenlake.yaml names: {', '.join(map(repr, missing))}; "
        f"it has {', '.join(map(repr, names))}{_nearest(missing, names)}. Nothing was changed"
    )


def _nearest(missing: list[str], names: list[str]) -> str:
    folded = {name.casefold(): name for name in names}
    pairs = [(m, difflib.get_close_matches(m.casefold(), folded, n=1)) for m in missing]
    hints = [f"{folded[close[0]]!r} for {m!r}" for m, close in pairs if close]
    return f"; did you mean {', '.join(hints)}?" if hints else ""


def _paths(given: str | Path) -> list[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        known = [p for p in inside if _kind(p)]
        if not known:
            raise SourceError(f"{path} holds no .parquet, .csv or .tsv file; nothing was changed")
        return known
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not matches:
            raise SourceError(f"{given} matches no file; nothing was changed")
        return [p for match in matches for p in (_paths(match) if match.is_dir() else [match])]
    raise SourceError(f"{given} does not exist; nothing was changed")


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _kind(path: Path) -> str | None:
    suffix = path.with_suffix("").suffix if path.suffix.lower() in _PACKED else path.suffix
    return "parquet" if suffix.lower() in _PARQUET else "csv" if suffix.lower() in _TEXT else None


def _file(path: Path) -> Source:
    name = str(path.resolve())
    with _reading(name):
        if not path.stat().st_size:
            raise SourceError(f"{name} is empty (0 bytes); nothing was changed")
        with path.open("rb") as file:
            magic = file.read(4)
    kind = "parquet" if magic == b"PAR1" else _kind(path)
    if kind is None:
        raise SourceError(
            f"{name}: {path.suffix or 'no ending'} says no kind; expected .parquet, .csv or .tsv, also .gz"
        )
    return ParquetSource(path, name) if kind == "parquet" else CsvSource(path, name)


def _spooled(reader: pa.RecordBatchReader, path: Path, name: str) -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _reading(name), pq.ParquetWriter(path, reader.schema, compression="lz4") as writer:
        for batch in reader:
            writer.write_batch(batch)
    return ParquetSource(path, name)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[Chunk]:
    first = 1
    for batch in batches:
        if batch.num_rows:
            yield Chunk(batch, np.arange(first, first + batch.num_rows))
            first += batch.num_rows


def _renumbered(batches: Iterator[pa.RecordBatch], broken: list[tuple[int, str]]) -> Iterator[Chunk]:
    """Number rows as the file does, where lines among them were broken."""
    good, told = 0, 0
    for batch in batches:
        before = np.array([number - 1 - i for i, (number, _) in enumerate(broken)], np.int64)
        index = np.arange(good, good + batch.num_rows)
        numbers = index + 1 + np.searchsorted(before, index, side="right")
        yield Chunk(batch, numbers, tuple(broken[told:]))
        good, told = good + batch.num_rows, len(broken)
    if len(broken) > told:
        empty = pa.RecordBatch.from_pydict({}, schema=pa.schema([]))
        yield Chunk(empty, np.zeros(0, np.int64), tuple(broken[told:]))


def column(chunk: Chunk, name: str) -> pa.Array:
    """One column of a chunk, flattened."""
    return flat(chunk.rows.column(name))


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        said = str(error).strip().split("\n")[0].rstrip(".")
        raise SourceError(f"{name} cannot be read ({said}); nothing was changed") from error
