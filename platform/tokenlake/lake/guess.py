"""Guessing a schema from a sample file, for `tokenlake init --from`: a first draft that a person corrects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.config import Config
from tokenlake.lake.schema import events_schema, known_at_column, tokens_schema
from tokenlake.names import folded, quotable
from tokenlake.reading.arrays import flat
from tokenlake.reading.kinds import is_list, is_number, is_string, plain
from tokenlake.reading.source import open_source

_USERS = ("user_id", "user", "userid", "uid", "customer_id", "member_id", "household_id", "visitor_id")
_ITEMS = ("item_id", "item", "itemid", "product_id", "ad_id", "movie_id", "movieid", "article_id", "sku", "track_id")
_TIMES = ("timestamp", "time", "ts", "event_time", "datetime", "date", "created_at", "occurred_at", "shown_at")
_IDS = ("event_id", "id", "impression_id", "interaction_id", "order_line_id")
_TEXT_KINDS = {"number": r"^-?\d+(\.\d+)?$", "vector": r"^\[?-?\d+\.\d+([, ]+-?\d+\.\d+)+\]?$"}
_FEW = 50


@dataclass
class Guess:
    """The roles of a sample's columns."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    id: str | None = None
    features: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def guess(path: Path) -> Guess:
    """Guess the columns' roles from the first rows of a Parquet or CSV file.

    Raises:
        SourceError: the file cannot be read.
    """
    file = open_source(path, typed=False).files[0]
    names = file.schema.names
    chunk = next(iter(file.chunks(names)), None)
    out = Guess(_first(names, _USERS), _first(names, _ITEMS), _first(names, _TIMES), _first(names, _IDS))
    kinds: dict[str, str] = {}
    for name in names:
        if name not in {out.user, out.item, out.timestamp, out.id}:
            column = pa.nulls(0) if chunk is None else flat(chunk.rows.column(name)).drop_null()
            kinds[name] = _kind(column, text=file.text) or ""
    taken = _own_columns()
    # Labels first, since each one adds a second column.
    for name in sorted(kinds, key=lambda name: kinds[name] != "label"):
        mine = [folded(name), *([folded(known_at_column(name))] if kinds[name] == "label" else [])]
        if not kinds[name] or not quotable(name) or not taken.isdisjoint(mine):
            out.unused.append(name)
            continue
        taken.update(mine)
        if kinds[name] == "label":
            out.labels.append(name)
        else:
            out.features[name] = kinds[name]
    return out


def _own_columns() -> set[str]:
    """Names of the columns that the lake itself adds to its tables."""
    config = Config()
    return {folded(name) for schema in (events_schema(config), tokens_schema(config)) for name in schema.names}


def _first(names: list[str], wanted: tuple[str, ...]) -> str | None:
    folded = {name.casefold().replace(" ", "_"): name for name in reversed(names)}
    return next((folded[name] for name in wanted if name in folded), None)


def _kind(column: pa.Array, *, text: bool) -> str | None:
    kind = column.type
    if is_list(kind):
        return "vector" if is_number(plain(kind.value_type)) else "multi"
    if not len(column) or pa.types.is_temporal(kind):
        return None
    distinct = pc.unique(column)
    if len(distinct) <= 2 and set(map(str, distinct.to_pylist())) <= {"0", "1", "True", "False", "true", "false"}:
        return "label"
    if is_string(kind):
        if text and _all(column, _TEXT_KINDS["number"]):
            return "categorical" if len(distinct) <= _FEW else "numeric"
        if _all(column, _TEXT_KINDS["vector"]):
            return "vector"
        return "multi" if pc.any(pc.match_substring(column, "|")).as_py() else "categorical"
    if pa.types.is_integer(kind):
        return "categorical" if len(distinct) <= _FEW else "numeric"
    return "numeric" if is_number(kind) else None


def _all(column: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())
