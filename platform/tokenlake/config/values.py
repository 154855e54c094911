"""Shared value types of `tokenlake.yaml`: durations, one value or a list, strict blocks."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(value: object) -> object:
    if isinstance(value, str):
        if match := re.fullmatch(r"(\d+)\s*([smhdw])", value.strip()):
            return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})
        if not value.strip().startswith("P"):
            raise ValueError(f"{value!r} is no duration; write 30s, 30m, 12h, 7d or 2w, or ISO 8601 such as P7D")
    return value


#: A duration: `7d`, `12h`, `30m`, `30s`, `2w`, or ISO 8601.
Duration = Annotated[dt.timedelta, BeforeValidator(_duration)]


def several(value: object) -> object:
    """Turn a single value into a list of one; a list stays a list."""
    if value is None or value == "all":
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class Strict(BaseModel):
    """An immutable block that rejects unknown settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_zone(name: str) -> bool:
    """Whether this machine has a time zone of that name."""
    try:
        zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True
