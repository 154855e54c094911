"""The block `counts`: declared aggregations over the past of any keys (docs/counts.md)."""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tokenlake.config.embeddings import Filters
from tokenlake.config.events import Events
from tokenlake.config.values import Duration, Strict, several
from tokenlake.names import folded

Aggregate: TypeAlias = Literal["count", "known", "mean", "sum", "min", "max", "last", "recency"]
#: Which aggregates there are of events, of a label, and of a numeric feature.
_OF_EVENTS: tuple[Aggregate, ...] = ("count", "recency")
_OF_LABEL: tuple[Aggregate, ...] = ("count", "known", "mean", "recency")
_OF_NUMERIC: tuple[Aggregate, ...] = ("count", "sum", "mean", "min", "max", "last", "recency")
#: Those that weigh events by their age.
_DECAYING: tuple[Aggregate, ...] = ("count", "known", "mean", "sum")
#: Keys that every log has; other keys are names of categorical and multi-valued features.
ID_KEYS = ("user", "item")
_ID_COLUMNS = {"user": "user_id", "item": "item_id"}
_UNITS = {"w": 7 * 86_400, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SHORTEST_HALF_LIFE = dt.timedelta(hours=1)


def _no_events(value: object) -> object:
    return {} if value is None or value == "events" else value


def _windows(value: object) -> object:
    listed = tuple(value) if isinstance(value, list | tuple) else (value,)
    return tuple(None if window == "all" else window for window in listed)


class Of(Strict):
    """What is counted: events, those that pass any filter of `where`, a label, or a numeric feature of either."""

    where: Filters = ()
    label: str | None = None
    numeric: str | None = None
    #: The smallest difference of the numeric feature that is kept: sums are whole multiples of it.
    unit: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if self.label is not None and self.numeric is not None:
            raise ValueError("`of` has a `label` and a `numeric`; name one of them")
        if self.numeric is None and "unit" in self.model_fields_set:
            raise ValueError("`unit` belongs to a `numeric` feature, of which there is none")
        return self

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The aggregates that exist of it."""
        return _OF_LABEL if self.label is not None else _OF_NUMERIC if self.numeric is not None else _OF_EVENTS


@dataclass(frozen=True)
class CountColumn:
    """One number that a definition gives for each row.

    Attributes:
        name: `user_item_count`, `user_item_count_28d` or `user_item_count_decay_14d`.
        aggregate: what is computed.
        window: only events of this age or younger; None: all of the past.
        half_life: age at which an event has half weight; None: all weigh the same.
    """

    name: str
    aggregate: Aggregate
    window: dt.timedelta | None = None
    half_life: dt.timedelta | None = None


class Count(Strict):
    """One declared aggregation: `{by: [user, item], of: {label: bought}, as: [count, mean], windows: [all, 28d]}`."""

    #: Up to three keys: `user`, `item`, and categorical or multi-valued features.
    by: Annotated[tuple[str, ...], BeforeValidator(several)] = Field(min_length=1, max_length=3)
    #: What is counted; `events` by default.
    of: Annotated[Of, BeforeValidator(_no_events)] = Of()
    #: The numbers that are wanted.
    aggregates: Annotated[tuple[Aggregate, ...], BeforeValidator(several)] = Field(("count",), alias="as", min_length=1)
    #: How far back: `all`, or durations such as `28d` and `12h`; `all` by default, or none where there is a `decay`.
    windows: Annotated[tuple[Duration | None, ...], BeforeValidator(_windows)] = (None,)
    #: Half-life of an exponentially decayed count, mean or sum, beside those of the windows.
    decay: Duration | None = None
    #: Whether Feast gets a view of it; by default where there is one key.
    serve: bool | None = None

    @field_validator("by", "aggregates", "windows")
    @classmethod
    def _once_each(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("something stands there twice; write each once")
        return values

    @field_validator("windows")
    @classmethod
    def _positive_windows(cls, windows: tuple[dt.timedelta | None, ...]) -> tuple[dt.timedelta | None, ...]:
        if any(window is not None and window <= dt.timedelta() for window in windows):
            raise ValueError("a window is longer than nothing, such as 12h or 28d")
        return windows

    @field_validator("decay")
    @classmethod
    def _half_life(cls, half_life: dt.timedelta | None) -> dt.timedelta | None:
        if half_life is not None and half_life < _SHORTEST_HALF_LIFE:
            raise ValueError("`decay` is a half-life of an hour or more, such as 14d")
        return half_life

    @model_validator(mode="before")
    @classmethod
    def _decay_alone(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("decay") is not None and "windows" not in data:
            return {**data, "windows": []}
        return data

    @model_validator(mode="after")
    def _aggregates_fit(self) -> Self:
        if strange := [name for name in self.aggregates if name not in self.of.aggregates]:
            what = "a label" if self.of.label else "a numeric feature" if self.of.numeric else "events"
            raise ValueError(f"there is no {strange[0]!r} of {what}; there are {', '.join(self.of.aggregates)}")
        if not any(True for _ in self.columns("")):
            raise ValueError(
                f"nothing is left to compute: {', '.join(self.aggregates)} cannot decay; add `windows: all`, or one of "
                f"{', '.join(name for name in self.of.aggregates if name in _DECAYING)}"
            )
        return self

    @property
    def is_served(self) -> bool:
        """Whether Feast gets a view of it."""
        return len(self.by) == 1 if self.serve is None else self.serve

    def columns(self, name: str) -> Iterator[CountColumn]:
        """The numbers of a definition of that name, in their order: by window, then by aggregate, the decayed ones last."""
        for window in self.windows:
            suffix = "" if window is None else f"_{short(window)}"
            for aggregate in self.aggregates:
                yield CountColumn(f"{name}_{aggregate}{suffix}", aggregate, window)
        if self.decay is None:
            return
        for aggregate in self.aggregates:
            if aggregate in _DECAYING:
                yield CountColumn(f"{name}_{aggregate}_decay_{short(self.decay)}", aggregate, half_life=self.decay)


def column_of(key: str) -> str:
    """The column of `events` that holds a key."""
    return _ID_COLUMNS.get(key, key)


def short(duration: dt.timedelta) -> str:
    """A duration as it is written in a file: `28d`, `36h`, `90s`; in its largest unit that gives a whole number."""
    seconds = duration.total_seconds()
    for unit, size in _UNITS.items():
        if unit != "w" and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{duration // dt.timedelta(microseconds=1)}us"


def built_in(events: Events) -> dict[str, Count]:
    """What is counted where a file has no block `counts`: events, and labels, of users, items and multi-valued features."""
    out = {}
    for key in (*ID_KEYS, *events.of_kind("multi")):
        out[key] = Count.model_validate({"by": key})
        for label in events.labels:
            of = {"by": key, "of": {"label": label}, "as": ["mean", "known"]}
            out[f"{key}_{label}"] = Count.model_validate(of)
    return out


def check(counts: dict[str, Count], events: Events) -> None:
    """Check that definitions name what the events have.

    Raises:
        ValueError: they do not; the message has the nearest valid name.
    """
    features = (*events.of_kind("categorical"), *events.of_kind("multi"))
    for name, count in counts.items():
        place = f"counts.{name}"
        for key in count.by:
            _named(f"{place}.by", key, (*ID_KEYS, *features), "key")
        for f in count.of.where:
            if f.label is not None:
                _named(f"{place}.of.where", f.label, tuple(events.labels), "label")
            if f.feature is not None:
                _named(f"{place}.of.where", f.feature, events.of_kind("categorical"), "categorical feature")
        if count.of.label is not None:
            _named(f"{place}.of", count.of.label, tuple(events.labels), "label")
        if count.of.numeric is not None:
            _named(f"{place}.of", count.of.numeric, events.of_kind("numeric"), "numeric feature")
    _distinct_columns(counts)


def check_name(name: str) -> None:
    """Check the name of a definition, which becomes part of columns' names and of a folder's.

    Raises:
        ValueError: it is not letters, digits and underscores, beginning with a letter.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} becomes the name of columns; use letters, digits and _, a letter first")


def _named(place: str, name: str, there: tuple[str, ...], what: str) -> None:
    if name not in there:
        close = difflib.get_close_matches(name, there, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(there) or 'none'}"
        raise ValueError(f"{place}: no {what} {name!r}{hint}")


def _distinct_columns(counts: dict[str, Count]) -> None:
    owner: dict[str, str] = {}
    for name, count in counts.items():
        for column in count.columns(name):
            other = owner.setdefault(folded(column.name), name)
            if other != name:
                raise ValueError(f"counts: {other!r} and {name!r} both give a column {column.name!r}; rename one")
