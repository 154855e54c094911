"""Ask logged fetches again, of the states that they saw, and find the first answer that is another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tokenlake.errors import CorruptionError, NotFoundError
from tokenlake.tokens import manifest as manifests
from tokenlake.tokens.batch import TokenBatch
from tokenlake.tokens.log import LogReader
from tokenlake.tokens.parity import FETCH, Logged, at, checksums, parts


@dataclass
class Replayed:
    """What was asked again.

    Attributes:
        fetches: answers that were equal; queries: of all of them.
        collected: generation -> logged fetches that cannot be asked again, since the state is not kept any more.
    """

    fetches: int = 0
    queries: int = 0
    collected: dict[int, int] = field(default_factory=dict)


def replay(folder: Path) -> Replayed:
    """Ask every logged fetch again.

    Args:
        folder: the log's.

    Raises:
        NotFoundError: there is no log.
        CorruptionError: an answer is another one; the message says where it first differs.
    """
    found = sorted(folder.glob("*.fetches"), key=lambda path: int(path.name.split("-")[1]))
    if not found:
        raise NotFoundError(f"{folder} holds no logged fetches; `TokenStore.open(path, log=folder)` writes them")
    report = Replayed()
    for path in found:
        generation = path.name.split("-")[0]
        place = folder / "generations" / generation
        for number, (kind, payload) in enumerate(LogReader(path).read()):
            if kind != FETCH:
                raise CorruptionError(f"{path}: unknown kind of frame {kind}; written by a later version?")
            if not (place / manifests.NAME).exists():
                report.collected[int(generation)] = report.collected.get(int(generation), 0) + 1
                continue
            logged = Logged(payload)
            _compare(logged, place, f"{path}, fetch {number} of generation {int(generation)}")
            report.fetches += 1
            report.queries += len(logged.before)
    return report


def _compare(logged: Logged, place: Path, where: str) -> None:
    batch = at(place, logged.tail).fetch(
        logged.users, before=logged.before, length=logged.length, available=logged.available
    )
    if list(parts(batch)) != logged.names:
        raise CorruptionError(f"{where}: it had the columns {logged.names}, now {list(parts(batch))}")
    differs = checksums(batch) != logged.sums
    if not differs.any():
        return
    query = int(differs.any(axis=1).argmax())
    names = [name for name, wrong in zip(logged.names, differs[query], strict=True) if wrong]
    asked = (
        f"query {query} (user {logged.users.tolist()[query]!r} before {np.datetime64(int(logged.before[query]), 'us')})"
    )
    raise CorruptionError(f"{where}: {asked} has other bytes in {names}{_byte(logged, batch, query, names[0])}")


def _byte(logged: Logged, batch: TokenBatch, query: int, name: str) -> str:
    """Where the first differing byte is, as far as the log can tell."""
    now = parts(batch)[name][batch.offsets[query] : batch.offsets[query + 1]]
    if logged.arrays is None or logged.offsets is None:
        return f"; it has {len(now)} rows now (a log with keep_bytes=True tells the byte)"
    then = logged.arrays[name][logged.offsets[query] : logged.offsets[query + 1]]
    if len(then) != len(now):
        return f": {len(then)} rows then, {len(now)} now"
    old, new = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (then, now))
    byte = int((old != new).argmax())
    row = byte // (len(old) // len(then))
    return f": first in row {row}, byte {byte}, {old[byte]:#04x} then and {new[byte]:#04x} now"
