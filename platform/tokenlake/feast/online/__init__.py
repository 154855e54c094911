"""Feast's online store: memory-mapped files, token sequences and vector search."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlake.feast.online.store import TokenlakeOnlineStore, TokenlakeOnlineStoreConfig

__all__ = ["TokenlakeOnlineStore", "TokenlakeOnlineStoreConfig"]


def __getattr__(name: str) -> Any:  # loaded when asked for: the store imports Feast, which takes seconds
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.store"), name)
