r"""One file of separated values: every line after the header is a row, or is reported as broken.

A quoted value never continues on the next line, so that a missing quote breaks one line only. A quoted value is always
text, even NULL; an unquoted NULL (and the words like it) or an empty value is a missing value.

Arrow's reader parses whole blocks of lines. If a block holds a quote, a blank line or a lone carriage return, lines that
are not valid rows are removed first: Arrow's reader would join, drop or split them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
from numpy.typing import NDArray

from tokenlake.errors import SourceError
from tokenlake.reading.arrays import true
from tokenlake.reading.chunks import CHUNK_ROWS, Broken, Chunk
from tokenlake.reading.handles import FileHandle
from tokenlake.reading.lines import Lines, not_utf8

#: Unquoted words that mean a missing value.
NULLS = ("", "NULL", "null", "\\N")
RAGGED = "the line does not split into the header's columns"
STRAY = "a quote of the line does not end where its value ends, or a carriage return stands within a value"
BLANK = "the line is empty"


@dataclass(frozen=True)
class Dialect:
    """Options of text files that cannot be read from the file itself.

    Attributes:
        quotes: whether values may be in double quotes; None: yes for `.csv`, no for `.tsv`.
        encoding: Python's name of the encoding; None: UTF-8, or what the byte order mark says.
    """

    quotes: bool | None = None
    encoding: str | None = None


class TextFile:
    """A file of separated values, perhaps compressed; every value is read as text.

    Args:
        handle: the file.
        delimiter: a comma or a tab.
        dialect: quotes and encoding.
    """

    text = True

    def __init__(self, handle: FileHandle, delimiter: str, dialect: Dialect | None = None) -> None:
        dialect = dialect or Dialect()
        self.name = handle.path
        self.delimiter = delimiter
        self._quotes = delimiter == "," if dialect.quotes is None else dialect.quotes
        self._well = _well_formed(delimiter, quotes=self._quotes)
        self._handle = handle
        self._lines = Lines(handle, dialect.encoding)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of the header, all text."""
        return pa.schema([(name, pa.string()) for name in self._names])

    @cached_property
    def rows(self) -> int:
        """Estimated number of rows, from the file's size and its first megabyte."""
        with self._handle.reading("text"):
            return self._lines.estimate()

    def check(self) -> None:
        """Check that the file did not change while it was read."""
        self._handle.check()

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Stream some columns; a chunk is some megabytes of lines, whatever `rows` says."""
        first = 1
        with self._handle.reading("text"):
            names = self._names
            _, blocks = self._lines.read()
            for block in blocks:
                chunk, count = self._parsed(block, first, names, columns)
                yield chunk
                first += count

    @cached_property
    def _names(self) -> list[str]:
        """Column names in the header."""
        with self._handle.reading("text"):
            line, _ = self._lines.read()
        if b"\0" in line:
            raise SourceError(
                f"{self.name}: NUL bytes in its header, as in UTF-16; tell its encoding, or save it as UTF-8"
            )
        if not _matches(pa.array([line + b"\n"]), self._well).all():
            raise SourceError(
                f"{self.name}: a quote in its header does not end where a name ends; correct the first line"
            )
        text = self._text(line)
        return next(csv.reader([text], delimiter=self.delimiter)) if self._quotes else text.split(self.delimiter)

    def _parsed(self, block: bytes, first: int, names: list[str], columns: Sequence[str]) -> tuple[Chunk, int]:
        """A block's rows, and its number of lines; the first line has the number `first`."""
        lines = _lines(block)
        index, parsed = np.arange(len(lines)), pa.py_buffer(block)
        reasons = self._no_rows(lines, block)
        if reasons:
            keep = np.ones(len(lines), np.bool_)
            keep[np.concatenate(list(reasons.values()))] = False
            index, parsed = index[keep], lines.filter(pa.array(keep)).buffers()[2]
        rows, ragged = self._read(parsed, len(index), names, columns)
        if ragged:
            reasons[RAGGED] = index[ragged]
            index = np.delete(index, ragged)
        return Chunk(rows, index + first, self._broken(lines, reasons, first)), len(lines)

    def _no_rows(self, lines: pa.Array, block: bytes) -> dict[str, NDArray[np.int64]]:
        """Reason -> indices of the lines that Arrow's reader would join, drop or split."""
        blank = _blank(lines)
        reasons = {BLANK: np.flatnonzero(blank)} if blank.any() else {}
        lone = b"\r" in block and block.count(b"\r") != block.count(b"\r\n")
        if lone or (self._quotes and b'"' in block):
            stray = ~blank & ~_matches(lines, self._well)
            reasons |= {STRAY: np.flatnonzero(stray)} if stray.any() else {}
        return reasons

    def _read(
        self, lines: pa.Buffer, count: int, names: list[str], columns: Sequence[str]
    ) -> tuple[pa.RecordBatch, list[int]]:
        """Parse lines; returns the rows, and the indices of the lines that do not split into the expected number of values."""
        wanted, ragged = list(columns) or names[:1], list[int]()

        def skip(row: pcsv.InvalidRow) -> str:
            ragged.append(row.number - 1)
            return "skip"

        schema = pa.schema([(name, pa.string()) for name in wanted])
        if not count:
            return _no_batch(schema).select(list(columns)), ragged
        try:
            table = pcsv.read_csv(
                pa.BufferReader(lines),
                # Without threads, since only then Arrow numbers the lines that it skips.
                read_options=pcsv.ReadOptions(column_names=names, use_threads=False, block_size=lines.size + 1),
                parse_options=pcsv.ParseOptions(
                    delimiter=self.delimiter,
                    quote_char='"' if self._quotes else False,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                convert_options=pcsv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.string()),
                    null_values=list(NULLS),
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise not_utf8(self.name, "beyond its first megabyte") from error
            raise
        if table.num_rows + len(ragged) != count:
            raise SourceError(
                f"{self.name}: {count} lines were read as {table.num_rows + len(ragged)} rows; report this"
            )
        batches = table.combine_chunks().to_batches()
        batch = batches[0] if batches else _no_batch(schema)
        return batch.select(list(columns)), ragged

    def _broken(self, lines: pa.Array, reasons: dict[str, NDArray[np.int64]], first: int) -> tuple[Broken, ...]:
        found = [
            Broken(int(place) + first, self._text(lines[int(place)].as_py().rstrip(b"\n").removesuffix(b"\r")), reason)
            for reason, places in reasons.items()
            for place in places
        ]
        return tuple(sorted(found, key=lambda line: line.number))

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(self.name, f"byte 0x{line[error.start]:02x}") from error


def _no_batch(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def _lines(block: bytes) -> pa.Array:
    """The lines of a block, each with its line end; shares the block's memory."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(block)])


def _blank(lines: pa.Array) -> NDArray[np.bool_]:
    """Mask of the lines that consist of a line end only."""
    _, offsets, text = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)
    lengths, before = np.diff(ends), np.frombuffer(text, np.uint8)[np.maximum(ends[1:] - 2, 0)]
    return np.asarray((lengths == 1) | ((lengths == 2) & (before == ord("\r"))), np.bool_)


def _well_formed(delimiter: str, *, quotes: bool) -> str:
    """A pattern that matches lines in which every quoted value is closed, so that they can be parsed in one way only."""
    plain = rf"[^{delimiter}\r\n]*"
    value = rf'(?:"(?:[^"\n]|"")*"|[^"{delimiter}\r\n]{plain}|)' if quotes else plain
    return rf"^{value}(?:{delimiter}{value})*\r?\n$"


def _matches(lines: pa.Array, pattern: str) -> NDArray[np.bool_]:
    return true(pc.match_substring_regex(lines, pattern))
