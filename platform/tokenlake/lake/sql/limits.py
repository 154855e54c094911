"""What a lake's DuckDB may use: memory, disk, time and folders, and what of it a session may change."""

from __future__ import annotations

import math
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import duckdb

from tokenlake.config.sql import Sql
from tokenlake.errors import CorruptionError, ForbiddenError
from tokenlake.lake.sql.fence import Admitted
from tokenlake.lake.sql.scan import quoted

#: Settings that stay open after the others are locked; the fence admits less than these.
OPEN = ("TimeZone", "threads", "memory_limit", "enable_progress_bar", "enable_progress_bar_print")


def connect(limits: Sql, folders: frozenset[Path]) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that reads nothing outside some folders, and whose other settings are locked.

    Args:
        limits: the section `sql` of tokenlake.yaml.
        folders: real folders that it may read.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "python_enable_replacements": False,  # else a query could name any Python variable
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_persistent_secrets": False,
        "temp_directory": str(Path(tempfile.gettempdir()) / f"tokenlake-{os.getpid()}-{uuid.uuid4().hex}"),
        "memory_limit": limits.memory or f"{_half_of_memory()}B",
        "max_execution_time": math.ceil(limits.timeout.total_seconds() * 1000) if limits.timeout else 0,
    }
    if limits.threads is not None:
        config["threads"] = limits.threads
    connection = duckdb.connect(":memory:", config=config)
    connection.execute(
        f"SET max_temp_directory_size = {quoted(limits.spill)}"
    )  # as an option of connect it does not hold
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    # DuckDB guesses few rows for what a macro is asked for, and would compare each with all events of its key.
    connection.execute("SET GLOBAL asof_loop_join_threshold = 0")
    connection.execute("SET parquet_metadata_cache = true")  # footers never change: Delta only adds files
    connection.execute(f"SET allowed_directories = [{', '.join(map(quoted, sorted(folders)))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute(f"SET allowed_configs = [{', '.join(map(quoted, OPEN))}]")
    connection.execute("SET lock_configuration = true")
    return connection


def within(asked: Admitted, bounds: Sql) -> str:
    """The statement of a session as it runs: a setting is written anew, for this session, and within the bounds.

    Args:
        asked: a statement that changes a session.
        bounds: the section `sql` of tokenlake.yaml.

    Raises:
        ForbiddenError: it sets more memory or threads than the bound.
    """
    if asked.setting is None:
        return asked.text
    name, value = asked.setting
    if name == "timezone":
        return f"SET SESSION TimeZone = {quoted(value or 'UTC')}"
    if name == "threads":
        return _bounded(name, value, bounds.threads or os.cpu_count() or 1, int)
    return _bounded("memory_limit", value, bounds.memory or f"{_half_of_memory() >> 20}MiB", _bytes)


def _bounded(name: str, value: str, bound: int | str, measure: Callable[[str], int]) -> str:
    example = "a size such as 512MB" if name == "memory_limit" else "a number"
    try:
        beyond = bool(value) and not 0 < measure(value) <= measure(str(bound))
    except ValueError:
        beyond = True
    if beyond:
        key = {"memory_limit": "memory"}.get(name, name)
        raise ForbiddenError(
            f"SET {name} = {value} is not admitted: give {example} of at most {bound}; sql.{key} in tokenlake.yaml is the bound"
        )
    return f"SET {name} = {quoted(value or bound)}"


def _bytes(size: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b", size.strip().lower())
    if match is None:
        raise ValueError(f"{size!r} is no size")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " "))


def explained(error: duckdb.Error) -> str:
    """The message of an error; where a question met a bound, the key of tokenlake.yaml that raises it instead of DuckDB's advice."""
    text, key = str(error), ""
    if "tokenlake.yaml" in text:
        return text
    if isinstance(error, duckdb.OutOfMemoryException):
        key = "spill" if "max_temp_directory_size" in text else "memory"
    elif isinstance(error, duckdb.InterruptException) and "maximum execution time" in text:
        key = "timeout"
    return f"{text.splitlines()[0]}; sql.{key} in tokenlake.yaml is the bound, docs/sql.md" if key else text


def links(tables: Path) -> list[Path]:
    """The links among a lake's tables, their versions and their days.

    Args:
        tables: the folder `tables` of a lake.
    """
    return list(_links(tables, depth=3))


def folders(tables: Path, found: Iterable[Path]) -> frozenset[Path]:
    """The real folders behind a lake's tables: the folder itself, and where links lead.

    Args:
        tables: the folder `tables` of a lake.
        found: its `links`.
    """
    return frozenset({tables.resolve(), *(link.resolve() for link in found if link.is_dir())})


def check_links(found: Iterable[Path]) -> None:
    """Check that every link leads somewhere.

    Raises:
        CorruptionError: one does not; its table would lack rows.
    """
    for link in found:
        if not link.exists():
            raise CorruptionError(
                f"{link} is a link to {link.readlink()}, and nothing is there; bring the folder back, or mend the link"
            )


def _links(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            of_a_table = depth == 3 or "=" in entry.name
            if entry.is_symlink() and of_a_table:
                yield Path(entry.path)
            if depth > 1 and of_a_table and entry.is_dir():
                yield from _links(Path(entry.path), depth - 1)


def _half_of_memory() -> int:
    """Half of the machine's memory in bytes, or of this process' share where a container has one."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(text) if text.isdigit() else whole) // 2
