"""From rows of `events` to the contributions of a stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tokenlake.errors import SchemaError
from tokenlake.features.aggregations.hashing import keys_of
from tokenlake.features.aggregations.streams import CountStream
from tokenlake.features.keys import Ints
from tokenlake.features.label_maturity import event_labels, passes_from
from tokenlake.times import NEVER, as_micros

#: Values are below this many units: up to here every whole number is a float64.
_LARGEST = 2.0**52


@dataclass(frozen=True)
class Contributions:
    """Contributions of events to a stream, in any order.

    Attributes:
        keys: int64 (n,), raw keys.
        known_from: int64 (n,), the instants (us) after which each is seen; at or after the event's own.
        timestamps: int64 (n,), the instants (us) of the events.
        values: int64 (n,), in units; ones where the stream has no values.
        event_ids: (n,), int64 or string, where the stream is ordered.
    """

    keys: Ints
    known_from: Ints
    timestamps: Ints
    values: Ints
    event_ids: pa.Array | None


def contributions(stream: CountStream, events: pa.Table) -> Contributions:
    """What events contribute to a stream, each once a key.

    Raises:
        SchemaError: a value of the numeric feature is too large for its unit.
    """
    timestamps, known_from, values = facts(stream, events)
    rows, keys = keys_of(events, stream.by)
    seen = known_from[rows] < NEVER
    rows, keys = rows[seen], keys[seen]
    ids = events["event_id"].combine_chunks().take(pa.array(rows)) if stream.ordered else None
    return Contributions(keys, known_from[rows], timestamps[rows], values[rows], ids)


def facts(stream: CountStream, events: pa.Table) -> tuple[Ints, Ints, Ints]:
    """What n events contribute to a stream, whatever their keys.

    Returns:
        int64 (n,) each: the instants (us) of the events; those from which each is seen, NEVER where it contributes
        nothing; and the values, in units.

    Raises:
        SchemaError: a value of the numeric feature is too large for its unit.
    """
    timestamps = np.array(as_micros(events["timestamp"], "timestamp"))
    known_from = passes_from(stream.where, events, timestamps, lambda name: event_labels(events, name, timestamps))
    values = np.ones(len(timestamps), np.int64)
    if stream.label is not None:
        label = event_labels(events, stream.label, timestamps)
        known_from = np.where(label.matures, np.maximum(known_from, label.known_from), NEVER)
        values = label.positive.astype(np.int64)
        if stream.positives:
            known_from = np.where(label.positive, known_from, NEVER)
    if stream.numeric is not None:
        values, there = _in_units(stream.numeric, events[stream.numeric], stream.unit)
        known_from = np.where(there, known_from, NEVER)
    return timestamps, known_from, values


def _in_units(
    name: str, column: pa.ChunkedArray, unit: float
) -> tuple[Ints, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    numbers = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
    there = np.isfinite(numbers)
    scaled = np.rint(np.where(there, numbers, 0.0) / unit)
    if (large := np.abs(scaled) >= _LARGEST).any():
        raise SchemaError(
            f"{name}: {numbers[large][0]!r} is more than {_LARGEST * unit:g}, the largest value at unit {unit:g}; give "
            f"the definitions of it a larger `unit`, such as `of: {{numeric: {name}, unit: 1}}`"
        )
    return scaled.astype(np.int64), there
