"""Repeat logged fetches on the states that they read, and find the first answer that differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError, NotFoundError
from tokenlake.storage.records import LogReader
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.parity import FETCH, FETCH_AT, LoggedFetch, arrays_of, checksums, row_sums
from tokenlake.tokens.schema import TokenRows
from tokenlake.tokens.store import TokenStore
from tokenlake.tokens.tail import Tail
from tokenlake.tokens.view import StoreView, open_view
from tokenlake.tokens.wal import DiskLogs


@dataclass
class ReplayReport:
    """What a replay did.

    Attributes:
        fetches: answers that were equal; queries: of all of them.
        collected: generation -> logged fetches that cannot be repeated, since the log no longer keeps the state.
    """

    fetches: int = 0
    queries: int = 0
    collected: dict[int, int] = field(default_factory=dict)


def replay(folder: Path) -> ReplayReport:
    """Repeat every logged fetch.

    Args:
        folder: the log's.

    Raises:
        NotFoundError: there is no log.
        CorruptionError: an answer differs; the message says where first.
    """
    found = sorted(folder.glob("*.fetches"), key=lambda path: int(path.name.split("-")[1]))
    if not found:
        raise NotFoundError(f"{folder} holds no logged fetches; `TokenStore.open(path, log=folder)` writes them")
    report = ReplayReport()
    for path in found:
        generation = path.name.split("-")[0]
        state_folder = folder / "generations" / generation
        for number, (kind, payload) in enumerate(LogReader(path).read()):
            if kind not in (FETCH, FETCH_AT):
                raise CorruptionError(f"{path}: unknown kind of record {kind}; written by a later version?")
            if not (state_folder / manifests.NAME).exists():
                report.collected[int(generation)] = report.collected.get(int(generation), 0) + 1
                continue
            logged = LoggedFetch(kind, payload)
            _compare(logged, state_folder, f"{path}, fetch {number} of generation {int(generation)}")
            report.fetches += 1
            report.queries += len(logged.times)
    return report


def _compare(logged: LoggedFetch, state_folder: Path, where: str) -> None:
    batch = _ask(_open_at(state_folder, logged.next_sequence), logged)
    if list(arrays_of(batch)) != logged.names:
        raise CorruptionError(f"{where}: it had the columns {logged.names}, now {list(arrays_of(batch))}")
    differs = checksums(batch) != logged.sums
    if not differs.any():
        return
    query = int(differs.any(axis=1).argmax())
    names = [name for name, wrong in zip(logged.names, differs[query], strict=True) if wrong]
    word, at = "before" if logged.kind == FETCH else "at", np.datetime64(int(logged.times[query]), "us")
    asked = f"query {query} (user {logged.users.tolist()[query]!r} {word} {at})"
    raise CorruptionError(f"{where}: {asked} has other bytes in {names}{_byte(logged, batch, query, names[0])}")


def _ask(store: TokenStore, logged: LoggedFetch) -> TokenBatch:
    """A store's answer to a logged fetch."""
    if logged.kind == FETCH_AT:
        return store.fetch_at(logged.users, logged.times, as_of=logged.as_of)
    return store.fetch(logged.users, before=logged.times, **logged.options)


def _open_at(folder: Path, end: int) -> TokenStore:
    """Open a kept state, with the tail's rows below this sequence number only."""
    view = open_view(folder)
    tail = _PastTail(folder, view.snapshot.manifest.schema, view.tail.first_log, end)
    return TokenStore(folder, StoreView(view.snapshot, tail, view.watch))


def _byte(logged: LoggedFetch, batch: TokenBatch, query: int, name: str) -> str:
    """Where the first difference is: the byte, or the row where the log keeps no bytes."""
    span, present = (slice(*offsets[query : query + 2]) for offsets in (logged.offsets, batch.offsets))
    now = arrays_of(batch)[name][present]
    then = logged.row_checksums[name][span]
    if len(then) != len(now):
        return f": {len(then)} rows then, {len(now)} now"
    differs = then != row_sums(now)
    if logged.arrays is None:
        if not differs.any():  # the sums of rows may miss what those of queries do not
            return f", somewhere in {len(now)} rows"
        row = int(differs.argmax())
        when = np.datetime64(int(batch.timestamps[present][row]), "us")
        return f": first in row {row} of {len(now)}, now of {when} (a log with keep_bytes=True names the byte)"
    old, new = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (logged.arrays[name][span], now))
    byte = int((old != new).argmax())
    row = byte // (len(old) // len(now))
    return f": first in row {row}, byte {byte}, {old[byte]:#04x} then and {new[byte]:#04x} now"


class _PastTail(Tail):
    """The tail of an earlier time: the rows of all mirrored logs with sequence numbers below `end`."""

    def __init__(self, folder: Path, schema: Any, number: int, end: int) -> None:
        self._end = end
        kept = DiskLogs(folder)
        super().__init__(kept, schema, number)
        self._apply(self._log.read())
        for later in (n for n in kept.numbers() if n > number):
            self._apply(kept.reader(later).read())

    def _add(self, fresh: list[tuple[NDArray[np.int64], TokenRows]]) -> None:
        then = [(sequence < self._end, sequence, rows) for sequence, rows in fresh]
        if held := [(sequence[old], rows.take(old)) for old, sequence, rows in then if old.any()]:
            super()._add(held)

    def poll(self, *, follow: bool = True) -> None:
        """Do nothing: a past tail does not grow."""
