"""A lake with only what ingest needs: tables, and a catalog that remembers what it was told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenlake.config import Config
from tokenlake.lake.tables import Table, open_tables


@dataclass
class FakeCatalog:
    published: set[dt.date] = field(default_factory=set)
    marked: list[dt.date] = field(default_factory=list)

    def is_published(self, day: dt.date) -> bool:
        return day in self.published

    def mark_rerun(self, days: Iterable[dt.date], reason: str) -> None:
        assert reason
        self.marked += list(days)


class FakeLake:
    def __init__(self, data: Path, events: dict[str, Any] | None = None) -> None:
        self.data = data
        self.config = Config(events=events or {})
        self.catalog = FakeCatalog()
        self.tables = open_tables(self)

    @property
    def events(self) -> Table:
        return self.tables["events"]

    @property
    def quarantine(self) -> Table:
        return self.tables["quarantine"]

    def rows(self) -> list[dict[str, Any]]:
        """Events without `ingested_at`, in an order of their own."""
        table = self.events.read().drop_columns(["ingested_at"])
        return sorted(table.to_pylist(), key=repr)

    def reasons(self) -> list[str]:
        table = self.quarantine.read().sort_by([("source", "ascending"), ("row_number", "ascending")])
        reasons: list[str] = table["reason"].to_pylist()
        return reasons
