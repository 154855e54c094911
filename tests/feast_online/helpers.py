"""An obvious table to compare with, and rows to write."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tokenlake.feast.online.files import OnlineRows
from tokenlake.feast.online.table import KeyValues
from tokenlake.times import EARLIEST

#: Key, event time, created time, values by feature.
Write = tuple[bytes, int, int | None, dict[str, bytes]]


def rows(writes: Iterable[Write], names: Iterable[str] = ("x", "y")) -> OnlineRows:
    found = list(writes)
    return OnlineRows(
        pa.array([w[0] for w in found], pa.large_binary()),
        np.array([w[1] for w in found], np.int64),
        np.array([EARLIEST if w[2] is None else w[2] for w in found], np.int64),
        {name: pa.array([w[3].get(name) for w in found], pa.large_binary()) for name in names},
    )


@dataclass
class Oracle:
    """A dict of the newest value of each key and feature."""

    held: dict[bytes, dict[str, tuple[int, int, bytes]]] = field(default_factory=dict)

    def copy(self) -> Oracle:
        return Oracle({key: dict(values) for key, values in self.held.items()})

    def write(self, writes: Iterable[Write]) -> None:
        for key, event, created, values in writes:
            made = EARLIEST if created is None else created
            own = self.held.setdefault(key, {})
            for name, value in values.items():
                if name not in own or own[name][:2] <= (event, made):
                    own[name] = (event, made, value)

    def read(self, key: bytes, names: Iterable[str]) -> KeyValues | None:
        own = self.held.get(key)
        if not own:
            return None
        return KeyValues(max(event for event, _, _ in own.values()), {n: (own[n][2],) for n in names if n in own})
