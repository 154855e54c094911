"""Nearest entities of a vector: by the lake's FAISS index if it holds the same vectors, else by exact search."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from feast import FeatureView, Field
from feast.value_type import ValueType
from numpy.typing import NDArray

from tokenlake.errors import MissingExtraError, NotFoundError, SchemaError
from tokenlake.feast.online import wire
from tokenlake.feast.online.files import OnlineRows
from tokenlake.feast.online.table import OnlineTable, reduce
from tokenlake.feast.sources import LakeSource
from tokenlake.lake.project import Project
from tokenlake.retrieval.index import Index
from tokenlake.retrieval.load import load_index

Floats = NDArray[np.float32]
#: Table of the lake -> name of its index.
INDEXES = {"user_embeddings": "users", "item_embeddings": "items"}
_METRICS = {
    "cosine": "cosine",
    "l2": "l2",
    "euclidean": "l2",
    "inner_product": "dot",
    "ip": "dot",
    "dot": "dot",
}
#: Seconds after which a reader checks for a newer index.
_INDEX_S = 1.0


def metric_of(name: str | None) -> str:
    """Tokenlake's name of one of Feast's distance metrics.

    Raises:
        SchemaError: an unknown metric.
    """
    if (found := _METRICS.get((name or "L2").lower())) is None:
        raise SchemaError(f"distance_metric={name!r}; expected one of {sorted(_METRICS)}")
    return found


def vector_field(view: FeatureView) -> Field:
    """The feature that holds the vectors: the one with `vector_index`, or the only Array(Float32).

    Raises:
        SchemaError: there is none, or more than one.
    """
    marked = [field for field in view.features if field.vector_index]
    found = marked or [f for f in view.features if f.dtype.to_value_type() == ValueType.FLOAT_LIST]
    if len(found) != 1:
        names = [field.name for field in found]
        raise SchemaError(f"view {view.name!r} has the vector features {names}; expected one, by vector_index=True")
    return found[0]


def distances(vectors: Floats, query: Floats, metric: str) -> Floats:
    """(n,) distances, smaller is nearer: 1 - cosine, Euclidean, or the negative inner product."""
    if metric == "l2":
        return np.asarray(np.sqrt(((vectors - query) ** 2).sum(axis=1)), np.float32)
    products: Floats = vectors @ query
    if metric == "dot":
        return -products
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.asarray(1 - products / np.where(norms > 0, norms, 1), np.float32)


class Vectors:
    """The vectors of one table as a matrix; computed again when the table changes."""

    def __init__(self) -> None:
        self._made: tuple[OnlineRows, str, pa.LargeBinaryArray, Floats] | None = None

    def of(self, table: OnlineTable, feature: str) -> tuple[pa.LargeBinaryArray, Floats]:
        """Keys (n,) and vectors (n, dim) of all entities with a vector.

        Raises:
            SchemaError: vectors of different widths.
        """
        rows = table.rows()
        if rows is None or feature not in rows.values:
            return pa.array([], pa.large_binary()), np.empty((0, 0), np.float32)
        if self._made is None or self._made[0] is not rows or self._made[1] != feature:
            self._made = (rows, feature, *_matrix(rows, feature))
        return self._made[2:]


def _matrix(rows: OnlineRows, feature: str) -> tuple[pa.LargeBinaryArray, Floats]:
    column = rows.values[feature]
    said = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    newest = reduce(OnlineRows(rows.keys, rows.event, rows.created, {feature: column}).take(said))
    column = newest.values[feature]
    full = np.flatnonzero(np.diff(wire.ends_of(column)) > 0)
    keys, column = newest.keys.take(pa.array(full)), column.take(pa.array(full))
    sizes = np.diff(wire.ends_of(column))
    if len(sizes) and (sizes != sizes[0]).any():
        raise SchemaError(f"feature {feature!r} holds vectors of different widths; write them all with one")
    return keys, floats_of(column)


def floats_of(column: pa.LargeBinaryArray) -> Floats:
    """The values of float lists of equal width, (n, dim)."""
    if not len(column):
        return np.empty((0, 0), np.float32)
    size = int(np.diff(wire.ends_of(column))[0])
    prefix = wire.packed_list(wire.FIELDS["FLOAT_LIST"])
    head = next(n for n in range(size) if not (size - n) % 4 and len(prefix(size - n)) == n)
    return np.ascontiguousarray(wire.rows_of(column, size)[:, head:]).view(np.float32)


class LakeIndex:
    """The FAISS indexes of one lake, kept open."""

    def __init__(self, lake: Path) -> None:
        self._lake = Project.open(lake)
        self._open: dict[str, tuple[float, Index | None]] = {}

    def near(self, source: LakeSource, query: Floats, count: int) -> tuple[pa.Array, Floats] | None:
        """Ids and vectors of the nearest; None if there is no index of these vectors.

        For unit vectors the order by cosine, by Euclidean distance and by inner product is the same.
        """
        index = self._index(INDEXES[source.table]) if source.table in INDEXES else None
        if index is None or index.vectors.shape[1] != len(query):
            return None
        if source.version not in (None, index.identity.version):
            return None
        norm = float(np.linalg.norm(query))
        rows, _ = index.search_rows((query / norm if norm else query)[None], count)
        there = rows[0][rows[0] >= 0]
        return index.ids.take(pa.array(there)), np.asarray(index.vectors[there])

    def _index(self, name: str) -> Index | None:
        now = time.monotonic()
        since, index = self._open.get(name, (-np.inf, None))
        if now - since > _INDEX_S:
            try:
                index = load_index(self._lake, name)
            except (NotFoundError, MissingExtraError):
                index = None
            self._open[name] = (now, index)
        return index


def nearest(keys: pa.LargeBinaryArray, distance: Floats, count: int) -> list[tuple[bytes, float]]:
    """Keys and distances of the nearest, nearest first."""
    best = np.argsort(distance, kind="stable")[:count]
    return list(zip(keys.take(pa.array(best)).to_pylist(), distance[best].tolist(), strict=True))
