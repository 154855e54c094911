"""Sampled negatives: what a log without labels (purchases, plays: every row a positive) is trained against."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from tokenlake.config import Config
from tokenlake.features.keys import Ints, factorize, flat
from tokenlake.lake.schema import known_at_column
from tokenlake.names import unlike
from tokenlake.times import DayLike, as_day

#: The label that such a log gets: 1 for what happened, 0 for what was sampled. See `observed_label`.
OBSERVED = "observed"
#: Share of negatives drawn evenly from all items; the others are drawn by how many events an item has.
UNIFORM = 0.5
_EVENTS = "events"
_KEPT = ("item_id", "event_id", "timestamp")
#: Place of the number of events among the columns of an `item_table`.
EVENTS_COLUMN = len(_KEPT)


def observed_label(features: Collection[str]) -> str:
    """The label of a log without any: `observed`, or with underscores behind it where a feature has its columns' names."""
    name = OBSERVED
    while name in features or known_at_column(name) in features:
        name += "_"
    return name


def item_table(config: Config, events: pa.Table, earlier: pa.Table | None = None) -> pa.Table:
    """Sum up the items of some events: what negatives are drawn from.

    Summing up all events at once, or day by day with the result so far as `earlier`, gives the same.

    Returns:
        A row per item, by item_id: the event_id and timestamp of its latest event, at `EVENTS_PLACE` its number of
        events, and the features `of: item` that it had last.
    """
    features = [name for name, feature in config.events.features.items() if feature.of == "item"]
    ones = pa.array(np.ones(events.num_rows, np.int64))
    counted = unlike(_EVENTS, features)
    rows = events.select([*_KEPT, *features]).add_column(EVENTS_COLUMN, counted, ones)
    if earlier is not None:
        rows = pa.concat_tables([earlier, rows])
    rows = rows.sort_by([("item_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
    codes, items = factorize(flat(rows["item_id"]))
    latest = np.searchsorted(codes, np.arange(len(items)), side="right") - 1
    sums = np.zeros(len(items), np.int64)
    np.add.at(sums, codes, rows.column(EVENTS_COLUMN).to_numpy())
    return rows.take(latest).set_column(EVENTS_COLUMN, counted, pa.array(sums))


def sample(events: pa.Table, n: int, seed: int, day: DayLike, *, items: pa.Table) -> pa.Table:
    """Put `n` sampled negatives beside each event of a log without labels.

    A negative is the event with another item, and that item's features; the user, the timestamp and all other
    features stay. It depends on the seed, the day, the event's id and the items, and on nothing else.

    Args:
        events: what happened; rows of the `events` table.
        n: negatives per event.
        seed: the encoder's.
        day: the events' day.
        items: what `item_table` gives for all events up to that day.

    Returns:
        The events, then their negatives, with the columns of the `observed_label`, int8, 1 or 0, and of when it is
        known, the timestamp. Negatives have no event_id. There are none where no other item was ever seen.
    """
    rows = np.repeat(np.arange(events.num_rows), n)
    key = _mixed(
        _hashed(flat(events["event_id"])) ^ np.uint64(xxhash.xxh64_intdigest(f"{seed}/{as_day(day)}".encode()))
    )
    turn = np.tile(np.arange(n, dtype=np.uint64), events.num_rows)
    own = pc.index_in(flat(events["item_id"]), value_set=flat(items["item_id"])).fill_null(-1).to_numpy()[rows]
    which, where = _uniform(key[rows], 2 * turn), _uniform(key[rows], 2 * turn + np.uint64(1))
    popularity = items.column(EVENTS_COLUMN).to_numpy()
    chosen = np.where(which < UNIFORM, _drawn(np.ones_like(popularity), own, where), _drawn(popularity, own, where))
    rows, chosen = rows[chosen >= 0], chosen[chosen >= 0]
    negatives = events.take(rows)
    for name in ("item_id", *items.column_names[EVENTS_COLUMN + 1 :]):
        column = items[name].take(pa.array(chosen))
        negatives = negatives.set_column(negatives.column_names.index(name), events.schema.field(name), column)
    nobody = pa.nulls(len(rows), events.schema.field("event_id").type)
    negatives = negatives.set_column(negatives.column_names.index("event_id"), "event_id", nobody)
    return pa.concat_tables([_labelled(events, 1), _labelled(negatives, 0)])


def _labelled(rows: pa.Table, observed: int) -> pa.Table:
    name, label = observed_label(rows.column_names), pa.array(np.full(rows.num_rows, observed, np.int8))
    return rows.append_column(name, label).append_column(known_at_column(name), rows["timestamp"])


def _drawn(weights: Ints, own: Ints, share: NDArray[np.float64]) -> Ints:
    """Draw an item by weight, for each row but its own one; -1 where there is no other."""
    ends = np.cumsum(weights)
    total = ends[-1] if len(ends) else 0
    width = np.where(own >= 0, np.append(weights, 0)[own], 0)
    start = np.where(own >= 0, np.append(ends, 0)[own] - width, total)
    place = (share * (total - width)).astype(np.int64)  # on the line without the own item
    place += np.where(place >= start, width, 0)
    return np.where(total > width, np.searchsorted(ends, place, side="right"), -1)


def _hashed(ids: pa.Array) -> NDArray[np.uint64]:
    if ids.type == pa.string():
        return np.fromiter((xxhash.xxh64_intdigest(i.encode()) for i in ids.to_pylist()), np.uint64, len(ids))
    return np.asarray(ids.to_numpy(), np.int64).view(np.uint64)


def _uniform(key: NDArray[np.uint64], turn: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Number `turn` of the stream of random numbers in [0, 1) that belongs to a key."""
    bits = _mixed(key + turn * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: neighbouring keys become unrelated ones."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
