"""Values as text, one by one, from Python's values: slow, and obvious."""

from __future__ import annotations

import datetime as dt
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import duckdb

from tokenlake.formats import Answer, Layout, write


def written(relation: duckdb.DuckDBPyRelation, form: str, rows: int | None = 50, width: int | None = None) -> str:
    """What `write` writes as text."""
    file = io.StringIO()
    write(Answer.of(relation), form, file, Layout(rows, width))
    return file.getvalue()


def in_json(value: Any) -> Any:
    """What a reader of JSON gets for a value."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dt.datetime():
            utc = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
            return utc.isoformat(timespec="microseconds") + ("Z" if value.tzinfo else "")
        case dt.date():
            return value.isoformat()
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return "".join(
                    chr(each) if 32 <= each < 127 and each not in (34, 39, 92) else f"\\x{each:02x}" for each in value
                )
        case list() | tuple():
            return [in_json(each) for each in value]
        case dict():
            return {str(key): in_json(each) for key, each in value.items()}
    return value


def in_csv(value: Any) -> str:
    """A cell of CSV, with its quotes."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dt.datetime():
            utc = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
            return utc.isoformat(" ", timespec="microseconds") + ("+00:00" if value.tzinfo else "")
        case str():
            plain = value and value.strip(" \t\n\v\f\r") == value and not set(value) & set(',"\n\r')
            return value if plain else '"' + value.replace('"', '""') + '"'
    return str(value)


def json_of(names: Sequence[str], rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [{name: in_json(value) for name, value in zip(names, row, strict=True)} for row in rows]


def csv_of(names: Sequence[str], rows: list[tuple[Any, ...]]) -> str:
    lines = [",".join(in_csv(name) for name in names), *(",".join(map(in_csv, row)) for row in rows)]
    return "".join(line + "\n" for line in lines)


def read_json(text: str) -> Any:
    """JSON as Python reads it; NaN and Infinity are refused."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)
