"""The store in a few lines of plain Python: slow, and obviously right."""

from __future__ import annotations

import copy
from typing import NamedTuple

DAY = 86_400_000_000


class Row(NamedTuple):
    user: int | str
    ts: int
    event: int
    clicked: int
    known_at: int


class Oracle:
    def __init__(self) -> None:
        self.days: dict[int, list[Row]] = {}
        self.tail: list[Row] = []

    def copy(self) -> Oracle:
        return copy.deepcopy(self)

    def write_day(self, day: int, rows: list[Row]) -> None:
        self.days[day] = rows
        keys = {(r.user, r.ts) for r in rows}
        self.tail = [r for r in self.tail if (r.user, r.ts) not in keys]

    def append(self, rows: list[Row]) -> list[Row]:
        held = {(r.user, r.ts) for day in self.days.values() for r in day}
        new = [r for r in rows if (r.user, r.ts) not in held]
        self.tail += new
        return new

    def rows(self, user: int | str) -> list[Row]:
        rows = [r for day in self.days.values() for r in day] + self.tail
        return sorted(
            (r for r in rows if r.user == user), key=lambda r: r.ts
        )  # stable: days, then tail, in input order

    def fetch(self, user: int | str, before: int, length: int, available: str = "realtime") -> list[Row]:
        until = before if available == "realtime" else before // DAY * DAY
        return [r for r in self.rows(user) if r.ts < until][-length:]

    def retain(self, days: int | None, rows: int | None) -> None:
        newest = max((day for day, held in self.days.items() if held), default=None)
        if days is not None and newest is not None:
            self.days = {day: held for day, held in self.days.items() if day > newest - days}
        if rows is not None:
            by_time = sorted((r for day in self.days.values() for r in day), key=lambda r: r.ts)
            for user in {r.user for r in by_time}:
                gone = {r.event for r in [r for r in by_time if r.user == user][:-rows]}
                self.days = {day: [r for r in held if r.event not in gone] for day, held in self.days.items()}

    def fetch_at(self, user: int | str, ts: int) -> list[Row]:
        return [r for r in self.rows(user) if r.ts == ts]

    def unmatched(self) -> int:
        return sum(r.ts // DAY in self.days for r in self.tail)
