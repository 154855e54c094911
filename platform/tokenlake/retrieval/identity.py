"""Which encoder, checkpoint and day vectors are of: checked wherever two of them meet."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from tokenlake.errors import VersionError
from tokenlake.times import Day


@dataclass(frozen=True, slots=True)
class Identity:
    """What one day's vectors, index and graph share."""

    version: str
    checkpoint: str
    day: Day

    def __str__(self) -> str:
        return f"{self.version}, checkpoint {self.checkpoint}, day {self.day}"

    def require(self, other: Identity, what: str) -> None:
        """Check that something of another origin may be used together with this.

        Raises:
            VersionError: it may not.
        """
        if other != self:
            raise VersionError(f"{what} is of {other}, and would meet what is of {self}; build both of one day again")

    def to_json(self) -> dict[str, str]:
        """As JSON can say it."""
        return {"version": self.version, "checkpoint": self.checkpoint, "day": self.day.isoformat()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Identity:
        """Read what `to_json` made."""
        return cls(data["version"], data["checkpoint"], dt.date.fromisoformat(data["day"]))
