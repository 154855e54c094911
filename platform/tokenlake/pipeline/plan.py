"""What each day is encoded with: decided once, recorded in the catalog, never changed.

Streaming order (docs/point-in-time.md): the checkpoint that encodes day d was trained on days < d. A back-fill trains
once per chunk of days. The very first chunk has nothing before it: it is encoded by the checkpoint that was trained
on it, and marked *bootstrap*, so that every evaluation leaves it out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokenlake.catalog import Plan
from tokenlake.errors import OrderError
from tokenlake.features.versions import finished
from tokenlake.lake.project import Project
from tokenlake.times import Day

ONE_DAY = dt.timedelta(days=1)


def plan(lake: Project, version: str, day: Day) -> Plan:
    """Return the recorded plan of a day; make and record one when there is none."""
    recorded = lake.catalog.plan(version, day)
    return recorded or lake.catalog.record_plan(_new_plan(lake, version, day, day))


def plan_chunks(lake: Project, version: str, days: Sequence[Day], chunk_days: int) -> Iterator[list[Plan]]:
    """Plan days chunk by chunk; each chunk is recorded when the one before it has been consumed.

    Days with a plan keep it. New days are grouped, `chunk_days` calendar days together, and trained for once.

    Raises:
        OrderError: before a chunk whose turn has not come. Nothing is recorded for it, since a plan recorded too early
            could not be changed: the days before it could never be trained on.
    """
    todo = sorted(days)
    while todo:
        first = todo[0]
        recorded = lake.catalog.plan(version, first)
        if recorded is None:
            require_order(lake, version, first)
        end = recorded.chunk_end if recorded else _chunk_end(lake, version, first, todo[-1], chunk_days)
        chunk = [day for day in todo if day <= end]
        chunk_plan = recorded or _new_plan(lake, version, first, end)
        yield [lake.catalog.record_plan(_for_day(chunk_plan, day)) for day in chunk]
        todo = todo[len(chunk) :]


def require_order(lake: Project, version: str, day: Day) -> None:
    """Check that every earlier day with events is done.

    Raises:
        OrderError: some are not; transient, since they may be under way.
    """
    done = finished(lake, version)
    missing = [d for d in lake.events.days() if d < day and d not in done]
    if missing:
        which = str(missing[0]) if len(missing) == 1 else f"{len(missing)} earlier days, {missing[0]} to {missing[-1]},"
        raise OrderError(
            f"{day} of {version} must wait: {which} with events but not done yet; "
            f"`tokenlake backfill {lake.root}` runs all days in order"
        )


def _chunk_end(lake: Project, version: str, first: Day, last: Day, chunk_days: int) -> Day:
    if any(p.day > first for p in lake.catalog.plans(version)):
        return first  # a day that came late is a chunk of its own: it trains nothing
    return min(first + dt.timedelta(days=chunk_days - 1), last)


def _for_day(plan: Plan, day: Day) -> Plan:
    return replace(plan, day=day, bootstrap=_trained_on(plan, day))


def _trained_on(plan: Plan, day: Day) -> bool:
    return plan.train_to is None or plan.train_to >= day


def _new_plan(lake: Project, version: str, start: Day, end: Day) -> Plan:
    plans = lake.catalog.plans(version)
    watermark = lake.watermark()
    if not plans:
        return Plan(version, start, end.isoformat(), None, start, end, start, end, bootstrap=True, watermark=watermark)
    earlier = [p for p in plans if p.day < start]
    newest = max(earlier, key=_day) if earlier else min(plans, key=_day)
    current = _for_day(replace(newest, chunk_start=start, chunk_end=end, watermark=watermark), start)
    came_late = len(earlier) < len(plans)
    if came_late or not _untrained(lake, newest, start):
        return current
    train_from = newest.train_to + ONE_DAY if newest.train_to else start
    train_to = start - ONE_DAY
    return replace(
        current,
        checkpoint=train_to.isoformat(),
        parent=newest.checkpoint,
        train_from=train_from,
        train_to=train_to,
        bootstrap=False,
    )


def _day(plan: Plan) -> Day:
    return plan.day


def _untrained(lake: Project, newest: Plan, start: Day) -> bool:
    return any((newest.train_to is None or day > newest.train_to) and day < start for day in lake.events.days())
