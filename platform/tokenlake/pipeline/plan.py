"""What each day is encoded with: decided once, recorded in the catalog, never changed.

Streaming order (docs/point-in-time.md): the checkpoint that encodes day d was trained on days < d. A back-fill trains
once per chunk of days. The very first chunk has nothing before it: it is encoded by the checkpoint that was trained
on it, and marked *bootstrap*, so that every evaluation leaves it out.

A model may train once in `learn_days` calendar days: a day in between takes the newest checkpoint as it is. Chunks of a
back-fill end where the next training is due, so that it draws the plans which the days one by one would.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokenlake.catalog import Plan
from tokenlake.errors import OrderError
from tokenlake.features.retention import outdated
from tokenlake.features.versions import finished
from tokenlake.lake.project import Project
from tokenlake.times import Day

ONE_DAY = dt.timedelta(days=1)


def plan(lake: Project, version: str, day: Day, *, learn_days: int = 1) -> Plan:
    """Return the recorded plan of a day; make and record one when there is none.

    Args:
        lake: the lake.
        version: the version.
        day: the day.
        learn_days: calendar days of one training, at least; 1: each day trains on the day before.
    """
    recorded = lake.catalog.plan(version, day)
    return recorded or lake.catalog.record_plan(_new_plan(lake, version, day, day, learn_days))


def plan_chunks(
    lake: Project, version: str, days: Sequence[Day], chunk_days: int, *, learn_days: int | None = None
) -> Iterator[list[Plan]]:
    """Plan days chunk by chunk; each chunk is recorded when the one before it has been consumed.

    Days with a plan keep it. New days are grouped, and trained for once.

    Args:
        lake: the lake.
        version: the version.
        days: days with events.
        chunk_days: calendar days of a chunk.
        learn_days: calendar days of one training, as of `plan`; chunks but the very first then end where the next is due.

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
        end = recorded.chunk_end if recorded else _chunk_end(lake, version, first, todo[-1], chunk_days, learn_days)
        chunk = [day for day in todo if day <= end]
        chunk_plan = recorded or _new_plan(lake, version, first, end, learn_days or 1)
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


def _chunk_end(
    lake: Project, version: str, first: Day, last: Day, chunk_days: int, learn_days: int | None = None
) -> Day:
    plans = lake.catalog.plans(version)
    if any(p.day > first for p in plans):
        return first  # a day that came late is a chunk of its own: it trains nothing
    if not plans or learn_days is None:
        return min(first + dt.timedelta(days=chunk_days - 1), last)
    newest = max(plans, key=_day)
    if _due(newest, first, learn_days) and _untrained(lake, newest, first):
        return min(first + dt.timedelta(days=learn_days - 1), last)
    ripe = first if newest.train_to is None else newest.train_to + dt.timedelta(days=learn_days)
    return max(first, min(ripe, last))


def _for_day(plan: Plan, day: Day) -> Plan:
    return replace(plan, day=day, bootstrap=_trained_on(plan, day))


def _trained_on(plan: Plan, day: Day) -> bool:
    return plan.train_to is None or plan.train_to >= day


def _new_plan(lake: Project, version: str, start: Day, end: Day, learn_days: int) -> Plan:
    plans = lake.catalog.plans(version)
    watermark = lake.watermark()
    if not plans:
        return Plan(version, start, end.isoformat(), None, start, end, start, end, bootstrap=True, watermark=watermark)
    gone = outdated(lake, version)
    usable = [p for p in plans if p.checkpoint not in gone]  # the newest checkpoint is kept, so there are some
    earlier = [p for p in usable if p.day < start]
    newest = max(earlier, key=_day) if earlier else min(usable, key=_day)
    current = _for_day(replace(newest, chunk_start=start, chunk_end=end, watermark=watermark), start)
    came_late = any(p.day > start for p in plans)
    if came_late or not _due(newest, start, learn_days) or not _untrained(lake, newest, start):
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


def _due(newest: Plan, start: Day, learn_days: int) -> bool:
    """Whether the days since the newest training make up the next one."""
    return newest.train_to is None or start - newest.train_to > dt.timedelta(days=learn_days)


def _untrained(lake: Project, newest: Plan, start: Day) -> bool:
    return any((newest.train_to is None or day > newest.train_to) and day < start for day in lake.events.days())
