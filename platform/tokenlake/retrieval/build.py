"""Builds a day's indexes and graph from its embeddings. Only jobs call it; readers use `load`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tokenlake.lake.project import Project
from tokenlake.retrieval import artefacts
from tokenlake.retrieval.artefacts import (
    INDEX_INFO,
    NAMES,
    build_info,
    folder_of,
    graph_is_current,
    index_is_current,
    read_vectors,
)
from tokenlake.retrieval.faiss_build import build, require_faiss
from tokenlake.retrieval.index import Index, request
from tokenlake.storage import atomic
from tokenlake.storage.locks import hold
from tokenlake.times import Day

_PATIENCE = 600.0


def ensure_indexes(lake: Project, days: Iterable[Day], *, rebuild: bool = False) -> list[Day]:
    """Build the indexes of days that lack one of their present embeddings.

    Returns:
        The days for which something was built.

    Raises:
        MissingExtraError: faiss is not installed.
        NotFoundError: a day has no embeddings.
        LockedError: another process held the build lock for ten minutes.
    """
    require_faiss()
    with hold(lake.data / "locks" / "retrieval", "building indexes", timeout=_PATIENCE):
        stale = [day for day in sorted(set(days)) if rebuild or not index_is_current(lake, day)]
        _build_indexes(lake, stale)
    return stale


def ensure_graphs(lake: Project, days: Iterable[Day], *, rebuild: bool = False) -> list[Day]:
    """Build the graphs of days that lack one of their present embeddings; returns and raises as `ensure_indexes`.

    The needed indexes are built too: those of the days, and those on which the edge weights are fitted.
    """
    require_faiss()
    from tokenlake.retrieval.graph_build import build_graph, fitted_on  # imports torch, which an index does not need

    with hold(lake.data / "locks" / "retrieval", "building graphs", timeout=_PATIENCE):
        stale = [day for day in sorted(set(days)) if rebuild or not graph_is_current(lake, day)]
        needed = {day for graph in stale for day in (graph, fitted_on(lake, graph)) if day is not None}
        _build_indexes(lake, [day for day in sorted(needed) if not index_is_current(lake, day)])
        for day in stale:
            build_graph(lake, day)
    return stale


def is_current(lake: Project, day: Day) -> bool:
    """Whether a day's indexes and graph were built from its present embeddings."""
    return index_is_current(lake, day) and graph_is_current(lake, day)


def _build_indexes(lake: Project, days: Sequence[Day]) -> None:
    """Build the indexes of days in one process, then replace each day's folder, which also removes its old graph."""
    if not days:
        return
    with ExitStack() as stack:
        parts = {day: stack.enter_context(atomic.folder(folder_of(lake, day))) for day in days}
        stamps = {
            day: build_info(lake, day) for day in days
        }  # before the embeddings are read, so that a later write makes the index stale
        for day, part in parts.items():
            _request(lake, day, part)
        build([part / name for part in parts.values() for name in NAMES])
        for day, part in parts.items():
            artefacts.write_info(part / INDEX_INFO, {"stamp": stamps[day]}, (f for f in part.rglob("*") if f.is_file()))
            for name in NAMES:
                index = Index(part / name)
                artefacts.record(lake, name, index.identity, len(index), index.stats)


def _request(lake: Project, day: Day, part: Path) -> None:
    settings = lake.config.retrieval
    for name, table in artefacts.tables(lake).items():
        identity, ids, vectors = read_vectors(table, lake.config.embedding_version, day)
        request(part / name, identity, ids, vectors, neighbors=settings.neighbors, exact_below=settings.exact_below)
