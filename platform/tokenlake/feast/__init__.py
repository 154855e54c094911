"""Plug-ins for Feast: an offline store, an online store, and data sources of the lake (docs/feast-stores.md).

Names are imported at their first use, since `import feast` takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlake.feast.engine import TokenlakeComputeEngine, TokenlakeComputeEngineConfig
    from tokenlake.feast.offline.store import TokenlakeOfflineStore, TokenlakeOfflineStoreConfig
    from tokenlake.feast.online.store import TokenlakeOnlineStore, TokenlakeOnlineStoreConfig
    from tokenlake.feast.sequences import token_batch
    from tokenlake.feast.sources import LakeSource, TokenSource

_MODULES = {
    "LakeSource": "sources",
    "TokenSource": "sources",
    "TokenlakeComputeEngine": "engine",
    "TokenlakeComputeEngineConfig": "engine",
    "TokenlakeOfflineStore": "offline",
    "TokenlakeOfflineStoreConfig": "offline",
    "TokenlakeOnlineStore": "online",
    "TokenlakeOnlineStoreConfig": "online",
    "token_batch": "sequences",
}

__all__ = [
    "LakeSource",
    "TokenSource",
    "TokenlakeComputeEngine",
    "TokenlakeComputeEngineConfig",
    "TokenlakeOfflineStore",
    "TokenlakeOfflineStoreConfig",
    "TokenlakeOnlineStore",
    "TokenlakeOnlineStoreConfig",
    "token_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
