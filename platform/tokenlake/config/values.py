"""What the blocks of `tokenlake.yaml` share: durations, one-or-several, and strictness."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(value: object) -> object:
    if isinstance(value, str):
        if match := re.fullmatch(r"(\d+)\s*([mhdw])", value.strip()):
            return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})
        if not value.strip().startswith("P"):
            raise ValueError(f"{value!r} is no duration; write 30m, 12h, 7d or 2w, or ISO 8601 such as P7D")
    return value


#: `7d`, `12h`, `30m`, `2w`, or ISO 8601.
Duration = Annotated[dt.timedelta, BeforeValidator(_duration)]


def several(value: object) -> object:
    """One of something, or a list of it."""
    if value is None or value == "all":
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Strict(BaseModel):
    """A block that refuses settings it does not know, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_zone(name: str) -> bool:
    """Whether a time zone of that name is known."""
    try:
        zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True
