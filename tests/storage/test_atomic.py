"""Files and folders that are replaced whole: killed writers, refusing disks, many writers, readers beside them."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fixtures.dying import OPERATIONS
from tests.storage.crash import NAMES, read, write
from tokenlake.storage import atomic, disk

KINDS = ("file", "folder", "aside")
_WRITER = """
import sys
from pathlib import Path
from tests.storage.crash import write
from tokenlake.storage import disk
kind, path, content, times = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if kind == "aside":
    disk.exchange = lambda one, other: False
for number in range(times):
    write(kind, path, f"{content} {number}")
"""


def without_exchange(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "aside":
        monkeypatch.setattr(disk, "exchange", lambda one, other: False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_writer_leaves_the_old_one_or_the_new_one(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.storage.crash", str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= {"file": 8, "folder": 18, "aside": 20}[kind]


def failure(kind: str, path: Path) -> OSError | None:
    try:
        write(kind, path, "new")
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_refuses(kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of every operation in turn: an error, the old one, and nothing beside it."""
    refused = 0
    for name in OPERATIONS:
        if name in ("unlink", "remove") or (kind, name) == ("aside", "exchange"):
            continue  # what tidies up is not what a full disk refuses
        for call in range(10):
            path = tmp_path / f"{name}{call}" / "x"
            path.parent.mkdir()
            write(kind, path, "old")
            left = [call]
            plain = getattr(disk, name)

            def operation(*given: object, plain=plain, left=left) -> object:
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(number, os.strerror(number))
                return plain(*given)

            with monkeypatch.context() as patch:
                without_exchange(kind, patch)
                patch.setattr(disk, name, operation)
                error = failure(kind, path)
            if error is None:
                # Each call was made; or this one put away what was replaced, which the next writer does as well.
                assert left[0] >= 0 or (kind, name, call) == ("aside", "rename", 2)
                if left[0] >= 0:
                    break
                write(kind, path, "new")
                assert [p.name for p in path.parent.iterdir()] == ["x"]
                continue
            refused += 1
            assert error.errno == number
            # The last one: the new name is there, and only a loss of power could take it away.
            put = name == "sync_folder" and call == (0 if kind == "file" else 2)
            assert read(kind, path) == ("new" if put else "old"), (name, call)
            assert [p.name for p in path.parent.iterdir()] == ["x"], (name, call)
    assert refused >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write(kind, path, "old")
    told: list[tuple[str, str]] = []

    def watched(name: str) -> None:
        plain = getattr(disk, name)

        def operation(*given: object) -> object:
            what = given[0] if isinstance(given[0], Path) else Path(f"/proc/self/fd/{given[0]}").readlink()
            told.append((name, what.relative_to(tmp_path).as_posix().partition("/")[2] or what.name[:1]))
            return plain(*given)

        monkeypatch.setattr(disk, name, operation)

    without_exchange(kind, monkeypatch)
    for name in ("sync", "sync_folder", "rename", "exchange", "remove"):
        watched(name)
    write(kind, path, "new")
    parent = tmp_path.name[:1]
    put = {"file": [("rename", ".")], "folder": [("exchange", ".")]}
    put["aside"] = [("exchange", "."), ("rename", "x"), ("rename", "."), ("rename", ".")]
    at = told.index(put[kind][0])
    assert told[at:] == [*put[kind], ("sync_folder", parent), ("remove", ".")]
    synced = (
        [("sync", ".")]
        if kind == "file"
        else [("sync", n) for n in NAMES]
        + [
            ("sync_folder", "b"),
            ("sync_folder", "."),
        ]
    )
    assert sorted(told[:at]) == sorted(synced)
    assert told[at - 1] == synced[-1]


def test_a_reader_finds_one_at_every_instant(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write("folder", path, "start")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, "folder", str(path), "w", "300"])
    looks = 0
    try:
        while writer.poll() is None:
            assert path.is_dir()
            assert (path / "a").read_text()
            looks += 1
    finally:
        writer.wait()
    assert writer.returncode == 0
    assert looks > 300
    assert read("folder", path) == "w 299"


@pytest.mark.parametrize("kind", KINDS)
def test_many_writers_of_one_path(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, kind, str(path), name, "60"], stderr=subprocess.PIPE)
        for name in ("one", "two", "three")
    ]
    for writer in writers:
        _, told = writer.communicate()
        assert writer.returncode == 0, told.decode()
    assert read(kind, path) in {"one 59", "two 59", "three 59"}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic.folder(path) as slow:
        (slow / "slow").touch()
        done = threading.Thread(target=lambda: write("folder", path, "fast"))
        done.start()
        done.join()
        assert read("folder", path) == "fast"
    assert [p.name for p in path.iterdir()] == ["slow"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_what_is_ours_is_removed(tmp_path: Path) -> None:
    """Of `x`, not of `x-y`, whose writer was killed too; and nothing that anybody else calls so."""
    kept = [".x-notes", ".x-0123abcd", f".x-y-{'a' * 32}", f".X-{'a' * 32}", f"x-{'a' * 32}"]
    for name in (*kept, f".x-{'0' * 32}"):
        (tmp_path / name).mkdir()
    write("folder", tmp_path / "x", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "x"])


def test_a_folder_takes_no_files_place_but_a_links(tmp_path: Path) -> None:
    path, target = tmp_path / "x", tmp_path / "target"
    path.write_text("a file")
    with pytest.raises(NotADirectoryError, match="a file stands where a folder is to be written"):
        write("folder", path, "new")
    assert path.read_text() == "a file"
    write("folder", target, "elsewhere")
    (tmp_path / "link").symlink_to(target)
    write("folder", tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert read("folder", target) == "elsewhere"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "target", "x"]


def test_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    write("file", tmp_path / "x", "new")
    write("folder", tmp_path / "y", "new")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "y").stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_text_and_bytes(tmp_path: Path) -> None:
    atomic.write(tmp_path / "x", "é")
    assert (tmp_path / "x").read_bytes() == "é".encode()
    atomic.write(tmp_path / "x", b"\x00")
    assert (tmp_path / "x").read_bytes() == b"\x00"
    with pytest.raises(FileNotFoundError):
        atomic.write(tmp_path / "no" / "x", b"")


def test_names_that_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with pytest.raises(FileNotFoundError):
        disk.exchange(one, other)
    one.write_text("1")
    other.mkdir()
    assert disk.exchange(one, other)
    assert one.is_dir()
    assert other.read_text() == "1"

    def answers(number: int) -> None:
        def call(*_: bytes) -> int:
            ctypes.set_errno(number)
            return -1

        monkeypatch.setattr(disk, "_swap", call)

    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        answers(number)
        assert not disk.exchange(one, other)
    answers(errno.EACCES)
    with pytest.raises(PermissionError):
        disk.exchange(one, other)
    monkeypatch.setattr(disk, "_swap", None)
    assert not disk.exchange(one, other)
