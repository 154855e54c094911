"""Connects to a catalog's database: drivers, pragmas, migrations, and readable errors."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.engine import URL, make_url

from tokenlake.catalog.models import HEAD
from tokenlake.errors import (
    ConfigError,
    ConflictError,
    CorruptionError,
    LockedError,
    MissingExtraError,
    StorageError,
    TerminalError,
    TokenlakeError,
    TransientError,
)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 60
#: Number of the advisory lock for migrations in Postgres, the same for all Tokenlake catalogs.
_ADVISORY_LOCK = 0x70CE_1A4E


def as_url(url_or_path: str | Path) -> URL:
    """Turn a path or URL into a URL with an installed driver.

    Raises:
        ConfigError: it is neither a path nor a URL of SQLite or Postgres.
        MissingExtraError: no driver for Postgres is installed.
    """
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return URL.create("sqlite", database=str(Path(url_or_path).expanduser().absolute()))
    try:
        url = make_url(url_or_path)
    except (sa.exc.ArgumentError, ValueError):
        # The text may hold a password: it is not repeated.
        raise ConfigError("catalog: not a SQLAlchemy URL; expected sqlite:///file or postgresql://...") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in {None, "", ":memory:"}:
            raise ConfigError("catalog: SQLite in memory is forgotten between two calls; expected sqlite:///file")
        return url
    if backend not in {"postgres", "postgresql"}:
        raise ConfigError(f"catalog: {backend!r} given; expected a path, sqlite:///file or postgresql://...")
    return url if "+" in url.drivername else url.set(drivername=f"postgresql+{_postgres_driver()}")


def _postgres_driver() -> str:
    for name in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(name):
            return name
    raise MissingExtraError("a Postgres catalog needs a driver: pip install psycopg, or 'tokenlake[airflow]'")


def connect(url: URL) -> sa.Engine:
    """Create an engine, and migrate the database if its schema is older than this code.

    Raises:
        TerminalError: the database cannot be used, or was created by a newer Tokenlake.
        TransientError: the database cannot be reached, is busy, or the disk is full or not writable.
    """
    engine = sa.create_engine(url, json_serializer=to_json)
    _leave_to_parent(engine)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _sqlite_connect)
        sa.event.listen(engine, "begin", _sqlite_begin)
    try:
        with translated(url):
            if engine.dialect.name == "sqlite":
                Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
            _migrate(engine)
    except Timeout as error:
        raise LockedError(f"catalog {url.database}: another process has been migrating it; try again") from error
    except OSError as error:
        raise StorageError(f"catalog {url.database} cannot be made: {error.strerror}") from error
    return engine


def _leave_to_parent(engine: sa.Engine) -> None:
    """Make a forked child open its own connections: those of the pool belong to the parent."""
    reference = weakref.ref(engine)

    def forget() -> None:
        if (mine := reference()) is not None:
            mine.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


def to_json(value: Any) -> str:
    """JSON that every database accepts: NaN becomes null, NumPy scalars become numbers."""
    return json.dumps(_plain(value), sort_keys=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _sqlite_connect(connection: Any, _: Any) -> None:
    connection.isolation_level = (
        None  # the driver's own transactions do not include SELECTs; `_sqlite_begin` begins ours
    )
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # A transaction that reads and then writes must take the write lock at its start, else it fails if another one wrote.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        revision = _revision(connection)
    if revision == HEAD:
        return
    with _migration_lock(engine), engine.execution_options(write=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        if _revision(connection) != HEAD:
            _upgrade(connection)


@contextmanager
def _migration_lock(engine: sa.Engine) -> Iterator[None]:
    database = engine.url.database
    if engine.dialect.name != "sqlite" or not database:
        yield
        return
    with FileLock(f"{database}.lock", timeout=BUSY_SECONDS):
        connection = engine.raw_connection()
        try:
            # The setting is stored in the file. Changing it in a new file is a race that the busy timeout does not cover.
            connection.cursor().execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        yield


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise TerminalError(
            f"the catalog's schema is {_revision(connection)!r}, unknown to this Tokenlake, whose newest is {HEAD!r}: "
            "a newer Tokenlake made it; install that one"
        ) from error


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Translate the database's errors into Tokenlake errors, without its password."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        text = scrub(str(error.orig), url)
        raise _error(f"catalog {url.render_as_string()}: {text.strip()}", text.lower()) from None


def _error(message: str, text: str) -> TokenlakeError:
    if "not a database" in text or "malformed" in text:
        return CorruptionError(f"{message}; restore it from a backup, or remove it to start a new catalog")
    if "locked" in text or "serialize" in text or "deadlock" in text:
        return ConflictError(f"{message}; another process wrote at the same time, try again")
    if any(word in text for word in ("readonly", "unable to open", "disk is full", "disk i/o")):
        return StorageError(f"{message}; check the disk's space and rights")
    if "authentication" in text or "does not exist" in text:
        return TerminalError(message)
    return TransientError(message)


def scrub(text: str, url: URL) -> str:
    """Remove the URL's password from a text."""
    return text.replace(url.password, "***") if url.password else text
