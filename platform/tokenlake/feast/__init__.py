"""Feast's side of Tokenlake: offline and online stores, data sources. Loaded when asked for: Feast takes seconds."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlake.feast.online import TokenlakeOnlineStore, TokenlakeOnlineStoreConfig

_HOMES = {
    "TokenlakeOnlineStore": "online",
    "TokenlakeOnlineStoreConfig": "online",
}
__all__ = ["TokenlakeOnlineStore", "TokenlakeOnlineStoreConfig"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"tokenlake.feast.{_HOMES[name]}"), name)
