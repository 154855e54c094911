"""`Index`: nearest neighbours among one day's vectors of users or items."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.errors import ConflictError, CorruptionError, NotFoundError, SchemaError
from tokenlake.retrieval.faiss_build import require_faiss
from tokenlake.retrieval.identity import Identity
from tokenlake.storage.arrays import read_arrays, write_arrays
from tokenlake.tokens.ids import query_ids


class Index:
    """Nearest neighbour search in the vectors of one day.

    >>> index = lake.index("users")                         # doctest: +SKIP
    >>> ids, cosines = index.search([7, 8], k=10)           # doctest: +SKIP

    Attributes:
        identity: version, checkpoint and day of the vectors.
        ids: Arrow array (n,) of user or item ids.
        stats: `kind` of the index, and its measured `recall@10` against an exact one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened = _inode(folder)
        arrays, header = read_arrays(folder / "ids.arrow")
        self.ids: pa.Array = arrays["ids"]
        self.identity = Identity.from_json(header)
        self.stats: dict[str, Any] = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
        self._check_same()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, float32 (n, dim), memory-mapped."""
        matrix: NDArray[np.float32] = np.load(self._file("vectors.npy"), mmap_mode="r", allow_pickle=False)
        self._check_same()
        return matrix

    @cached_property
    def knn(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and cosines of each row's nearest rows, itself included; -1 where the index found fewer."""
        near = np.load(self._file("knn.npy"), allow_pickle=False)
        cosines = np.load(self._file("cosines.npy"), allow_pickle=False)
        self._check_same()
        return near, cosines

    @cached_property
    def _faiss(self) -> Any:
        faiss = require_faiss()
        index = faiss.read_index(str(self._file("index.faiss")))
        self._check_same()
        if index.ntotal != len(self):
            raise CorruptionError(f"{self._folder} holds {index.ntotal} vectors of {len(self)} ids; delete the folder")
        on_gpu = self.stats["kind"] != "hnsw" and getattr(faiss, "get_num_gpus", int)() > 0
        return faiss.index_cpu_to_all_gpus(index) if on_gpu else index

    def _file(self, name: str) -> Path:
        self._check_same()
        return self._folder / name

    def _check_same(self) -> None:
        """Check that the folder was not built again: parts are read at first use, and all must be of one build."""
        if _inode(self._folder) != self._opened:
            raise ConflictError(
                f"{self._folder} was built again, or deleted, since it was opened; open the index again"
            )

    def places(self, ids: Any) -> NDArray[np.int64]:
        """Row of each id; -1 for an id that is not in the index, or of another type."""
        return places_of(ids, self.ids)

    def search(
        self, query: Any, k: int = 10, *, identity: Identity | None = None
    ) -> tuple[pa.Array, NDArray[np.float32]]:
        """Find the k nearest neighbours.

        Args:
            query: float32 (q, dim) vectors, or q ids of this index (whose results include the id itself).
            k: number of neighbours; fewer where the index holds fewer.
            identity: identity of the query vectors; checked if given.

        Returns:
            Ids (q * k,), row by row, and cosines (q, k).

        Raises:
            VersionError: vectors of another identity.
            SchemaError: vectors of another width.
            NotFoundError: an id that is not in the index.
        """
        rows, cosines = self.search_rows(self._vectors(query), k, identity=identity)
        return self.ids.take(pa.array(rows.ravel(), mask=rows.ravel() < 0)), cosines

    def search_rows(
        self, vectors: NDArray[np.float32], k: int, *, identity: Identity | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `search`, for vectors only: rows (q, k) of the index, -1 where it found fewer, and cosines (q, k)."""
        if identity is not None:
            self.identity.require(identity, "the query")
        if vectors.ndim != 2 or vectors.shape[1] != self.vectors.shape[1]:
            raise SchemaError(
                f"vectors of shape {vectors.shape} given; the index of {self.identity} holds {self.vectors.shape[1]} wide ones"
            )
        cosines, rows = self._faiss.search(np.ascontiguousarray(vectors, np.float32), min(k, len(self)))
        return rows, cosines

    def _vectors(self, query: Any) -> NDArray[np.float32]:
        if isinstance(query, np.ndarray) and query.dtype.kind == "f":
            return query
        rows = self.places(query)
        if (rows < 0).any():
            raise NotFoundError(f"{int((rows < 0).sum())} ids are not in the index of {self.identity}")
        return np.asarray(self.vectors[rows])


def places_of(ids: Any, among: pa.Array) -> NDArray[np.int64]:
    """Position of each id in `among`; -1 for an id that is missing, or of another type.

    Args:
        ids: what `tokens.ids.as_ids` takes; an Arrow array of the same type as `among` may hold nulls.
        among: distinct ids, int64 or string.
    """
    plain = isinstance(ids, pa.Array | pa.ChunkedArray) and ids.type == among.type
    found = pc.index_in(ids if plain else query_ids(ids, among.type), value_set=among).fill_null(-1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _inode(folder: Path) -> tuple[int, int]:
    """Device and inode of a folder; they differ between two builds, since a build replaces the folder."""
    try:
        status = folder.stat()
    except FileNotFoundError as error:
        raise ConflictError(f"{folder} is being built again, or was deleted; open the index again") from error
    return status.st_ino, status.st_ctime_ns


def request(
    folder: Path, identity: Identity, ids: pa.Array, vectors: NDArray[np.float32], *, neighbors: int, exact_below: int
) -> None:
    """Write the input files of `faiss_build` into a folder."""
    folder.mkdir(parents=True)
    np.save(folder / "vectors.npy", vectors, allow_pickle=False)
    write_arrays(folder / "ids.arrow", {"ids": ids}, identity.to_json())
    (folder / "request.json").write_text(
        json.dumps({"neighbors": neighbors, "exact_below": exact_below}), encoding="utf-8"
    )
