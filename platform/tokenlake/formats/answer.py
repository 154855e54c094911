"""`Answer`: the rows of a DuckDB relation, as a stream of Arrow batches; columns are known by position, never by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb.sqltypes import DuckDBPyType

#: Rows of a batch: enough to be fast, few enough for little memory.
BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Answer:
    """What a question gives; it runs when its rows are read, and again each time.

    Attributes:
        relation: the question.
        names: names of the columns; several may be equal.
        kinds: their types, as DuckDB's objects.
    """

    relation: duckdb.DuckDBPyRelation
    names: tuple[str, ...]
    kinds: tuple[DuckDBPyType, ...]

    @classmethod
    def of(cls, relation: duckdb.DuckDBPyRelation) -> Answer:
        """The answer of a relation, whose names and types are read, not its rows."""
        return cls(relation, tuple(relation.columns), tuple(relation.types))

    @cached_property
    def types(self) -> tuple[str, ...]:
        """DuckDB's names of the types."""
        return tuple(str(kind) for kind in self.kinds)

    @cached_property
    def distinct_names(self) -> list[str]:
        """Names made unique: a repeated one gets the first number that gives no name of another column, as in `a, a_1`."""
        taken, seen, found = set(self.names), set[str](), list[str]()
        for name in self.names:
            numbered = (f"{name}_{number}" for number in itertools.count(1))
            own = name if name not in seen else next(each for each in numbered if each not in taken)
            found.append(own)
            seen.add(name)
            taken.add(own)
        return found

    @property
    def is_plan(self) -> bool:
        """Whether it is the answer of EXPLAIN: text to read, not a table."""
        return self.names == ("explain_key", "explain_value")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Rows as Arrow batches.

        Raises:
            duckdb.Error: the question fails, also after its first rows.
        """
        return iter(RowStream(self.relation))

    def project(self, expressions: Sequence[str]) -> RowStream:
        """SQL expressions over the columns, which are `#1`, `#2` and so on.

        Raises:
            duckdb.Error: the question fails.
        """
        return RowStream(self.relation.project(", ".join(expressions)))

    def rows(self, expressions: Sequence[str]) -> list[tuple[str | None, ...]]:
        """All rows of expressions that give text, at once: small answers need no Arrow, whose import takes a while.

        Raises:
            duckdb.Error: the question fails.
        """
        return self.relation.project(", ".join(expressions)).fetchall()

    def head(self, rows: int | None) -> Answer:
        """Its first rows, all for None: DuckDB computes no others."""
        return self if rows is None else Answer(self.relation.limit(rows), self.names, self.kinds)


class RowStream:
    """The rows of a relation, to be read once.

    Attributes:
        schema: their Arrow schema.
    """

    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        with _duckdbs_errors():
            self._reader: pa.RecordBatchReader = relation.to_arrow_reader(BATCH_ROWS)
            self.schema: pa.Schema = self._reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches of rows; raises `duckdb.Error` where the question fails."""
        # A reader that is not read to its end would keep the connection busy.
        with self._reader:
            while (batch := self._next()) is not None:
                yield batch

    def _next(self) -> pa.RecordBatch | None:
        with _duckdbs_errors():
            try:
                return self._reader.read_next_batch()
            except StopIteration:
                return None


@contextmanager
def _duckdbs_errors() -> Iterator[None]:
    """Raise DuckDB's errors as such: they come through an Arrow stream as OSError or ArrowInvalid, with the same text."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        text = str(error)
        raise _error_class(text)(text) from error


def _error_class(text: str) -> type[duckdb.Error]:
    """The class of an error by how its text begins: `Out of Memory Error: ...` is an `OutOfMemoryException`."""
    title = text.partition(" Error:")[0].replace(" ", "").lower()
    classes: dict[str, type[duckdb.Error]] = {
        name.removesuffix("Exception").lower(): each for name, each in vars(duckdb).items() if _is_error(each)
    }
    return classes.get(title, duckdb.Error)


def _is_error(each: object) -> bool:
    return isinstance(each, type) and issubclass(each, duckdb.Error)
