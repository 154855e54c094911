"""Kill a writer at every write, sync, rename and removal in turn, and look at what is left.

Run by test_table.py as `python -m tests.feast_online.crash FOLDER`; prints how many points were tried.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.feast_online.helpers import Oracle, Write, rows
from tests.fixtures.dying import die
from tokenlake.feast.online.files import load
from tokenlake.feast.online.table import OnlineTable

KEYS = [b"a", b"b", b"c", b"d"]


def steps() -> list[list[Write]]:
    """First writes, late ones, ties, small ones that merge, a large one, and a table that is made again (empty)."""
    made: list[list[Write]] = [[(key, 10, None, {"x": b"first", "y": b"y"}) for key in KEYS[:2]]]
    made.append([(b"a", 9, None, {"x": b"late"}), (b"c", 11, 1, {"x": b"new"})])
    made.append([(b"big %d" % i, i, None, {"x": bytes(2000)}) for i in range(20)])
    made += [[(key, 12 + i, None, {"x": b"%d" % i})] for i, key in enumerate(KEYS[:1])]
    made.append([])
    made.append([(key, 5, None, {"y": b"again"}) for key in KEYS])
    made.append([(b"a", 5, 1, {"x": b"tie"})])
    return made


def apply(table: OnlineTable, oracle: Oracle | None, step: list[Write]) -> None:
    if oracle is not None:
        if not step:
            oracle.held.clear()
        oracle.write(step)
        return
    if step:
        table.write(rows(step))
    else:
        table.drop()


def holds(folder: Path, oracle: Oracle) -> bool:
    keys = [*KEYS, *(b"big %d" % i for i in range(20))]
    return OnlineTable(folder).read(keys, ["x", "y"]) == [oracle.read(key, ["x", "y"]) for key in keys]


def run(folder: Path, point: int) -> tuple[bool, int]:
    """Run the steps in a child that dies at `point`: whether it did, and how many steps it acknowledged."""

    def write(acknowledge: Callable[[], None]) -> None:
        table = OnlineTable(folder)
        for step in steps():
            apply(table, None, step)
            acknowledge()

    return die(write, point)


def main(base: Path) -> None:
    plan, states = steps(), [Oracle()]
    for step in plan:
        states.append(states[-1].copy())
        apply(OnlineTable(base), states[-1], step)
    point, died = 0, True
    while died:
        point += 1
        folder = base / str(point) / "view"
        died, done = run(folder, point)
        check(folder, plan, states, done, point)
        shutil.rmtree(folder.parent, ignore_errors=True)
    print(point - 1)


def check(folder: Path, plan: list[list[Write]], states: list[Oracle], done: int, point: int) -> None:
    now = next((n for n in (done + 1, done) if n < len(states) and holds(folder, states[n])), None)
    assert now is not None, f"point {point}: after {done} steps the table holds something else"
    OnlineTable(folder).verify()
    writer = OnlineTable(folder)
    for step, state in zip(plan[now:], states[now + 1 :], strict=True):
        apply(writer, None, step)
        assert holds(folder, state), f"point {point}: going on gives something else"
    writer.write(rows([(b"end", 0, None, {"x": b""})]))  # a writer cleans up after a killed one
    manifest = load(folder)
    assert manifest is not None
    assert {p.name for p in (folder / "runs").iterdir()} == {run.name for run in manifest.runs}, f"point {point}"
    writer.verify()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
