"""Reading time columns: the unit of integers, the time zone of text, and the check that instants are plausible.

A `TimeReader` decides once for one column of one source, before any row is read, so that the result for a row never
depends on the rows before it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.config import Events
from tokenlake.errors import SchemaError
from tokenlake.reading.arrays import Mask, cast_rows, flat, floats, numpy, stripped, true, valid, where
from tokenlake.reading.kinds import is_string
from tokenlake.reading.times import as_instants, in_zone, is_instant
from tokenlake.times import DAY_US, day_start

#: Microseconds of each unit; only nanoseconds are a fraction.
UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_INTEGER = r"^[+-]?\d{1,19}$"
_DECIMAL = r"^[+-]?\d{1,19}(\.\d*)?$"
_ISO = r"^\d{4}-\d\d-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?$"
_ZONED = r"[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"
_YEAR_US = 365 * DAY_US
#: The last instant of int64 nanoseconds: overflows and missing values are mapped to it.
_END_OF_NS = 9_223_372_036_854_775


@dataclass
class TimeReader:
    """Reads one time column of one source."""

    name: str
    low: int
    high: int
    timezone: str
    unit: str | None = None
    #: Rows plausible in each unit, and rows of text with and without a zone, seen so far.
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*UNITS, "zoned", "naive", "digits"), 0))
    zone_given: bool = False

    @classmethod
    def of(cls, events: Events, name: str) -> TimeReader:
        """A reader with the settings of the config."""
        return cls(
            name=name,
            low=day_start(events.earliest),
            high=day_start(events.latest) + DAY_US,
            timezone=events.timezone,
            unit=events.unit,
            zone_given="timezone" in events.model_fields_set,
        )

    def observe(self, columns: Iterable[pa.Array]) -> None:
        """Count the plausible units and the text formats of some chunks of the column."""
        for column in columns:
            column = flat(column)
            if is_string(column.type):
                text = stripped(column)
                zoned = true(pc.match_substring_regex(text, _ZONED))
                iso = true(pc.match_substring_regex(text, _ISO))
                self.counts["zoned"] += int((zoned & iso).sum())
                self.counts["naive"] += int((iso & ~zoned).sum())
                column = where(text, true(pc.match_substring_regex(text, _DECIMAL)))
            values = numpy(floats(column)[0], np.float64, np.nan)
            self.counts["digits"] += int(np.isfinite(values).sum())
            for unit in UNITS:
                self.counts[unit] += int(self._plausible(values, unit).sum())

    def settle(self) -> None:
        """Choose the unit after `observe` has seen the whole column: the one in which most rows are plausible."""
        if self.unit is None:
            first, second = sorted(UNITS, key=lambda u: -self.counts[u])[:2]
            self.unit = first if self.counts[first] > self.counts[second] else None

    @property
    def note(self) -> str | None:
        """A sentence about what was inferred, for a dry run; None where nothing was."""
        if not self.counts["digits"]:
            return None
        return f"{self.name}: integers read as {_NAMES[self.unit]}" if self.unit else f"{self.name}: unit in doubt"

    @property
    def mixed(self) -> bool:
        """Whether the column has text both with and without a zone, and the config does not say which zone is meant."""
        return bool(self.counts["zoned"] and self.counts["naive"] and not self.zone_given)

    def read(self, column: pa.Array) -> tuple[NDArray[np.int64], Mask, dict[str, Mask]]:
        """Read a batch.

        Returns:
            Microseconds UTC, a mask of the rows that have a value, and for each reason a mask of the bad rows.
        """
        column = flat(column)
        kind = column.type
        if is_string(kind):
            return self._text(column)
        if is_instant(kind):
            return self._checked(*self._instants(column))
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return self._digits(column)
        if pa.types.is_null(kind):
            return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_), {}
        raise SchemaError(f"column {self.name!r} of type {kind} is no time")

    def _instants(self, column: pa.Array) -> tuple[NDArray[np.int64], Mask]:
        """Microseconds of timestamps and dates; those without a zone are in the reader's `timezone`."""
        micros, has = as_instants(column)
        aware = pa.types.is_timestamp(column.type) and column.type.tz
        return micros if aware else in_zone(micros, self.timezone), has

    def _text(self, column: pa.Array) -> tuple[NDArray[np.int64], Mask, dict[str, Mask]]:
        text = stripped(column)
        has, digits = valid(text), true(pc.match_substring_regex(text, _DECIMAL))
        iso = true(pc.match_substring_regex(text, _ISO))
        zoned = iso & true(pc.match_substring_regex(text, _ZONED))
        micros = np.zeros(len(text), np.int64)
        wrong = has & ~digits & ~iso
        problems: dict[str, Mask] = {}
        if digits.any():
            micros, _, problems = self._digits(where(text, digits))
        text = pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1")
        for rows, kind in ((zoned, pa.timestamp("us", "UTC")), (iso & ~zoned, pa.timestamp("us"))):
            if rows.any():
                parsed, bad = cast_rows(where(text, rows), kind)
                values, _ = self._instants(parsed)
                micros = np.where(rows, values, micros)
                wrong |= bad
        good = iso & ~wrong
        problems |= self._believable(micros, good)
        if wrong.any():
            problems[f"{self.name} is no ISO 8601 time"] = wrong
        if self.mixed and (naive := good & ~zoned).any():
            problems[f"{self.name} has no time zone while other rows have one; set events.timezone"] = naive
        return micros, has, problems

    def _digits(self, column: pa.Array) -> tuple[NDArray[np.int64], Mask, dict[str, Mask]]:
        """Integers as numbers of the unit since 1970."""
        values = floats(column)[0]
        exact = numpy(values, np.float64, np.nan)
        has = ~np.isnan(exact)
        if self.unit is None:
            doubt = f"{self.name}: the unit of integer times is in doubt; set events.unit to s, ms, us or ns"
            return np.zeros(len(column), np.int64), has, {doubt: has} if has.any() else {}
        scale = UNITS[self.unit]
        fits = has & (np.abs(exact) < np.iinfo(np.int64).max / max(scale, 1.0) / 1.01)
        micros = np.where(fits, 0, np.where(exact > 0, np.iinfo(np.int64).max, np.iinfo(np.int64).min))
        micros[fits] = self._exact(column, values, fits, self.unit)
        problems = {}
        for unit in UNITS.keys() - {self.unit}:
            other = has & self._plausible(exact, unit) & ~self._plausible(exact, self.unit)
            if other.any():
                problems[f"{self.name} looks like {_NAMES[unit]}, and is read as {_NAMES[self.unit]}"] = other
        explained = np.logical_or.reduce([np.zeros_like(has), *problems.values()])
        return micros, has, problems | self._believable(micros, has & ~explained)

    @staticmethod
    def _exact(column: pa.Array, values: pa.Array, fits: Mask, unit: str) -> NDArray[np.int64]:
        """Microseconds computed in integers: float64 would round nanoseconds."""
        scale = UNITS[unit]
        whole = pa.types.is_integer(column.type) or (
            is_string(column.type) and bool(pc.all(pc.match_substring_regex(column, _INTEGER)).as_py())
        )
        if not whole:
            return np.asarray(np.rint(numpy(values, np.float64)[fits] * scale), np.int64)
        integers = numpy(cast_rows(where(column, fits), pa.int64())[0], np.int64)[fits]
        return integers // 1_000 if unit == "ns" else integers * int(scale)

    def _plausible(self, values: NDArray[np.float64], unit: str) -> Mask:
        scale = UNITS[unit]
        with np.errstate(invalid="ignore"):
            return np.asarray((values >= self.low / scale) & (values < self.high / scale), np.bool_)

    def _checked(self, micros: NDArray[np.int64], has: Mask) -> tuple[NDArray[np.int64], Mask, dict[str, Mask]]:
        return micros, has, self._believable(micros, has)

    def _believable(self, micros: NDArray[np.int64], rows: Mask) -> dict[str, Mask]:
        """For each reason a mask of the instants outside the plausible range."""
        early, late = rows & (micros < self.low), rows & (micros >= self.high)
        if not (early.any() or late.any()):
            return {}
        first = early & (micros >= 0) & (micros < _YEAR_US)
        end = late & (np.abs(micros - _END_OF_NS) < DAY_US)
        low = dt.datetime.fromtimestamp(self.low // 1_000_000, dt.UTC).date()
        high = dt.datetime.fromtimestamp(self.high // 1_000_000 - 1, dt.UTC).date()
        reasons = {
            f"{self.name} is in 1970: a missing value, or the wrong events.unit": first,
            f"{self.name} is in April 2262, where nanoseconds end: an overflow or a missing value": end,
            f"{self.name} is before events.earliest ({low})": early & ~first,
            f"{self.name} is after events.latest ({high})": late & ~end,
        }
        return {reason: mask for reason, mask in reasons.items() if mask.any()}
