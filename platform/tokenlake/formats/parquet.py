"""Parquet: types that it has stay; others become text as in CSV. Names are unique as in JSON: few readers admit others."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import duckdb

from tokenlake.formats import values
from tokenlake.formats.answer import Answer
from tokenlake.formats.layout import Layout

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

#: Types that Parquet, or Arrow on the way to it, has no exact form of.
_AS_TEXT = {"bignum", "time with time zone", "interval", "bit", "union", "variant", "geometry"}


def write(answer: Answer, file: IO[bytes], layout: Layout) -> None:
    """Write all rows.

    HUGEINT and UHUGEINT become DECIMAL(38, 0); if a value has 39 digits, they become text.
    """
    try:
        _write(answer, file, "DECIMAL(38, 0)")
    except duckdb.ConversionException:
        if not any("HUGEINT" in kind for kind in answer.types):
            raise
        file.seek(0)
        file.truncate()
        _write(answer, file, "VARCHAR")


def _write(answer: Answer, file: IO[bytes], wide: str) -> None:
    import pyarrow.parquet as pq

    columns = zip(answer.distinct_names, answer.kinds, strict=True)
    rows = answer.project([_column(number, name, kind, wide) for number, (name, kind) in enumerate(columns, 1)])
    with pq.ParquetWriter(file, rows.schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(batch)


def _column(number: int, name: str, kind: DuckDBPyType, wide: str) -> str:
    target = _target(kind, wide)
    value = f"#{number}" if target == str(kind) else f"CAST(#{number} AS {target})"
    return f"{value} AS {_name(name)}"


def _target(kind: DuckDBPyType, wide: str, *, nested: bool = False) -> str:
    """The type that is written, also of the parts of a nested type."""
    name = values.kind_of(kind)
    if name in {"hugeint", "uhugeint"}:
        return wide
    if name in _AS_TEXT or (name == "enum" and nested):
        return "VARCHAR"
    if name == "timestamp_s":
        return "TIMESTAMP"
    if name not in values.NESTED:
        return str(kind)
    parts = [(label, _target(child, wide, nested=True)) for label, child in values.children_of(kind)]
    if name in values.LISTS:
        return f"{parts[0][1]}[]"
    if name == "struct":
        return f"STRUCT({', '.join(f'{_name(label)} {part}' for label, part in parts)})" if parts else "VARCHAR"
    return f"{name.upper()}({', '.join(part for _, part in parts)})"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
