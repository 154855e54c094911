"""Verifies indexes and graphs: checksums of the files, and that their content equals the lake's tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenlake.errors import CorruptionError
from tokenlake.lake.project import Project
from tokenlake.retrieval import artefacts
from tokenlake.retrieval.artefacts import GRAPH, GRAPH_INFO, INDEX_INFO
from tokenlake.retrieval.graph import Graph
from tokenlake.retrieval.index import Index
from tokenlake.times import as_day

_REMEDY = "it is derived: delete the folder, and `tokenlake index LAKE DAY` makes it again"


@dataclass(frozen=True)
class CheckedDay:
    """One day's verified indexes and graph.

    Attributes:
        state: `current`, or `stale` if the day's embeddings were written again; the next build replaces it.
        edges: number of edges of the graph; None if the day has no graph.
    """

    version: str
    day: str
    state: str
    users: int
    items: int
    edges: int | None
    files: int


def verify(lake: Project) -> Iterator[CheckedDay]:
    """Verify every day's indexes, graph and rows of `edges`.

    Raises:
        CorruptionError: the first mismatch; the message names the file.
    """
    for folder in sorted((lake.data / "retrieval").glob("*/[0-9]*")):
        made = artefacts.read_info(folder / INDEX_INFO)
        if made is not None:
            yield _day(lake, folder, made)


def _day(lake: Project, folder: Path, made: dict[str, Any]) -> CheckedDay:
    _sums(folder, made["sums"])
    counts = {name: len(Index(folder / name)) for name in artefacts.NAMES}
    version, day = folder.parent.name, as_day(folder.name)
    tables = artefacts.tables(lake)
    stands = made["stamp"]["files"] == sorted(
        Path(uri).name for table in tables.values() for uri in table.uris(day=day, version=version)
    )
    if stands:
        for name, table in tables.items():
            identity, ids, vectors = artefacts.read_vectors(table, version, day)
            index = Index(folder / name)
            same = index.identity == identity and index.ids.equals(ids) and np.array_equal(index.vectors, vectors)
            if not same:
                raise CorruptionError(f"{folder / name} is not of the rows of {table.path.name} of {day}; {_REMEDY}")
    linked = artefacts.read_info(folder / GRAPH_INFO)
    edges = None if linked is None else _graph(lake, folder, linked)
    files = len(made["sums"]) + (0 if linked is None else len(linked["sums"]))
    return CheckedDay(
        version, str(day), "current" if stands else "stale", counts["users"], counts["items"], edges, files
    )


def _sums(folder: Path, sums: dict[str, str]) -> None:
    for name, expected in sums.items():
        try:
            found = artefacts.checksum(folder / name)
        except FileNotFoundError as error:
            raise CorruptionError(f"{folder / name} is missing; {_REMEDY}") from error
        if found != expected:
            raise CorruptionError(f"{folder / name} is not what was written; {_REMEDY}")


def _graph(lake: Project, folder: Path, linked: dict[str, Any]) -> int:
    _sums(folder, linked["sums"])
    graph = Graph.load(folder / GRAPH)
    stored = lake.edges.read(day=graph.identity.day, version=graph.identity.version, columns=["src", "dst", "weight"])
    keys = [("src", "ascending"), ("dst", "ascending")]
    if not stored.sort_by(keys).equals(graph.edges().cast(stored.schema).sort_by(keys)):
        raise CorruptionError(
            f"the table edges of {graph.identity.day} is not the graph of {folder / GRAPH}; {_REMEDY}"
        )
    return len(graph.targets)
