"""Kill a writer of a whole file or folder at every operation in turn, and look at what is left.

Run by test_atomic.py as `python -m tests.storage.crash FOLDER KIND`; KIND is `file`, `folder`, or `aside`: a folder where
the file system cannot exchange two names. Prints how many points were tried.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from tests.fixtures.dying import die
from tokenlake.storage import atomic, disk

NAMES = ("a", "b/c", "b/d")


def write(kind: str, path: Path, content: str, *, fails: bool = False) -> None:
    if kind == "file":
        with atomic.file(path) as part:
            part.write_text(content)
            assert not fails
        return
    with atomic.folder(path) as folder:
        for name in NAMES:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        assert not fails


def read(kind: str, path: Path) -> str | None:
    """What a path holds, whole; None: nothing."""
    if not path.exists():
        return None
    if kind == "file":
        return path.read_text()
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()) == sorted(NAMES)
    (content,) = {(path / name).read_text() for name in NAMES}
    return content


def attempt(kind: str, base: Path, point: int, before: str | None) -> bool:
    """Whether a writer died at this point; in any case what it left is right, and the next one goes on."""
    path = base / f"{point}-{before}" / "x"
    path.parent.mkdir()
    if before is not None:
        write(kind, path, before)

    def replace(acknowledge: Callable[[], None]) -> None:
        write(kind, path, "new")
        acknowledge()

    died, done = die(replace, point)
    now = read(kind, path)
    allowed = {"new"} if done else {before, "new"}
    if kind == "aside":  # for the instant between two renames there is none
        allowed |= {None} if not done else set()
    assert now in allowed, f"point {point}: {now!r} after {before!r}"
    with contextlib.suppress(AssertionError):  # whatever the next one comes to, it first puts things right
        write(kind, path, "refused", fails=True)
    assert read(kind, path) in ({now} if now is not None else {before}), f"point {point}: not put right"
    assert [p.name for p in path.parent.iterdir()] == ([] if before is None and now is None else ["x"]), (
        f"point {point}"
    )
    write(kind, path, "later")
    assert read(kind, path) == "later"
    assert [p.name for p in path.parent.iterdir()] == ["x"]
    return died


def main(base: Path, kind: str) -> None:
    if kind == "aside":
        disk.exchange = lambda one, other: False
    tried = 0
    for before in (None, "old"):
        point = 1
        while attempt(kind, base, point, before):
            point += 1
        tried += point - 1
    print(tried)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
