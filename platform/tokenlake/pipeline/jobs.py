"""The daily jobs, one function each: ingest; train, encode, publish of instance tokens; those of the embeddings.

The DAGs, the command line and `lake.run` all call these functions. Each may be run again at any time, after a kill at
any point too: it finds its work done, or does it again with the recorded plan and writes the same.
"""

from __future__ import annotations

import datetime as dt

from tokenlake.catalog import IndexVersion, Run
from tokenlake.catalog.catalog import EMBED
from tokenlake.errors import VersionError
from tokenlake.feast import repository
from tokenlake.features import versions
from tokenlake.features.aggregations import Aggregations
from tokenlake.lake.project import Project
from tokenlake.pipeline.count_states import COUNTS, WATERMARK, CountStates, counted_events, tables_of
from tokenlake.pipeline.job import Job, JobResult, Value, has_events, measure, recorded_job, skipped
from tokenlake.pipeline.materialization import MATERIALIZE, materialize_day
from tokenlake.pipeline.plan import ONE_DAY, plan, require_order
from tokenlake.pipeline.statistics import COUNTED, STATISTICS, statistics_of, window_of
from tokenlake.progress import Progress
from tokenlake.storage.locks import hold
from tokenlake.times import Day

#: Seconds that a job waits for another that materializes.
FEAST_PATIENCE_S = 120.0
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_ACTIVE_USERS = "no user had done anything that the sources read"


def ingest(lake: Project, day: Day) -> JobResult:
    """Bring in the day's raw files from `landing`; skipped where the day has no events afterwards."""
    with recorded_job(lake, "ingest", day) as (run, summary):
        if lake.config.landing is not None:
            files = sorted(str(p) for p in lake.root.glob(lake.config.landing.format(ds=day.isoformat())))
            report = lake.ingest(files) if files else None
            if report is not None:
                summary |= {
                    "accepted": report.accepted,
                    "duplicates": report.duplicates,
                    "quarantined": report.quarantined,
                }
        rows = lake.events.count(day=day)
        summary["rows"] = rows
        if rows:
            run.artefact("events", f"{lake.events.path}?ds={day}", rows=rows)
        else:
            run.skip("no events")
            summary["reason"] = "no events"
    return JobResult("ingest", day, None, "done" if rows else "skipped", summary)


def train(lake: Project, day: Day, version: str) -> JobResult:
    """Make sure that the checkpoint which the day's plan names exists: train it on days before `day`.

    Raises:
        OrderError: an earlier day with events is not published yet.
        LockedError: another process trains this version.
    """
    if not has_events(lake, day):
        return skipped(lake, "train", day, version)
    versions.register(lake, version)
    require_order(lake, version, day)
    with (
        recorded_job(lake, "train", day, version) as (run, summary),
        hold(lake.data / "locks" / f"train-{version}", f"training of {version}"),
    ):
        day_plan = plan(lake, version, day)
        summary |= {"checkpoint": day_plan.checkpoint, "bootstrap": int(day_plan.bootstrap)}
        if not versions.exists(lake, version, day_plan.checkpoint):
            from tokenlake.pipeline.training import train_checkpoint

            summary |= train_checkpoint(lake, day_plan)
            run.artefact("checkpoint", str(versions.path_of(lake, version, day_plan.checkpoint)))
        measure(run, summary, "loss")
    return JobResult("train", day, version, "done", summary)


def encode(lake: Project, day: Day, version: str) -> JobResult:
    """Encode the day's events by its plan's checkpoint, into `instance_tokens` and `predictions`."""
    if not has_events(lake, day):
        return skipped(lake, "encode", day, version)
    require_order(lake, version, day)
    with recorded_job(lake, "encode", day, version) as (run, summary):
        from tokenlake.pipeline.encoding import encode_day

        summary |= encode_day(lake, plan(lake, version, day))
        run.artefact(
            "instance_tokens", f"{lake.instance_tokens.path}?version={version}&ds={day}", rows=int(summary["rows"] or 0)
        )
        run.artefact(
            "predictions", f"{lake.predictions.path}?version={version}&ds={day}", rows=int(summary["predictions"] or 0)
        )
    return JobResult("encode", day, version, "done", summary)


def publish(lake: Project, day: Day, version: str) -> JobResult:
    """Put the day's tokens into the token store; the day is done then."""
    if not has_events(lake, day):
        return skipped(lake, "publish", day, version)
    from tokenlake.pipeline.publishing import publish_day

    require_order(lake, version, day)
    with recorded_job(lake, "publish", day, version) as (run, summary):
        summary |= publish_day(lake, day, version)
        run.artefact("tokens", f"{lake.store_path(version)}?ds={day}", rows=int(summary["rows"] or 0))
    lake.catalog.clear_rerun(day, version, before=_encoding_started_at(lake, day, version))
    if lake.catalog.serving() is None and version == lake.resolve():
        lake.catalog.promote(version)
    return JobResult("publish", day, version, "done", summary)


#: The jobs of one encoder, in their order.
TOKEN_JOBS: tuple[Job, ...] = (train, encode, publish)


def train_embeddings(lake: Project, day: Day, version: str) -> JobResult:
    """Make sure that the user encoder's checkpoint which the day's plan names exists: train it on days before `day`.

    Raises:
        OrderError: an earlier day with events is not embedded yet.
        LockedError: another process trains this version.
    """
    if not has_events(lake, day):
        return skipped(lake, "train-embeddings", day, version)
    require_order(lake, version, day)
    with (
        recorded_job(lake, "train-embeddings", day, version) as (run, summary),
        hold(lake.data / "locks" / f"train-{version}", f"training of {version}"),
    ):
        day_plan = plan(lake, version, day)
        summary |= {"checkpoint": day_plan.checkpoint, "bootstrap": int(day_plan.bootstrap)}
        if not versions.exists(lake, version, day_plan.checkpoint):
            from tokenlake.pipeline.embedding import train_user_checkpoint

            summary |= train_user_checkpoint(lake, day_plan)
            run.artefact("checkpoint", str(versions.path_of(lake, version, day_plan.checkpoint)))
        measure(run, summary, "loss")
    return JobResult("train-embeddings", day, version, "done", summary)


def embed(lake: Project, day: Day, version: str) -> JobResult:
    """Embed every active user, and every item met, by the day's plan's checkpoint; the day is done then."""
    if not has_events(lake, day):
        return skipped(lake, EMBED, day, version)
    require_order(lake, version, day)
    with recorded_job(lake, EMBED, day, version) as (run, summary):
        from tokenlake.pipeline.embedding import embed_day

        summary |= embed_day(lake, plan(lake, version, day))
        _note_embedded(lake, run, summary)
    lake.catalog.clear_rerun(day, version, before=run.started_at)
    return JobResult(EMBED, day, version, "done", summary)


def embed_bucket(lake: Project, day: Day, version: str, bucket: int, buckets: int) -> JobResult:
    """Embed one of `buckets` parts of the day's users, into a file that `gather` reads; parts may run side by side.

    Raises:
        OrderError: an earlier day with events is not embedded yet.
        SchemaError: no such bucket.
    """
    if not has_events(lake, day):
        return skipped(lake, "embed-bucket", day, version)
    require_order(lake, version, day)
    with recorded_job(lake, "embed-bucket", day, version) as (_, summary):
        from tokenlake.pipeline.buckets import stage

        summary |= stage(lake, plan(lake, version, day), bucket, buckets)
    return JobResult("embed-bucket", day, version, "done", summary)


def gather(lake: Project, day: Day, version: str, buckets: int) -> JobResult:
    """Put the buckets together into what `embed` writes, bit for bit; the day is done then.

    A bucket that is missing, or was made of events that have changed since, is made here.
    """
    if not has_events(lake, day):
        return skipped(lake, EMBED, day, version)
    from tokenlake.pipeline import buckets as staging

    require_order(lake, version, day)
    day_plan = plan(lake, version, day)
    with recorded_job(lake, EMBED, day, version) as (run, summary):
        summary |= staging.gather(lake, day_plan, buckets)
        _note_embedded(lake, run, summary)
    lake.catalog.clear_rerun(day, version, before=run.started_at)
    staging.discard(lake, day_plan)
    return JobResult(EMBED, day, version, "done", summary)


def index(lake: Project, day: Day, version: str) -> JobResult:
    """Build the day's FAISS indexes of users and items.

    They are derived: only a day whose embeddings changed since is built again.

    Raises:
        OrderError: the day is not embedded yet.
        VersionError: not the version of the config's embeddings.
        MissingExtraError: faiss is not installed.
    """
    if not has_events(lake, day):
        return skipped(lake, "index", day, version)
    _require_embedded(lake, day, version)
    if day not in lake.user_embeddings.days(version):
        return skipped(lake, "index", day, version, reason=_NO_ACTIVE_USERS)
    with recorded_job(lake, "index", day, version) as (run, summary):
        from tokenlake.retrieval import build

        summary |= {"built": len(build.ensure_indexes(lake, [day]))}
        for made in _built(lake, day, version, "users", "items"):
            summary |= {made.name: made.rows, f"recall@10 of {made.name}": made.stats.get("recall@10")}
            run.artefact(f"index-{made.name}", f"{made.path}/{made.name}", rows=made.rows)
            run.metric("recall@10", made.stats.get("recall@10"), index=made.name)
    return JobResult("index", day, version, "done", summary)


def graph(lake: Project, day: Day, version: str) -> JobResult:
    """Build the day's graph of similar users, and its rows of `edges`; else as `index`, which it builds if need be."""
    if not has_events(lake, day):
        return skipped(lake, "graph", day, version)
    _require_embedded(lake, day, version)
    if day not in lake.user_embeddings.days(version):
        return skipped(lake, "graph", day, version, reason=_NO_ACTIVE_USERS)
    with recorded_job(lake, "graph", day, version) as (run, summary):
        from tokenlake.retrieval import build

        summary |= {"built": len(build.ensure_graphs(lake, [day]))}
        for made in _built(lake, day, version, "graph"):
            summary |= {"users": made.rows, "edges": made.stats["edges"], "weights": made.stats["weights"]}
            run.artefact("graph", f"{made.path}/graph.arrow", rows=made.rows)
            run.artefact("edges", f"{lake.edges.path}?version={version}&ds={day}", rows=made.stats["edges"])
    return JobResult("graph", day, version, "done", summary)


def _require_embedded(lake: Project, day: Day, version: str) -> None:
    if version != lake.config.embedding_version:
        raise VersionError(
            f"indexes and graph of {version} were asked for; the config's embeddings are {lake.config.embedding_version}"
        )
    require_order(lake, version, day + ONE_DAY)


def _built(lake: Project, day: Day, version: str, *names: str) -> list[IndexVersion]:
    return [made for made in lake.catalog.indexes(version) if made.day == day and made.name in names]


#: The jobs of the user and item embeddings, in their order.
EMBEDDING_JOBS: tuple[Job, ...] = (train_embeddings, embed)

#: What is derived of a day's embeddings, in its order.
RETRIEVAL_JOBS: tuple[Job, ...] = (index, graph)


def statistics(lake: Project, day: Day) -> JobResult:
    """Write what each user did lately, as it was known at the end of the day; counted from what the lake now holds."""
    if not has_events(lake, day):
        return skipped(lake, STATISTICS, day)
    with recorded_job(lake, STATISTICS, day) as (run, summary):
        rows, counted = statistics_of(lake, day)
        lake.user_statistics.replace_day(day, rows)
        summary |= {"rows": rows.num_rows, "events": counted}
        run.artefact("user_statistics", f"{lake.user_statistics.path}?ds={day}", rows=rows.num_rows)
        run.metric(COUNTED, counted, window=window_of(lake))
    return JobResult(STATISTICS, day, None, "done", summary)


def counts(lake: Project, day: Day) -> JobResult:
    """Write the declared aggregations that Feast serves: of each, the keys whose numbers changed, as of the day's end."""
    if not lake.config.served_counts:
        return skipped(lake, COUNTS, day, reason="`counts:` declares nothing that Feast serves")
    if not has_events(lake, day):
        return skipped(lake, COUNTS, day)
    with recorded_job(lake, COUNTS, day) as (run, summary):
        events, watermark, states = counted_events(lake)[day], lake.watermark(), lake.shared(CountStates)
        lake.shared(Aggregations).roll_on(watermark)
        for name in lake.config.served_counts:
            version = lake.config.count_version(name)
            summary[name] = rows = states.write_day(name, day, watermark)
            run.artefact("counts", f"{tables_of(lake, name)[0].path}?version={version}&ds={day}", rows=rows)
            run.metric(COUNTED, events, version=version)
            run.metric(WATERMARK, watermark, version=version)
        summary |= {"rows": sum(rows for rows in summary.values() if isinstance(rows, int)), "events": events}
    return JobResult(COUNTS, day, None, "done", summary)


def materialize(lake: Project, day: Day, progress: Progress | None = None) -> JobResult:
    """Register the lake's Feast definitions, and bring Feast's online store up to the end of the day.

    A rerun of an old day writes what is newest by now, never an old value over a newer one. Skipped where the lake has
    no feature repository, or Feast is not installed. `progress` is told of each view of token sequences how many users'
    are written, and of how many.

    Raises:
        LockedError: another process is at it, for long.
        ConfigError: a file of the feature repository that cannot be used.
        ServiceError: the registry or the online store does not answer.
    """
    reason = repository.lacking(lake.root)
    if reason is not None:
        return skipped(lake, MATERIALIZE, day, reason=reason)
    import tokenlake.feast.materialize  # noqa: F401  # takes seconds, and others need not wait for that

    with (
        recorded_job(lake, MATERIALIZE, day) as (run, summary),
        hold(lake.data / "locks" / MATERIALIZE, "materializing into Feast", timeout=FEAST_PATIENCE_S),
    ):
        summary |= materialize_day(lake, day, run, progress)
    return JobResult(MATERIALIZE, day, None, "done", summary)


def _note_embedded(lake: Project, run: Run, summary: dict[str, Value]) -> None:
    for table, rows in ((lake.user_embeddings, summary["rows"]), (lake.item_embeddings, summary["items"])):
        run.artefact(table.path.name, f"{table.path}?version={run.version}&ds={run.day}", rows=int(rows or 0))


def _encoding_started_at(lake: Project, day: Day, version: str) -> dt.datetime:
    """When the encoding of what is published now began: events that came since are not in it, so the day stays marked for a restatement."""
    runs = lake.catalog.runs(job="encode", day=day, version=version, status="done")
    return max((run.started_at for run in runs), default=_EPOCH)
