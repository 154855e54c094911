"""Feast's offline store on files, Delta tables and token stores: point-in-time joins."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlake.feast.offline.store import TokenlakeOfflineStore, TokenlakeOfflineStoreConfig

__all__ = ["TokenlakeOfflineStore", "TokenlakeOfflineStoreConfig"]


def __getattr__(name: str) -> Any:  # imported at first use: the store imports Feast, which takes seconds
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.store"), name)
