"""Builds FAISS indexes in a separate process: `python -m tokenlake.retrieval.faiss_build FOLDER...`.

A fork of a process that used OpenMP hangs in faiss, and a build should not use a server's threads, so faiss never runs
in the caller's process. Each folder holds `vectors.npy` and `request.json`; the build adds `index.faiss`, `knn.npy`,
`cosines.npy` and `stats.json`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import MissingExtraError, StorageError, TrainingError

#: Number of vectors from which IVF replaces HNSW, whose links take much memory.
IVF_FROM = 1_000_000
_SAMPLE = 1000
_RECALL_AT = 10
#: Exit status for an error that the same input causes again.
_REFUSED = os.EX_DATAERR


def build(folders: Sequence[Path]) -> None:
    """Build the index of every folder, in one new process.

    Raises:
        MissingExtraError: faiss is not installed.
        TrainingError: an index of these vectors cannot be built.
        StorageError: the disk or the memory is full, or the process was killed.
    """
    require_faiss()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "tokenlake.retrieval.faiss_build", *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # our own module
    if done.returncode:
        failure = f"building {folders[0]} and {len(folders) - 1} more failed (exit status {done.returncode}):\n{done.stderr[-2000:]}"
        if done.returncode == _REFUSED:
            raise TrainingError(f"{failure}\nThe same vectors fail again: look there for what is wrong with them")
        raise StorageError(f"{failure}\nCheck the disk's space and rights, and the memory, then try again")


def require_faiss() -> Any:
    """Import faiss.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(
            "faiss is not installed; `pip install 'tokenlake[cpu]'` (or `[gpu]`) brings it"
        ) from error
    return faiss


def kind_of(rows: int, exact_below: int) -> str:
    """The kind of index for so many vectors: `flat`, `hnsw` or `ivf`."""
    if rows <= exact_below:
        return "flat"
    return "hnsw" if rows < IVF_FROM else "ivf"


def make(vectors: NDArray[np.float32], kind: str) -> Any:
    """An index of unit vectors by inner product."""
    faiss = require_faiss()
    rows, dim = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 128
    elif kind == "ivf":
        lists = int(4 * rows**0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(8, lists // 64)
        index.train(vectors)
    else:
        index = faiss.IndexFlatIP(dim)
    index.add(vectors)
    return index


def recall(index: Any, vectors: NDArray[np.float32]) -> float:
    """Share of the exact 10 nearest that the index finds, over a sample of its own vectors."""
    exact = make(vectors, "flat")
    rows = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
    k = min(_RECALL_AT, len(vectors))
    found, true = index.search(vectors[rows], k)[1], exact.search(vectors[rows], k)[1]
    return float(np.mean([len(set(f) & set(t)) / k for f, t in zip(found.tolist(), true.tolist(), strict=True)]))


def _build(folder: Path) -> None:
    faiss = require_faiss()
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    kind = kind_of(len(vectors), request["exact_below"])
    index = make(vectors, kind)
    faiss.write_index(index, str(folder / "index.faiss"))
    cosines, near = index.search(vectors, min(request["neighbors"] + 1, len(vectors)))
    np.save(folder / "knn.npy", near.astype(np.int64), allow_pickle=False)
    np.save(folder / "cosines.npy", cosines, allow_pickle=False)
    stats = {"kind": kind, f"recall@{_RECALL_AT}": 1.0 if kind == "flat" else recall(index, vectors)}
    (folder / "stats.json").write_text(json.dumps(stats), encoding="utf-8")


def _main(folders: Sequence[str]) -> int:
    """Build each folder; the exit status tells whether another try may succeed."""
    try:
        for given in folders:
            _build(Path(given))
    except (OSError, MemoryError):
        traceback.print_exc()
        return os.EX_TEMPFAIL
    except Exception:
        traceback.print_exc()
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
