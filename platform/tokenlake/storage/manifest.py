"""Manifests: the one small file of a folder whose swap publishes the folder's next state.

A line with the XXH3-64 of all that follows, in hexadecimal; then JSON. A manifest names immutable files; a state that
was swapped away loses its files to the next writer, while readers keep what they have open.
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
    """Swap a manifest; the caller is its one writer."""
    text = json.dumps(body, separators=(",", ":")).encode()
    atomic.swap(path, xxhash.xxh3_64_hexdigest(text).encode() + b"\n" + text)


def read(path: Path, newest: int, remedy: str) -> dict[str, Any]:
    """Read a manifest.

    Args:
        path: the file.
        newest: the latest format that the caller understands; the first one is 1.
        remedy: what to do about a damaged one, for the message.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        CorruptionError: its bytes are not what was written, or it is of a later format.
    """
    digest, _, text = path.read_bytes().partition(b"\n")
    if xxhash.xxh3_64_hexdigest(text).encode() != digest:
        raise CorruptionError(f"{path}: its checksum does not match; {remedy}")
    body: dict[str, Any] = json.loads(text)
    if not 1 <= body["format"] <= newest:
        raise CorruptionError(f"{path}: format {body['format']}, this version reads up to {newest}; {remedy}")
    return body


class ManifestWatch:
    """Tells whether a newer manifest was published since; open, so that no newer one can get the same inode.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # when Python exits, `os` may be gone already
        if (fd := getattr(self, "_fd", None)) is not None:
            close(fd)

    @property
    def is_current(self) -> bool:
        """Whether this is still the one; False also when there is none any more."""
        try:
            return os.path.samestat(os.fstat(self._fd), self._path.stat())
        except FileNotFoundError:
            return False


def open_files(load: Callable[[], _Manifest], open_state: Callable[[_Manifest], _State]) -> _State:
    """Open the files that the newest manifest names; again where a writer replaced them between the two looks.

    Raises:
        FileNotFoundError: a file is missing that the newest manifest names.
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
