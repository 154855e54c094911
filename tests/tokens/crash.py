"""Kill a writer at every write, sync, rename and removal in turn, and look at what is left.

Run by test_crash.py and test_crash_redis.py as `python -m tests.tokens.crash FOLDER EVERY [REDIS]`; EVERY is 1, or how far
apart the points are; prints how many points were tried. With a tail in Redis the writer also dies before each command, and behind it with the answer unread.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.connection import AbstractConnection

from tests.fixtures import dying, stores
from tests.fixtures.dying import KILLED
from tests.fixtures.store_oracle import DAY, Oracle, Row
from tests.fixtures.stores import arguments, make, same
from tokenlake.times import NEVER, day_of
from tokenlake.tokens import compaction, manifest
from tokenlake.tokens.store import TokenStore

USERS = ["a", "b", "c"]
Step = tuple[str, int, list[Row]]


def steps() -> list[Step]:
    """Days, re-runs, appends before and after their day, an empty day, compactions."""
    made: list[Step] = []
    event = 0

    def rows(day: int, hours: list[int], users: list[str]) -> list[Row]:
        nonlocal event
        found = []
        for hour in hours:
            for user in users:
                event += 1
                found.append(Row(user, day * DAY + hour, event, 1, day * DAY + hour + 2))
        return found

    made.append(("append", 0, rows(0, [1, 2], USERS[:2])))
    made.append(("write", 0, rows(0, [1, 3], USERS[:2])))
    made.append(("append", 0, rows(0, [1, 4], USERS[:1]) + rows(1, [1], ["d"])))
    made.extend(("write", day, rows(day, [1, 2], [*USERS, f"new {day}"])) for day in range(1, 4))
    made.append(("append", 0, rows(7, [1, 2], [*USERS, "e"])))
    made.append(("write", 2, rows(2, [5], USERS)))
    made.append(("write", 3, []))
    made.append(("compact", 0, []))
    made.append(("write", 7, rows(7, [1], USERS)))
    made.append(("append", 0, rows(7, [1, 3], USERS)))
    return made


def apply(target: TokenStore | Oracle, step: Step) -> None:
    kind, day, rows = step
    if isinstance(target, Oracle):
        {"append": lambda: target.append(rows), "write": lambda: target.write_day(day, rows), "compact": lambda: None}[
            kind
        ]()
    elif kind == "append":
        target.append(**arguments(rows))
    elif kind == "write":
        target.write_day(day_of(day * DAY), **arguments(rows))
    else:
        target.compact()


def holds(store: TokenStore, oracle: Oracle) -> bool:
    users = [*USERS, "d", "e", *(f"new {day}" for day in range(1, 6))]
    batch = store.fetch(users, before=NEVER, length=1000)
    try:
        same(batch, [oracle.fetch(u, NEVER, 1000) for u in users], [NEVER] * len(users))
    except AssertionError:
        return False
    return store.status().tail_rows == len(oracle.tail) and len(store.status().days) == len(oracle.days)


def arm(point: int) -> None:
    """Let the process die at the given operation on the disk, or around the given command to Redis."""
    due = dying.arm(point)
    send = AbstractConnection.send_packed_command

    def command(*given: Any, **named: Any) -> None:
        if due():
            os._exit(KILLED)
        send(*given, **named)
        if due():
            os._exit(KILLED)

    AbstractConnection.send_packed_command = command  # type: ignore[method-assign]  # what is tested


def die(write: Callable[[Callable[[], None]], None], point: int) -> tuple[bool, int]:
    """Run something in a child that dies at `point`: whether it did, and how often it acknowledged."""
    return dying.die(write, point, arm)


def run(folder: Path, point: int) -> tuple[bool, int]:
    """Run the steps in a child that dies at `point`: whether it did, and how many steps it acknowledged."""

    def write(acknowledge: Callable[[], None]) -> None:
        store = make(folder)
        for step in steps():
            apply(store, step)
            acknowledge()

    return die(write, point)


def main(base: Path, every: int) -> None:
    compaction.FANOUT = (
        3  # merges within these few days, but not after each: the points grow with them, and so do the runs
    )
    plan = steps()
    states = [Oracle()]
    for step in plan:
        states.append(states[-1].copy())
        apply(states[-1], step)
    died, tried = True, 0
    while died:
        point = 1 + tried * every
        folder = base / str(point)
        died, done = run(folder, point)
        check(folder, plan, states, done, point)
        shutil.rmtree(folder)
        tried += died
    print(tried)


def check(folder: Path, plan: list[Step], states: list[Oracle], done: int, point: int) -> None:
    if not (folder / "manifest").exists():
        assert done == 0, f"point {point}: an acknowledged store is gone"
        make(folder)
    reader = TokenStore.open(folder)
    now = next((n for n in (done + 1, done) if n < len(states) and holds(reader, states[n])), None)
    assert now is not None, f"point {point}: after {done} steps the store holds something else"
    reader.verify()
    # Whatever the writer left, appends of others go on, and readers of before see them.
    later = Row("d", 20 * DAY, 1000, 1, 0)
    assert TokenStore.open(folder).append(**arguments([later])) == 1
    states = [state.copy() for state in states]
    for state in states:
        state.append([later])
    assert holds(reader, states[now]), f"point {point}: an append after it gives something else"
    writer = TokenStore.open(folder)
    for step, state in zip(plan[now:], states[now + 1 :], strict=True):
        apply(writer, step)
        assert holds(writer, state), f"point {point}: going on gives something else"
    writer.compact()  # a writer cleans up after a killed one
    left = {p.name for p in (folder / "segments").iterdir()}
    held = {s.name for s in manifest.load(folder).segment_files()}
    assert left == held, f"point {point}: {left ^ held} left over"
    writer.verify()


def publication(base: Path, *, supersedes: bool) -> int:
    """Kill a writer at each operation of one publication, while a reader keeps the state before it."""
    tail = [Row("a", hour, hour, 1, 0) for hour in range(3)]
    day = [Row("a", 1 if supersedes else 7, 50, 1, 0)]
    later = Row("a", DAY, 60, 1, 0)
    for point in range(1, 1000):
        folder = base / f"{supersedes}-{point}"
        store = make(folder)
        store.append(**arguments(tail))
        reader = TokenStore.open(folder)
        assert len(reader.fetch("a", before=NEVER)) == 1

        def write(acknowledge: Callable[[], None], folder: Path = folder) -> None:
            TokenStore.open(folder).write_day(day_of(0), **arguments(day))
            acknowledge()

        died, done = die(write, point)
        # A handle of before goes on, a reader that never refreshes sees it, and the day is there whole or not at all.
        assert store.append(**arguments([later])) == 1
        same(reader.fetch("a", before=NEVER), [[*tail, later]], [NEVER])
        states = [Oracle(), Oracle()]
        for state in states:
            state.append(tail)
        states[1].write_day(0, day)
        rows = [state.append([later]) and state.fetch("a", NEVER, 99) for state in states]
        found = TokenStore.open(folder).fetch("a", before=NEVER).side["event"].tolist()
        assert found in [[r.event for r in held] for held in rows[done:]], f"point {point}: {found}"
        TokenStore.open(folder).write_day(day_of(0), **arguments(day))
        same(TokenStore.open(folder).fetch("a", before=NEVER), [rows[1]], [NEVER])
        if not died:
            return point - 1
    raise AssertionError("a publication without an end")


if __name__ == "__main__":
    stores.TAIL = sys.argv[3] if len(sys.argv) > 3 else None
    if sys.argv[4:] == ["publication"]:
        print(min(publication(Path(sys.argv[1]), supersedes=supersedes) for supersedes in (True, False)))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]))
