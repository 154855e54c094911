"""Folders of a day's indexes and graph, their build info, and the check that they are current.

A day's folder holds `users/`, `items/` and `made.json`, then `graph.arrow` and `graph.json`. The two JSON files are
written last: each holds the build info (the identity of the files' source) and the checksum of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.catalog import IndexVersion
from tokenlake.errors import CorruptionError, NotFoundError
from tokenlake.features.vectors import token_matrix
from tokenlake.lake.project import Project
from tokenlake.lake.tables import Table
from tokenlake.retrieval.identity import Identity
from tokenlake.storage import atomic
from tokenlake.times import Day

NAMES = ("users", "items")
INDEX_INFO, GRAPH, GRAPH_INFO = "made.json", "graph.arrow", "graph.json"
_CHUNK = 1 << 20
BuildInfo: TypeAlias = dict[str, Any]


def folder_of(lake: Project, day: Day) -> Path:
    """Folder of a day's indexes and graph."""
    return lake.data / "retrieval" / lake.config.embedding_version / day.isoformat()


def tables(lake: Project) -> dict[str, Table]:
    """Index name -> the table of embeddings that it is built from."""
    return {"users": lake.user_embeddings, "items": lake.item_embeddings}


def build_info(lake: Project, day: Day) -> BuildInfo:
    """The identity of a build's source: changes whenever the day's embeddings or the settings change."""
    version = lake.config.embedding_version
    return {
        "files": sorted(Path(u).name for t in tables(lake).values() for u in t.uris(day=day, version=version)),
        "settings": lake.config.retrieval.model_dump(mode="json"),
    }


def index_is_current(lake: Project, day: Day) -> bool:
    """Whether a day's indexes were built from its present embeddings."""
    return _current_info(folder_of(lake, day) / INDEX_INFO, build_info(lake, day)) is not None


def graph_is_current(lake: Project, day: Day) -> bool:
    """Whether a day's graph was built from its present embeddings, and its rows of `edges` exist."""
    made = _current_info(folder_of(lake, day) / GRAPH_INFO, build_info(lake, day))
    return made is not None and made["edges"] == lake.edges.count(day=day, version=lake.config.embedding_version)


def index_is_published(lake: Project, day: Day) -> bool:
    """Whether a day's indexes are complete, even if they were built from earlier embeddings."""
    return _complete_info(folder_of(lake, day) / INDEX_INFO) is not None


def graph_is_published(lake: Project, day: Day) -> bool:
    """Whether a day's graph is complete, even if it was built from earlier embeddings."""
    return _complete_info(folder_of(lake, day) / GRAPH_INFO) is not None


def _current_info(path: Path, of: BuildInfo) -> BuildInfo | None:
    """The build info in a file, if it equals `of` and every file that it names exists; else None."""
    made = _complete_info(path)
    return made if made is not None and made["stamp"] == of else None


def _complete_info(path: Path) -> BuildInfo | None:
    """The build info in a file, if every file that it names exists; else None."""
    made = read_info(path)
    return made if made is not None and all((path.parent / name).exists() for name in made["sums"]) else None


def read_info(path: Path) -> BuildInfo | None:
    """Read a `made.json` or `graph.json`; None where it is missing or incomplete."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return made if isinstance(made, dict) and "stamp" in made and "sums" in made else None


def write_info(path: Path, content: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Write a `made.json` or `graph.json` with the files' checksums, atomically."""
    sums = {str(file.relative_to(path.parent)): checksum(file) for file in sorted(files)}
    atomic.write(path, json.dumps({**content, "sums": sums}))


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def record(lake: Project, name: str, identity: Identity, rows: int, stats: Mapping[str, object]) -> None:
    """Record an index or graph in the catalog."""
    path = str(folder_of(lake, identity.day))
    lake.catalog.add_index(
        IndexVersion(name, identity.version, identity.checkpoint, identity.day, path, rows, stats=stats)
    )


def read_vectors(table: Table, version: str, day: Day) -> tuple[Identity, pa.Array, NDArray[np.float32]]:
    """Read a day's vectors, sorted by id: their identity, ids and values.

    Raises:
        NotFoundError: the day has no vectors.
        CorruptionError: the vectors come from more than one checkpoint.
    """
    rows = table.read(day=day, version=version)
    if not rows.num_rows:
        raise NotFoundError(f"{table.path.name} has no rows of {day}; `tokenlake run {day}` makes them")
    rows = rows.sort_by(rows.schema.names[0])
    made_by = rows["checkpoint"].unique().to_pylist()
    if len(made_by) > 1:
        raise CorruptionError(f"{table.path.name} of {day} is of the checkpoints {made_by}; run that day again")
    identity = Identity(version, made_by[0], day)
    return identity, rows[rows.schema.names[0]].combine_chunks(), np.ascontiguousarray(token_matrix(rows["embedding"]))
