"""From source rows to canonical columns: each row is either valid or has reasons why it is not (docs/lake.md).

Reasons contain no values, so that `select reason, count(*) from quarantine group by 1` is useful; the values are in the
row itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.config import Config, Label
from tokenlake.errors import SchemaError
from tokenlake.lake.instants import TimeReader
from tokenlake.lake.schema import TIMESTAMP, TOKEN, IdTypes
from tokenlake.reading.arrays import Mask, cast_rows, flat, floats, numpy, stripped, true, valid, where
from tokenlake.reading.files import INTEGER
from tokenlake.reading.kinds import is_list, is_number, is_string, plain
from tokenlake.times import DAY_US

_SEPARATORS = r"[\s,;|]+"
_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}


@dataclass
class Problems:
    """Reasons to reject rows of a batch: for each reason a mask of the rows that have it."""

    rows: int
    masks: dict[str, Mask] = field(default_factory=dict)

    def add(self, reason: str, rows: Mask) -> None:
        """Add a reason for the rows where the mask is True."""
        if rows.any():
            self.masks[reason] = self.masks[reason] | rows if reason in self.masks else rows

    @property
    def bad(self) -> Mask:
        """Mask of the rows with at least one reason."""
        return np.asarray(np.logical_or.reduce([np.zeros(self.rows, np.bool_), *self.masks.values()]), np.bool_)

    def reasons(self) -> list[str]:
        """The reasons of each bad row, joined by `"; "`, in the order of the rows."""
        index = np.flatnonzero(self.bad)
        texts = [""] * len(index)
        for reason, rows in self.masks.items():
            for at in np.flatnonzero(rows[index]):
                texts[at] = f"{texts[at]}; {reason}" if texts[at] else reason
        return texts


@dataclass(frozen=True)
class Columns:
    """Which source columns a config names.

    Attributes:
        times: the timestamp's and every `known_at`.
        needed: all columns, each once.
        optional: columns of features and labels, which a file may lack if another file of the same source has them.
    """

    times: tuple[str, ...]
    needed: tuple[str, ...]
    optional: tuple[str, ...]

    @classmethod
    def of(cls, config: Config, *, labels: bool = True) -> Columns:
        """The columns that a config names; with `labels=False` without those of labels."""
        events = config.events
        known = [label.known_at for label in events.labels.values() if label.known_at] if labels else []
        features = [feature.column or name for name, feature in events.features.items()]
        ids = [events.id] if events.id else []
        fixed = [*ids, events.user, events.item, events.timestamp]
        names = [*fixed, *features, *(events.labels if labels else []), *known]
        return cls(
            tuple(dict.fromkeys([events.timestamp, *known])),
            tuple(dict.fromkeys(names)),
            tuple(name for name in dict.fromkeys(names) if name not in fixed),
        )


@dataclass
class Validator:
    """Converts one source's batches to canonical columns.

    Args:
        config: names and types of the columns.
        ids: the lake's id types.
        clocks: the reader of each time column.
        dims: the width of each vector feature.
        labels: whether the source has the label columns; without them labels are null.
    """

    config: Config
    ids: IdTypes
    clocks: dict[str, TimeReader]
    dims: dict[str, int]
    labels: bool = True

    def check(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], Problems]:
        """Convert a batch.

        Returns:
            The canonical columns, without `ds`, `ingested_at`, and an `event_id` that the config does not declare;
            values of bad rows are undefined. And the problems of its rows.
        """
        events, problems = self.config.events, Problems(batch.num_rows)
        out: dict[str, pa.Array] = {}
        for role, column, kind in (
            ("event", events.id, self.ids.event),
            ("user", events.user, self.ids.user),
            ("item", events.item, self.ids.item),
        ):
            if column is not None:
                out[f"{role}_id"] = _id(flat(batch.column(column)), role, kind, problems)
        micros = self._timestamp(batch, problems)
        out["timestamp"] = pa.array(micros).cast(TIMESTAMP)
        for name, feature in events.features.items():
            values = flat(batch.column(feature.column or name))
            out[name] = _FEATURES[feature.kind](values, name, problems, self.dims.get(name))
        for name, label in events.labels.items():
            out[name], out[f"{name}_known_at"] = self._label(batch, name, label, micros, problems)
        return out, problems

    def _timestamp(self, batch: pa.RecordBatch, problems: Problems) -> NDArray[np.int64]:
        name = self.config.events.timestamp
        micros, has, reasons = self.clocks[name].read(batch.column(name))
        problems.add(f"{name} is missing", ~has)
        for reason, rows in reasons.items():
            problems.add(reason, rows)
        return micros

    def _label(
        self, batch: pa.RecordBatch, name: str, label: Label, micros: NDArray[np.int64], problems: Problems
    ) -> tuple[pa.Array, pa.Array]:
        """A label's values, and the instants at which they become known."""
        if not self.labels:
            return pa.nulls(batch.num_rows, pa.int8()), pa.nulls(batch.num_rows, TIMESTAMP)
        values = _binary(flat(batch.column(name)), name, problems)
        positive, has = numpy(values, np.int8) == 1, valid(values)
        if label.known_at is None:
            return values, where(pa.array(micros), has).cast(TIMESTAMP)
        known, has_known_at, reasons = self.clocks[label.known_at].read(batch.column(label.known_at))
        for reason, rows in reasons.items():
            problems.add(reason, rows & positive)
        problems.add(f"{name} is positive and {label.known_at} is missing", positive & ~has_known_at)
        unclear = np.logical_or.reduce([np.zeros_like(has_known_at), *reasons.values()])
        problems.add(
            f"{label.known_at} is before {self.config.events.timestamp}",
            positive & has_known_at & ~unclear & (known < micros),
        )
        if label.window is None:
            return values, where(pa.array(known), positive & has_known_at).cast(TIMESTAMP)
        window = int(label.window.total_seconds() * 1_000_000)
        return values, where(pa.array(np.where(positive, known, micros + window)), has).cast(TIMESTAMP)


def converted(config: Config, ids: IdTypes, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Convert one column to what `events` holds under a name, as ingest does.

    Args:
        config: names and types of the columns.
        ids: the lake's id types.
        name: `user_id`, `item_id` or a feature's name.
        values: as a source has them.

    Raises:
        SchemaError: a type that does not fit, or a row that ingest would quarantine; the message gives the first one.
    """
    problems, flat_values = Problems(len(values)), flat(values)
    role = name.removesuffix("_id") if name in ("user_id", "item_id") else None
    kind = "id" if role else config.events.features[name].kind
    given = plain(flat_values.type)
    if not (pa.types.is_null(given) or _FITS[kind](given)):
        raise SchemaError(f"{name}: type {given} given, which is no {_SPELLED.get(kind, kind)}")
    if role:
        out = _id(flat_values, role, ids.user if role == "user" else ids.item, problems)
    else:
        out = _FEATURES[kind](flat_values, name, problems, None)
    if problems.bad.any():
        raise SchemaError(f"row {int(np.flatnonzero(problems.bad)[0])}: {problems.reasons()[0]}")
    return out


def days_of(timestamps: pa.Array) -> NDArray[np.int32]:
    """UTC days since 1970 of a timestamp column."""
    return np.asarray(numpy(timestamps.cast(pa.int64()), np.int64) // DAY_US, np.int32)


def check_types(
    config: Config, schema: pa.Schema, where_: str, *, absent: Sequence[str] = (), labels: bool = True
) -> None:
    """Check that a source's columns have types that fit the config; columns in `absent` may be missing.

    Raises:
        SchemaError: a column of a wrong type, such as a numeric feature that is a list.
    """
    events = config.events
    wanted: list[tuple[str, str]] = [(f.column or name, f.kind) for name, f in events.features.items()]
    wanted += [(name, "label") for name in events.labels] if labels else []
    wanted += [(name, "id") for name in (events.id, events.user, events.item) if name]
    wanted += [(name, "time") for name in Columns.of(config, labels=labels).times]
    for name, kind in wanted:
        if name in absent:
            continue
        given = plain(schema.field(name).type)
        if not (pa.types.is_null(given) or _FITS[kind](given)):
            kind = _SPELLED.get(kind, kind)
            raise SchemaError(
                f"{where_}: column {name!r} has type {given}, which is no {kind}; correct tokenlake.yaml or the source"
            )


def _scalar(kind: pa.DataType) -> bool:
    return is_string(kind) or is_number(kind) or pa.types.is_temporal(kind)


def _numbers(kind: pa.DataType) -> bool:
    return is_list(kind) and (is_number(kind.value_type) or pa.types.is_null(kind.value_type))


def _instant(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


_SPELLED = {
    "label": "label (0, 1, true, false)",
    "time": "time (a timestamp, a date, an integer since 1970, or ISO 8601 text)",
    "id": "id (an integer or a string)",
}
_FITS: dict[str, Any] = {
    "categorical": _scalar,
    "multi": lambda k: (
        is_string(k) or (is_list(k) and (pa.types.is_null(k.value_type) or _scalar(plain(k.value_type))))
    ),
    "numeric": lambda k: is_string(k) or is_number(k),
    "vector": lambda k: is_string(k) or _numbers(k),
    "label": lambda k: is_string(k) or is_number(k),
    "time": lambda k: is_string(k) or (is_number(k) and not pa.types.is_boolean(k)) or _instant(k),
    "id": lambda k: is_string(k) or pa.types.is_integer(k) or pa.types.is_floating(k),
}


def _id(values: pa.Array, role: str, kind: pa.DataType, problems: Problems) -> pa.Array:
    if is_string(values.type):
        values = where(values, ~true(pc.equal(values, "")))
    problems.add(f"{role} id is missing", ~valid(values) | (_nan(values)))
    if values.type == kind:
        return values
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), kind)
    if is_string(values.type):
        whole = true(pc.match_substring_regex(values, INTEGER))
        numbers, too_big = cast_rows(where(values, whole), pa.int64())
        problems.add(f"{role} id is no integer (without leading zeros), and this lake's are", valid(values) & ~whole)
        problems.add(f"{role} id does not fit int64; use string ids", too_big)
        return numbers
    if pa.types.is_floating(values.type):
        numbers = numpy(values, np.float64, np.nan)
        whole = (numbers == np.rint(numbers)) & (np.abs(numbers) < 2**53)
        problems.add(
            f"{role} id is a fraction, or too big a number to be exact", valid(values) & ~_nan(values) & ~whole
        )
        return pa.array(np.where(whole, numbers, 0).astype(np.int64))
    if pa.types.is_uint64(values.type):
        too_big = true(pc.greater(values, pa.scalar(2**63 - 1, pa.uint64())))
        problems.add(f"{role} id does not fit int64; use string ids", too_big)
        values = where(values, ~too_big)
    return values.cast(pa.int64())


def _nan(values: pa.Array) -> Mask:
    return true(pc.is_nan(values)) if pa.types.is_floating(values.type) else np.zeros(len(values), np.bool_)


def _categorical(values: pa.Array, name: str, problems: Problems, _: int | None) -> pa.Array:
    if is_string(values.type):
        return values
    values = where(values, ~_nan(values))
    if pa.types.is_floating(values.type):  # a column of integers with holes, as pandas keeps it: 7.0 is 7
        numbers = numpy(values, np.float64)
        whole = (numbers == np.rint(numbers)) & (np.abs(numbers) < 2**53)
        integers = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
        return where(pc.if_else(pa.array(whole), integers, values.cast(pa.string())), valid(values))
    return values.cast(pa.string())


def _multi(values: pa.Array, name: str, problems: Problems, _: int | None) -> pa.Array:
    """Lists, or text like `a|b|c`; empty text is an empty list."""
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.list_(pa.string()))
    if is_string(values.type):
        lists = pc.split_pattern(values, "|")
    else:
        lists = values.cast(pa.list_(plain(values.type.value_type)))
    inner = _categorical(flat(lists.flatten()), name, problems, None)
    lengths = numpy(pc.list_value_length(lists), np.int64)
    # Empty and missing elements are dropped.
    keep = valid(inner) & ~true(pc.equal(inner, ""))
    rows = np.repeat(np.arange(len(lists)), lengths)[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(lists)))]).astype(np.int32)
    return _lists(offsets, inner.filter(pa.array(keep)), valid(lists))


def _numeric(values: pa.Array, name: str, problems: Problems, _: int | None) -> pa.Array:
    """Float64; NaN means missing, infinity is a problem."""
    numbers, bad = floats(values)
    problems.add(f"{name} is no number", bad)
    problems.add(f"{name} is infinite", true(pc.is_inf(numbers)))
    return where(numbers, ~_nan(numbers))


def _vector(values: pa.Array, name: str, problems: Problems, dim: int | None) -> pa.Array:
    lists, bad = vectors(values)
    problems.add(f"{name} is no list of numbers", bad)
    lengths, has = numpy(pc.list_value_length(lists), np.int64), valid(lists)
    if dim is not None:
        problems.add(f"{name} has another length than {dim}", has & ~bad & (lengths != dim))
    inner = lists.flatten()
    finite = numpy(pc.is_finite(inner), np.bool_, fill=False)
    rows = np.repeat(np.arange(len(lists)), lengths)
    holes = np.bincount(rows, weights=~finite, minlength=len(lists)) > 0
    problems.add(f"{name} holds NaN, infinity or a missing number", has & ~bad & holes)
    return lists


def vectors(values: pa.Array) -> tuple[pa.Array, Mask]:
    """Lists, or text like `0.1|0.2` or `[0.1, 0.2]`, as lists of float32; the mask marks text that is neither."""
    none = np.zeros(len(values), np.bool_)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), TOKEN), none
    if not is_string(values.type):
        lists = values.cast(pa.list_(values.type.value_type))
        inner = pc.cast(lists.flatten(), pa.float32(), safe=False)
        lengths = numpy(pc.list_value_length(lists), np.int64)
        return _lists(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), inner, valid(lists)), none
    lists = pc.split_pattern_regex(pc.utf8_trim(stripped(values), "[]() \t"), _SEPARATORS)
    inner, wrong = floats(flat(lists.flatten()))
    wrong |= ~valid(inner)
    lengths = numpy(pc.list_value_length(lists), np.int64)
    bad = np.bincount(np.repeat(np.arange(len(lists)), lengths), weights=wrong, minlength=len(lists)) > 0
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return _lists(offsets, pc.cast(inner, pa.float32(), safe=False), valid(lists)), bad


def _lists(offsets: NDArray[np.int32], values: pa.Array, has: Mask) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=None if has.all() else pa.array(~has))


def _binary(values: pa.Array, name: str, problems: Problems) -> pa.Array:
    """A label as int8: 0, 1, true, false, or missing."""
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.int8())
    if is_string(values.type):
        text = pc.utf8_lower(stripped(values))
        index = pc.index_in(text, pa.array(list(_LABELS)))
        numbers = pa.array(list(_LABELS.values()), pa.int8()).take(index)
        wrong = valid(text) & ~valid(numbers)
    else:
        values = where(values, ~_nan(values))
        exact = numpy(pc.cast(values, pa.float64(), safe=False), np.float64)
        wrong = valid(values) & (exact != 0) & (exact != 1)
        numbers = where(pa.array((exact == 1).astype(np.int8)), valid(values))
    problems.add(f"{name} is none of 0, 1, true, false or missing", wrong)
    return where(numbers, ~wrong)


_FEATURES: dict[str, Any] = {"categorical": _categorical, "multi": _multi, "numeric": _numeric, "vector": _vector}
