"""Manifests: the small file of a folder whose atomic replacement publishes the folder's next state.

The first line is the XXH3-64 of the rest, in hexadecimal; the rest is JSON. A manifest names immutable files. The next
writer removes files of a replaced state; readers that have them open can still read them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from tokenlake.errors import CorruptionError
from tokenlake.storage import atomic

_Manifest = TypeVar("_Manifest")
_State = TypeVar("_State")


def publish(path: Path, body: Mapping[str, Any]) -> None:
    """Replace a manifest atomically; the caller must be its only writer."""
    text = json.dumps(body, separators=(",", ":")).encode()
    atomic.swap(path, xxhash.xxh3_64_hexdigest(text).encode() + b"\n" + text)


def read(path: Path, newest: int, remedy: str) -> dict[str, Any]:
    """Read a manifest.

    Args:
        path: the file.
        newest: the latest format that the caller can read; formats count from 1.
        remedy: advice for the error message of a damaged manifest.

    Raises:
        FileNotFoundError, NotADirectoryError: the manifest does not exist.
        CorruptionError: its checksum does not match, or its format is newer than `newest`.
    """
    digest, _, text = path.read_bytes().partition(b"\n")
    if xxhash.xxh3_64_hexdigest(text).encode() != digest:
        raise CorruptionError(f"{path}: its checksum does not match; {remedy}")
    body: dict[str, Any] = json.loads(text)
    if not 1 <= body["format"] <= newest:
        raise CorruptionError(f"{path}: format {body['format']}, this version reads up to {newest}; {remedy}")
    return body


class ManifestWatch:
    """Detects that a newer manifest was published; keeps the file open, so that no newer one can get the same inode.

    Raises:
        FileNotFoundError, NotADirectoryError: the manifest does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python exits, `os` may be gone already
        if (fd := getattr(self, "_fd", None)) is not None:
            close(fd)

    @property
    def is_current(self) -> bool:
        """Whether the manifest is still the same; False also if it was removed."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False


def open_files(load: Callable[[], _Manifest], open_state: Callable[[_Manifest], _State]) -> _State:
    """Open the files that the newest manifest names; tries again if a writer replaced them after the manifest was read.

    Raises:
        FileNotFoundError: a file that the newest manifest names is missing.
    """
    manifest = load()
    while True:
        try:
            return open_state(manifest)
        except FileNotFoundError:
            newer = load()
            if newer == manifest:
                raise
            manifest = newer
