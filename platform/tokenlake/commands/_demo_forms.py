"""The two forms of the demo: a few weeks of a data set, or all of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tokenlake.times import Day


@dataclass(frozen=True)
class Form:
    """One form of the demo.

    Attributes:
        households: number of households of Complete Journey; ignored for other data sets.
        airflow_days: number of last days that Airflow's DAGs run.
        controls: whether control models are trained.
        report_days: number of last days in the retrieval report.
        takes: step -> its approximate duration on two idle cores.
        days: first and last day of the data, both included; None: all days.
    """

    households: int
    airflow_days: int
    controls: bool
    report_days: int
    takes: Mapping[str, str]
    days: tuple[Day, Day] | None = None


#: Data set -> the eight weeks of its short form.
_WEEKS = {
    "complete-journey": (dt.date(2017, 11, 6), dt.date(2017, 12, 31)),
    "movielens-100k": (dt.date(1998, 2, 26), dt.date(1998, 4, 22)),
}
_SHORT = Form(
    households=300,
    airflow_days=1,
    controls=False,
    report_days=7,
    takes={
        "data": "5 s",
        "ingest": "2 s",
        "backfill": "80 s",
        "airflow": "50 s",
        "models": "10 s",
        "reports": "5 s",
        "retrieval": "10 s",
    },
)
_FULL = Form(
    households=400,
    airflow_days=2,
    controls=True,
    report_days=28,
    takes={
        "data": "15 s",
        "ingest": "15 s",
        "backfill": "3 min",
        "airflow": "90 s",
        "models": "2 min",
        "reports": "10 s",
        "retrieval": "10 s",
    },
)


def form_of(dataset: str, *, full: bool) -> Form:
    """The short form of a data set, or the full one."""
    return _FULL if full else replace(_SHORT, days=_WEEKS.get(dataset))
