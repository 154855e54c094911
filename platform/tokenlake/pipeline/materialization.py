"""Which days have to be written to Feast's online store; read from the catalog alone, so that this imports no Feast."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from tokenlake.catalog import Run, RunRecord
from tokenlake.catalog.catalog import EMBED, PUBLISH
from tokenlake.feast import repository
from tokenlake.lake.project import Project
from tokenlake.pipeline.count_states import COUNTS
from tokenlake.pipeline.statistics import STATISTICS
from tokenlake.progress import Progress
from tokenlake.times import Day, available_at

MATERIALIZE = "materialize"
#: The metric of a run that tells, by its label, which registry and online store it wrote to.
_VIEWS = "views"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def materialize_day(
    lake: Project, day: Day, run: Run, progress: Progress | None = None
) -> Mapping[str, int | str | None]:
    """Bring Feast's online store up to the end of a day, with every day that was written since the last time.

    The run tells of each view what was written and how: `copied` as its source has it, `computed` by Feast, or `pushed`,
    which nothing but pushes fills.

    Returns:
        Rows written: of each view (None: Feast's engine does not tell), and `rows` of all; `computed` names the views that
        Feast computed, where there are any.

    Raises:
        TokenlakeError: a view could not be brought up to date; the others are, and the next run finishes it.
    """
    from tokenlake.feast.materialize import materialize

    folder, store = lake.root / repository.FOLDER, repository.identity(lake.root)
    last = _last(lake)
    since = None
    if last is not None and last.day is not None:
        since = _end(min({day, last.day + dt.timedelta(days=1), *_written(lake, last.started_at)}))
    # Other views may hold later days already: never write an older value over a newer one.
    until = _end(max(day, materialized_until(lake) or day))
    outcome = materialize(folder, since, until, progress)
    for view, written in outcome.rows.items():
        run.artefact("feast", f"{folder}?view={view}&ds={day}", rows=written)
        run.metric("materialized", written, view=view, way=outcome.ways[view])
    for view in outcome.failures:
        run.metric("failed", 1, view=view)
    outcome.check()
    run.metric(_VIEWS, len(outcome.rows), store=store)
    computed = [view for view, way in outcome.ways.items() if way == "computed"]
    told = {"computed": ", ".join(computed)} if computed else {}
    return outcome.rows | told | {"rows": sum(rows or 0 for rows in outcome.rows.values())}


def is_current(lake: Project, day: Day) -> bool:
    """Whether the day, and every day written since, is in the online store of the repository as it stands."""
    last = _last(lake)
    held = materialized_until(lake)
    return last is not None and held is not None and held >= day and not _written(lake, last.started_at)


def materialized_until(lake: Project) -> Day | None:
    """The last day that the registry and online store of the repository hold; None where they hold nothing yet.

    Raises:
        ConfigError: the `feature_store.yaml` cannot be understood.
    """
    store = repository.identity(lake.root)
    told = [m for m in lake.catalog.metrics(_VIEWS, job=MATERIALIZE) if m.labels.get("store") == store]
    return max((metric.day for metric in told if metric.day is not None), default=None)


def _last(lake: Project) -> RunRecord | None:
    """The newest run, where it wrote to the registry and online store that the repository names now."""
    told = max(lake.catalog.metrics(_VIEWS, job=MATERIALIZE), key=lambda metric: metric.run_id, default=None)
    if told is None or told.labels.get("store") != repository.identity(lake.root):
        return None
    return next(run for run in lake.catalog.runs(job=MATERIALIZE) if run.id == told.run_id)


def _written(lake: Project, since: dt.datetime) -> set[Day]:
    """Days that were embedded, counted, or whose tokens were published since a time."""
    runs = [run for job in (STATISTICS, COUNTS, PUBLISH) for run in lake.catalog.runs(job=job, status="done")]
    if lake.config.embeddings:
        runs += lake.catalog.runs(job=EMBED, version=lake.config.embedding_version, status="done")
    return {run.day for run in runs if run.day is not None and run.ended_at is not None and run.ended_at >= since}


def _end(day: Day) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=available_at(day))
