"""How many CPU seconds each test takes, its child processes included; kept in `cpu_seconds.tsv`.

Two things follow from the kept numbers: the longest files start first, so that no worker is left alone with one at the
end, and `make test-quick` leaves out what is marked `heavy`. `pytest -n auto --dist loadfile --cpu-seconds` measures
anew. A child counts where it is waited for: services of a whole file count for its last test.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

FILE = Path(__file__).with_suffix(".tsv")
#: Tests below are not kept: most take a few milliseconds.
KEPT_S = 0.5
#: The tests of a file that takes more are heavy, all of them: its fixtures cost as much for one as for all.
HEAVY_FILE_S = 6.0


def file_of(test: str) -> str:
    return test.partition("::")[0]


def read(path: Path = FILE) -> dict[str, float]:
    """Test function -> CPU seconds of all its cases."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {test: float(seconds) for seconds, test in (line.split("\t") for line in lines)}


def by_file(seconds: Mapping[str, float]) -> Counter[str]:
    """File -> CPU seconds of its tests."""
    sums: Counter[str] = Counter()
    for test, cpu in seconds.items():
        sums[file_of(test)] += cpu
    return sums


def arrange(items: list[pytest.Item]) -> None:
    """Mark heavy tests, and put the longest files first."""
    seconds = read()
    files = by_file(seconds)
    for item in items:
        if _function(item.nodeid) in seconds or files[file_of(item.nodeid)] > HEAVY_FILE_S:
            item.add_marker("heavy")
    items.sort(key=lambda item: -files[file_of(item.nodeid)])


def _function(test: str) -> str:
    return test.partition("[")[0]


def _spent() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """Adds to each phase's report what was spent since the last one; the reports reach the controller of all workers."""

    def __init__(self) -> None:
        self.before = _spent()
        self.tests: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = _spent()
        report.user_properties.append(("cpu_seconds", now - self.before))
        self.before = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests[_function(report.nodeid)] += dict(report.user_properties).get("cpu_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("CPU seconds by file")
        for file, cpu in by_file(self.tests).most_common(40):
            terminalreporter.write_line(f"{cpu:8.1f}  {file}")
        terminalreporter.write_line(f"{sum(self.tests.values()):8.1f}  together")
        kept = {test: cpu for test, cpu in read().items() if test not in self.tests}
        kept |= {test: cpu for test, cpu in self.tests.items() if cpu >= KEPT_S}
        FILE.write_text("".join(f"{cpu:.1f}\t{test}\n" for test, cpu in sorted(kept.items())))
