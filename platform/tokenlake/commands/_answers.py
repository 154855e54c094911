"""Output of commands for programs: JSON (docs/cli.md)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import math
from typing import Any

import click
import numpy as np

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document (docs/cli.md).")


def print_json(answer: object) -> None:
    """Print the JSON document of a command in UTF-8, whatever the terminal's encoding."""
    text = json.dumps(plain(answer), indent=2, ensure_ascii=False, allow_nan=False)
    # A path that is not valid UTF-8 has lone surrogates, which JSON writes as `\udcff`.
    click.echo(text.encode("utf-8", "backslashreplace"))


def plain(value: Any) -> Any:
    """Convert a value to JSON types.

    Dataclasses become objects; NumPy values become Python values; instants become ISO 8601 with microseconds, in UTC if
    they have a zone; decimals become integers if they have no fraction, else floats; NaN and infinities become null; all
    other values, such as days and paths, become strings.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case dt.datetime():
            utc = value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
            return utc if value.tzinfo else value.isoformat(timespec="microseconds")
        case decimal.Decimal():
            return int(value) if value.as_tuple().exponent == 0 else plain(float(value))
        case bytes():
            return _text(value)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


def _text(value: bytes) -> str:
    r"""Bytes that are UTF-8 as text; else ASCII, with `\xff` for other bytes and quotes, as answers of SQL have them."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "".join(chr(each) if 32 <= each < 127 and each not in b"\"'\\" else f"\\x{each:02x}" for each in value)
