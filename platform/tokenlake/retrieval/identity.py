"""`Identity`: the version, checkpoint and day of vectors, checked wherever two sets of vectors are combined."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from tokenlake.errors import VersionError
from tokenlake.times import Day


@dataclass(frozen=True, slots=True)
class Identity:
    """Version, checkpoint and day, which a day's vectors, index and graph share."""

    version: str
    checkpoint: str
    day: Day

    def __str__(self) -> str:
        return f"{self.version}, checkpoint {self.checkpoint}, day {self.day}"

    def require(self, other: Identity, what: str) -> None:
        """Check that another identity equals this one.

        Raises:
            VersionError: the identities differ; the message names `what`.
        """
        if other != self:
            raise VersionError(f"{what} is of {other}, and would meet what is of {self}; build both of one day again")

    def to_json(self) -> dict[str, str]:
        """The identity as a JSON object."""
        return {"version": self.version, "checkpoint": self.checkpoint, "day": self.day.isoformat()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Identity:
        """Create an identity from the object of `to_json`."""
        return cls(data["version"], data["checkpoint"], dt.date.fromisoformat(data["day"]))
