"""What publishes a folder's state: its bytes, who notices, and files that a writer replaces while they are opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xxhash

from tokenlake.errors import CorruptionError
from tokenlake.storage import manifest


def test_a_line_with_the_checksum_of_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    manifest.publish(path, {"format": 1, "days": [1, 2]})
    digest, _, text = path.read_bytes().partition(b"\n")
    assert text == b'{"format":1,"days":[1,2]}'
    assert digest == xxhash.xxh3_64_hexdigest(text).encode()
    assert manifest.read(path, 1, "") == {"format": 1, "days": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["manifest"]


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    with pytest.raises(FileNotFoundError):
        manifest.read(path, 1, "")
    manifest.publish(path, {"format": 2})
    assert manifest.read(path, 2, "")["format"] == 2
    with pytest.raises(CorruptionError, match="manifest: format 2, this version reads up to 1; do this"):
        manifest.read(path, 1, "do this")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptionError, match="checksum does not match; do this"):
            manifest.read(path, 2, "do this")
    path.write_bytes(whole[:10])
    with pytest.raises(CorruptionError, match="checksum"):
        manifest.read(path, 2, "")


def test_a_watch_notices_each_newer_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    with pytest.raises(FileNotFoundError):
        manifest.ManifestWatch(path)
    for generation in range(20):  # inodes are used again, but not those of open files
        manifest.publish(path, {"format": 1, "generation": generation})
        watch = manifest.ManifestWatch(path)
        assert watch.is_current
        manifest.publish(path, {"format": 1, "generation": generation})
        assert not watch.is_current
    path.unlink()
    assert not watch.is_current


def test_files_that_are_replaced_between_the_looks(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    manifest.publish(path, {"format": 1, "files": ["1"]})
    looks: list[str] = []

    def opened(body: dict[str, list[str]]) -> bytes:
        (name,) = body["files"]
        looks.append(name)
        if name == "1":  # a writer goes by
            (tmp_path / "2").write_bytes(b"two")
            manifest.publish(path, {"format": 1, "files": ["2"]})
        return (tmp_path / name).read_bytes()

    assert manifest.open_files(lambda: manifest.read(path, 1, ""), opened) == b"two"
    assert looks == ["1", "2"]
    (tmp_path / "2").unlink()
    with pytest.raises(FileNotFoundError):
        manifest.open_files(lambda: manifest.read(path, 1, ""), opened)
    assert json.loads(path.read_bytes().partition(b"\n")[2])["files"] == ["2"]
