"""Translates errors of Feast, its stores and a repository's code into Tokenlake errors: terminal or transient."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feast.errors import FeastError

from tokenlake.errors import (
    ConfigError,
    ServiceError,
    TokenlakeError,
    missing_extra,
    storage_error,
)
from tokenlake.feast.repository import STORE_FILE


@contextmanager
def in_our_words(repo: Path) -> Iterator[None]:
    """Translate exceptions of the block into Tokenlake errors.

    Args:
        repo: folder of the `feature_store.yaml`.

    Raises:
        ServiceError: the registry, the online store or another service does not answer; it can be tried again.
        StorageError: the disk is full or not writable.
        ConfigError: any other error of Feast, or of the repository's code such as a transformation.
    """
    try:
        yield
    except Exception as error:
        ours = _ours(error, repo)
        if ours is error:
            raise
        raise ours from error


def _ours(error: Exception, repo: Path) -> TokenlakeError:
    if isinstance(error, TokenlakeError):
        return error
    kind = type(error).__name__
    if _is_away(error):
        return ServiceError(
            f"the registry or the online store of {repo / STORE_FILE} does not answer ({kind}); start it, or correct its "
            "address there. A lake that was moved has its registry's path of before"
        )
    if isinstance(error, FeastError):
        return ConfigError(f"Feast refuses {repo}: {error}")
    if isinstance(error, ModuleNotFoundError) and (extra := missing_extra(error)) is not None:
        return extra
    if isinstance(error, OSError):
        return storage_error(error)
    return ConfigError(
        f"Feast, or code of {repo}, failed ({kind}: {error}); correct the definition, or the data it reads"
    )


def _is_away(error: Exception) -> bool:
    """Whether the error means that a service does not answer."""
    import redis.exceptions
    import sqlalchemy.exc

    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorname != "SQLITE_ERROR"  # that code means a wrong statement, such as a missing table
    kinds = (sqlalchemy.exc.OperationalError, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
    return isinstance(error, (*kinds, ConnectionError, TimeoutError))
