"""Tokenlake: point-in-time sequences of learned tokens, from raw events to jagged batches.

>>> import tokenlake
>>> lake = tokenlake.open("demo")                       # doctest: +SKIP
>>> batch = lake.tokens().fetch([1], before=["2017-06-01"], length=256)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlake._lake import Lake, open
    from tokenlake.lake.ingest import IngestReport
    from tokenlake.tokens.batch import TokenBatch
    from tokenlake.tokens.store import TokenStore

from tokenlake.errors import TerminalError, TokenlakeError, TransientError

# Imported on first use, so that `import tokenlake` costs milliseconds.
_LATE = {
    "IngestReport": "tokenlake.lake.ingest",
    "Lake": "tokenlake._lake",
    "TokenBatch": "tokenlake.tokens.batch",
    "TokenStore": "tokenlake.tokens.store",
    "open": "tokenlake._lake",
}

__all__ = [
    "IngestReport",
    "Lake",
    "TerminalError",
    "TokenBatch",
    "TokenStore",
    "TokenlakeError",
    "TransientError",
    "open",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'tokenlake' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
