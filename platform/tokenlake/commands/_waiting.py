"""Waiting for an answer: Ctrl-C ends the question, and a bar tells how far a long one is."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tokenlake.lake.database import Database

#: Seconds until the bar is drawn, between two drawings, and between two tries to interrupt.
_PATIENCE, _PAUSE, _AGAIN = 2.0, 0.2, 0.05
_WIDTH = 30


def interruptible(database: Database, act: Callable[[], None]) -> None:
    """Run `act` in a thread, so that Ctrl-C can interrupt its query: DuckDB does not check for Ctrl-C while it works.

    A bar on the standard error, if that is a terminal, tells how far the query is; it is gone when the answer comes.

    Raises:
        KeyboardInterrupt: after the query was interrupted.
    """
    bar = _Bar(sys.stderr, database.progress)
    with ThreadPoolExecutor(1) as pool, _wiped_by_output(bar):
        future = pool.submit(act)
        try:
            while not wait([future], timeout=_PAUSE if bar.wanted else None).done:
                bar.draw()
            future.result()
        except KeyboardInterrupt:
            bar.end()
            while not future.done():  # it may be between two queries
                database.interrupt()
                wait([future], timeout=_AGAIN)
            raise
        finally:
            bar.end()


class _Bar:
    """One line that is drawn again and again, until `end`.

    Args:
        file: the standard error.
        progress: gives percents, and a negative number where they are not known.
    """

    def __init__(self, file: IO[str], progress: Callable[[], float]) -> None:
        self._file, self._progress = file, progress
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._drawn = False
        self.wanted = file.isatty()

    def draw(self) -> None:
        seconds = time.monotonic() - self._since
        if seconds < _PATIENCE:
            return
        line = line_of(self._progress(), seconds)
        with self._lock:
            if self.wanted:
                self._file.write(f"\r{line}\x1b[K")
                self._file.flush()
                self._drawn = True

    def end(self) -> None:
        """Wipe the line; it is drawn no more."""
        with self._lock:
            if self._drawn:
                self._file.write("\r\x1b[K")
                self._file.flush()
            self.wanted = self._drawn = False


def line_of(percent: float, seconds: float) -> str:
    """The line of a bar: a bar and percents where they are known, and the seconds.

    >>> line_of(50.0, 3.2)
    '###############...............  50 %     3 s   Ctrl-C ends it'
    >>> line_of(-1.0, 62.0)
    '62 s   Ctrl-C ends it'
    """
    time_taken = f"{seconds:.0f} s   Ctrl-C ends it"
    if percent < 0:
        return time_taken
    done = min(_WIDTH, int(_WIDTH * percent / 100))
    return f"{'#' * done}{'.' * (_WIDTH - done)} {min(percent, 100):3.0f} %  {seconds:4.0f} s   Ctrl-C ends it"


@contextlib.contextmanager
def _wiped_by_output(bar: _Bar) -> Iterator[None]:
    """Where the answer goes to the terminal of the bar, its first character wipes the bar."""
    if not (bar.wanted and sys.stdout.isatty()):
        yield
        return
    with contextlib.redirect_stdout(cast("IO[str]", _Wiping(sys.stdout, bar))):
        yield


class _Wiping:
    """A standard output that ends a bar before anything is written to it."""

    def __init__(self, file: IO[str], bar: _Bar) -> None:
        self._file, self._bar = file, bar

    def __getattr__(self, name: str) -> Any:
        if name in {"write", "writelines", "buffer"}:
            self._bar.end()
        return getattr(self._file, name)
