r"""What values look like: SQL expressions that write a value of any type as text, in JSON, CSV or a table.

DuckDB writes the text, a batch at a time, from its own values: Arrow has no exact form of some (wide integers, infinite
times, times with a zone). A type is read from DuckDB's object, so nested types follow by recursion.

| type | JSON | CSV |
|---|---|---|
| integers of any width, DECIMAL, BIGNUM | a number with all its digits | the same |
| FLOAT, DOUBLE | the shortest number of its own width; NaN and infinities are null | the same; `nan`, `inf`, `-inf` |
| DATE, TIME, TIMETZ, UUID, ENUM, BIT, GEOMETRY (WKT) | DuckDB's text | the same |
| TIMESTAMP | `2024-01-31T12:00:00.000000` | `2024-01-31 12:00:00.000000` |
| TIMESTAMPTZ | the same in UTC, with `Z` | the same in UTC, with `+00:00` |
| TIMESTAMP_NS, TIMESTAMPTZ_NS | nine digits of the second | the same |
| infinite days and instants | `infinity`, `-infinity` | the same |
| days and instants outside of the years 1 to 9999 | DuckDB's text: `12024-01-31`, `0044-03-15 (BC)` | the same |
| INTERVAL | `[months, days, nanoseconds]` | DuckDB's text: `1 day 02:00:00` |
| BLOB | text if it is UTF-8, else ASCII with `\xff` for other bytes and for quotes | DuckDB's text: `\xFF` |
| LIST, ARRAY, TUPLE | an array | DuckDB's text: `[1, NULL]` |
| STRUCT | an object | DuckDB's text: `{'a': 1}` |
| MAP | an object whose keys are text | DuckDB's text: `{k=1}` |
| UNION | the value of the member in use | DuckDB's text |
| what is nested deeper than 8 levels | DuckDB's text | the same |
| JSON, VARIANT | the value itself; as text if it has NaN or Infinity | its text |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

_INTEGERS = {"tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint"}
_WIDE = {"hugeint", "uhugeint", "bignum"}
_FLOATS = {"float", "double"}
NUMBERS = _INTEGERS | _WIDE | _FLOATS | {"decimal"}
_INSTANTS = {"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"}
_ZONED = {"timestamp with time zone", "timestamptz_ns"}
#: Types whose text is short, and means nothing if a part of it is left out.
INDIVISIBLE = NUMBERS | _INSTANTS | _ZONED | {"boolean", "date", "time", "time_ns", "time with time zone", "uuid"}
LISTS = {"list", "array"}
#: Types nested deeper are written as DuckDB's text: its planner's time doubles with each lambda within another.
_DEEPEST = 8
NESTED = LISTS | {"struct", "tuple", "map"}


def kind_of(kind: DuckDBPyType) -> str:
    """The name of a type without its parameters, in lower case, such as `decimal` or `list`."""
    return "json" if str(kind) == "JSON" else str(kind.id)


def children_of(kind: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    """Names and types of the parts of a nested type: an array's length is no part."""
    return [(name, cast("DuckDBPyType", child)) for name, child in kind.children if not isinstance(child, int)]


def json_text(x: str, kind: DuckDBPyType, depth: int = 0) -> str:
    """SQL text of a value in JSON, never NULL.

    Args:
        x: SQL expression of the value.
        kind: its type.
        depth: how many nested types it is within.
    """
    return f"coalesce({_json(x, kind, depth)}, 'null')"


def csv_text(x: str, kind: DuckDBPyType) -> str:
    """SQL text of a value in CSV before quoting; NULL for NULL."""
    name = kind_of(kind)
    if name in _INSTANTS | _ZONED:
        return _instant(x, name, " ", "+00:00")
    return f"{x}::VARCHAR"


def quoted(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _json(x: str, kind: DuckDBPyType, depth: int) -> str:
    name = kind_of(kind)
    if name in _INTEGERS | _WIDE | {"decimal", "boolean"}:
        return f"{x}::VARCHAR"
    if name in _FLOATS:
        return f"CASE WHEN isfinite({x}) THEN {x}::VARCHAR END"
    if name in _INSTANTS | _ZONED:
        return f"""'"' || {_instant(x, name, "T", "Z")} || '"'"""
    if name in _PLAIN:
        return _PLAIN[name](x)
    if name in _PARTS and depth < _DEEPEST:
        return _PARTS[name](x, kind, depth + 1)
    return f"json_quote({x}::VARCHAR)::VARCHAR"


def _instant(x: str, name: str, between: str, zone: str) -> str:
    """An instant with all its digits, in UTC if it has a zone."""
    digits, wide = ("%n", "TIMESTAMP_NS") if name.endswith("_ns") else ("%f", "TIMESTAMP")
    if name not in _ZONED:
        utc, zone = f"{x}::{wide}", ""
    else:
        utc = f"make_timestamp_ns(epoch_ns({x}))" if wide == "TIMESTAMP_NS" else f"make_timestamp(epoch_us({x}))"
    coarse = f"{utc}::TIMESTAMP" if wide == "TIMESTAMP_NS" else utc
    usual = f"{coarse} BETWEEN TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999'"
    # `%n` stands last: DuckDB 2.0 writes other memory behind what follows it.
    return (
        f"CASE WHEN {usual} THEN strftime({utc}, '%Y-%m-%d{between}%H:%M:%S.{digits}') || '{zone}' "
        f"WHEN isfinite({coarse}) THEN {utc}::VARCHAR || '{zone}' ELSE {x}::VARCHAR END"
    )


def _list(x: str, kind: DuckDBPyType, depth: int) -> str:
    child = children_of(kind)[0][1]
    return f"CASE WHEN {x} IS NOT NULL THEN '[' || {joined(x, child, depth)} || ']' END"


def joined(x: str, child: DuckDBPyType, depth: int = 1) -> str:
    """JSON of the elements of a list, with commas between them."""
    element = _fresh(x)
    return _with_commas_between(f"list_transform({x}, lambda {element}: {json_text(element, child, depth)})")


def _with_commas_between(texts: str) -> str:
    # `array_to_string` is a macro that repeats its argument, so nested lists would take exponential time.
    return f"ifnull(list_aggregate({texts}, 'string_agg', ', '), '')"


def _fresh(x: str) -> str:
    """A name of a lambda's parameter that no expression around it has."""
    number = next(number for number in range(len(x)) if f"_e{number}_" not in x)
    return f"_e{number}_"


def _struct(x: str, kind: DuckDBPyType, depth: int) -> str:
    fields = [
        f"{quoted(_literal(name) + ': ')}, {json_text(f'struct_extract({x}, {quoted(name)})', child, depth)}"
        for name, child in children_of(kind)
    ]
    return f"CASE WHEN {x} IS NOT NULL THEN concat('{{', {_with_commas(fields)}'}}') END"


def _tuple(x: str, kind: DuckDBPyType, depth: int) -> str:
    values = [
        json_text(f"struct_extract({x}, {number})", child, depth)
        for number, (_, child) in enumerate(children_of(kind), 1)
    ]
    return f"CASE WHEN {x} IS NOT NULL THEN concat('[', {_with_commas(values)}']') END"


def _with_commas(parts: list[str]) -> str:
    return ", ', ', ".join(parts) + ", " if parts else ""


def _map(x: str, kind: DuckDBPyType, depth: int) -> str:
    (_, key), (_, value) = children_of(kind)
    element = _fresh(x)
    text = (
        _instant(f"{element}.key", kind_of(key), "T", "Z")
        if kind_of(key) in _INSTANTS | _ZONED
        else f"{element}.key::VARCHAR"
    )
    pair = f"json_quote({text}) || ': ' || {json_text(f'{element}.value', value, depth)}"
    pairs = _with_commas_between(f"list_transform(map_entries({x}), lambda {element}: {pair})")
    return f"CASE WHEN {x} IS NOT NULL THEN '{{' || {pairs} || '}}' END"


def _union(x: str, kind: DuckDBPyType, depth: int) -> str:
    # Its first child is the tag.
    cases = [
        f"WHEN {quoted(name)} THEN {json_text(f'union_extract({x}, {quoted(name)})', child, depth)}"
        for name, child in children_of(kind)
        if name
    ]
    return f"CASE union_tag({x})::VARCHAR {' '.join(cases)} END"


def _document(x: str) -> str:
    """JSON as it is, on one line; DuckDB also admits NaN, Infinity and a comma before a bracket, which JSON has not."""
    text = f"translate(({x})::JSON::VARCHAR, chr(9) || chr(10) || chr(13), '   ')"
    outside = rf"""regexp_replace({text}, '"(?:[^"\\]|\\.)*"', '', 'g')"""
    other = rf"regexp_matches({outside}, '(?i)nan|inf|,\s*[\]}}]')"
    return f"CASE WHEN {other} THEN json_quote(({x})::JSON::VARCHAR)::VARCHAR ELSE {text} END"


def _interval(x: str) -> str:
    seconds = f"(date_part('hour', {x}) * 60 + date_part('minute', {x})) * 60000000 + date_part('microsecond', {x})"
    months = f"date_part('year', {x}) * 12 + date_part('month', {x})"
    return f"'[' || ({months}) || ', ' || date_part('day', {x}) || ', ' || ({seconds})::HUGEINT * 1000 || ']'"


def _bytes(x: str) -> str:
    # DuckDB writes 255 as `\xFF`, and a backslash as `\x5C`; its digits become those of Python, `\xff`.
    ascii_text = f"{x}::VARCHAR"
    for digit in "ABCDEF":
        first = f"replace({ascii_text}, '\\x{digit}', '\\x{digit.lower()}')"
        ascii_text = f"regexp_replace({first}, '(\\\\x.){digit}', '\\1{digit.lower()}', 'g')"
    return f"json_quote(coalesce(TRY(decode({x})), {ascii_text}))::VARCHAR"


_PLAIN: dict[str, Callable[[str], str]] = {
    "json": _document,
    "variant": _document,
    "interval": _interval,
    "blob": _bytes,
}
_PARTS: dict[str, Callable[[str, DuckDBPyType, int], str]] = {
    "list": _list,
    "array": _list,
    "struct": _struct,
    "tuple": _tuple,
    "map": _map,
    "union": _union,
}


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
