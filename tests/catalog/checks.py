"""What must hold on every database: run by the SQLite tests here and by the Postgres ones of tests/integration."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tokenlake.catalog import Catalog, CheckpointRecord, IndexVersion, Plan, dropping
from tokenlake.catalog.models import Base
from tokenlake.errors import ConflictError, LockedError, NotFoundError, VersionError

DAY = dt.date(2017, 3, 1)


def a_plan(version: str = "v1", day: dt.date = DAY, checkpoint: str = "2017-02-28", watermark: int = 7) -> Plan:
    return Plan(version, day, checkpoint, None, None, day, day, day, bootstrap=False, watermark=watermark)


def a_checkpoint(version: str, checkpoint: str = "2017-02-28") -> CheckpointRecord:
    return CheckpointRecord(version, checkpoint, None, None, DAY, "checkpoints/x", 10, stats={"loss": 0.5})


def check_schema_is_what_the_models_say(catalog: Catalog) -> None:
    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def check_versions(catalog: Catalog) -> None:
    assert catalog.versions() == []
    assert catalog.serving() is None
    with pytest.raises(NotFoundError, match="no version serves"):
        catalog.rollback()
    with pytest.raises(NotFoundError, match="none yet"):
        catalog.promote("v1")
    for version in ("v1", "v2"):
        catalog.add_version(version, "iat", {"dim": 64, "rate": 0.1})
    assert catalog.add_version("v1", "iat", {"rate": 0.1, "dim": 64}) == catalog.versions()[0]
    with pytest.raises(VersionError, match="another encoder or spec"):
        catalog.add_version("v1", "iat", {"dim": 32})
    with pytest.raises(VersionError, match="no checkpoint yet"):
        catalog.promote("v1")
    for version in ("v1", "v2"):
        catalog.add_checkpoint(a_checkpoint(version))

    assert catalog.promote("v1") is None
    with pytest.raises(NotFoundError, match="no version served before 'v1'"):
        catalog.rollback()
    assert catalog.promote("v2") == "v1"
    assert catalog.promote("v2") == "v1"  # again: nothing changes
    assert [(v.version, v.state, v.previous) for v in catalog.versions()] == [
        ("v1", "retired", None),
        ("v2", "serving", "v1"),
    ]
    assert catalog.rollback() == "v1"
    assert catalog.serving() == "v1"
    assert [v.state for v in catalog.versions()] == ["serving", "candidate"]
    promoted = catalog.versions()[0].promoted_at
    assert promoted is not None
    assert promoted.tzinfo is dt.UTC


def check_one_version_serves_under_concurrent_promotions(catalog: Catalog) -> None:
    versions = [f"v{i}" for i in range(4)]
    for version in versions:
        catalog.add_version(version, "iat", {})
        catalog.add_checkpoint(a_checkpoint(version))

    def promote(version: str) -> None:
        for _ in range(5):
            try:
                catalog.promote(version)
            except ConflictError:  # Postgres: another one won; a scheduler tries again
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promote, versions))
    assert [v.state for v in catalog.versions()].count("serving") == 1


def check_a_version_is_dropped_and_no_other(catalog: Catalog) -> None:
    for version in ("v1", "v2"):
        catalog.add_version(version, "iat", {})
        catalog.add_checkpoint(a_checkpoint(version))
        catalog.record_plan(a_plan(version))
        catalog.add_index(IndexVersion("users", version, "2017-02-28", DAY, "index", 3))
        catalog.mark_rerun([DAY], "late events")
        with catalog.run("publish", day=DAY, version=version) as run:
            run.artefact("tokens", "tokens", rows=3)
            run.metric("auc", 0.5)
        catalog.promote(version)

    def held(version: str) -> list[int]:
        found = [
            catalog.plans(version),
            catalog.checkpoints(version),
            catalog.indexes(version),
            catalog.restatements(version),
        ]
        found += [catalog.runs(version=version), catalog.metrics(version=version)]
        return [len(rows) for rows in found]

    with pytest.raises(VersionError, match="'v2' serves"):
        dropping.begin(catalog, "v2")
    with catalog.run("publish", day=DAY, version="v1"), pytest.raises(LockedError, match="publish of v1 runs"):
        dropping.begin(catalog, "v1")
    dropping.end(catalog, "v1")  # it has not begun
    assert held("v1") == [1, 1, 1, 1, 2, 0]  # the run above did nothing
    for _ in range(2):  # the second as after a kill
        dropping.begin(catalog, "v1")
        assert held("v1") == [0] * 6
        assert [(v.version, v.state, v.previous) for v in catalog.versions()] == [
            ("v1", "dropping", None),
            ("v2", "serving", None),
        ]
        with pytest.raises(VersionError, match="is being removed"):
            catalog.add_version("v1", "iat", {})
    dropping.end(catalog, "v1")
    assert [v.version for v in catalog.versions()] == ["v2"]
    assert held("v2") == [1] * 6
    with pytest.raises(NotFoundError, match=r"no version 'v1' to drop; known: \['v2'\]"):
        dropping.begin(catalog, "v1")


def check_the_first_plan_stands(catalog: Catalog) -> None:
    assert catalog.plan("v1", DAY) is None
    plans = [a_plan(watermark=i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        standing = set(pool.map(catalog.record_plan, plans))
    assert standing == {catalog.plan("v1", DAY)}
    later = a_plan(day=DAY + dt.timedelta(1))
    assert catalog.record_plan(later) == later
    assert [p.day for p in catalog.plans("v1")] == [DAY, later.day]
    assert catalog.plans("v2") == []


def check_checkpoints_and_indexes(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="none yet"):
        catalog.checkpoint("v1", "2017-02-28")
    first = a_checkpoint("v1")
    catalog.add_checkpoint(first)
    again = a_checkpoint("v1")
    catalog.add_checkpoint(again)
    assert catalog.checkpoints("v1") == [again]
    assert catalog.checkpoint("v1", "2017-02-28") == again
    index = IndexVersion("tokens", "v1", "2017-02-28", DAY, "tokens/v1", 5)
    catalog.add_index(index)
    assert catalog.indexes("v1") == [index]


def check_runs(catalog: Catalog) -> None:
    with catalog.run("encode", DAY, "v1") as run:
        assert catalog.last_runs(1)[0].status == "running"
        run.artefact("tokens", "tokens/v1", rows=3, bytes=12)
        run.metric("auc", 0.7, label="clicked", rows=3)
        run.metric("gauc", float("nan"))
    with pytest.raises(OSError, match="disk"), catalog.run("encode", DAY + dt.timedelta(1), "v1"):
        raise OSError("disk")
    done, failed = catalog.runs(job="encode")
    assert (done.status, done.message, failed.status, failed.error_type) == (
        "done",
        None,
        "failed",
        "OSError",
    )
    assert done.ended_at is not None
    assert done.ended_at >= done.started_at
    assert catalog.runs(day=DAY) == [done]
    assert catalog.runs(status="failed", version="v1") == [failed]
    assert [(m.name, m.value, m.labels) for m in catalog.metrics()] == [
        ("auc", 0.7, {"label": "clicked", "rows": "3"}),
        ("gauc", None, {}),
    ]


def check_arrow(catalog: Catalog) -> None:
    empty = catalog.arrow()
    assert {t.num_rows for t in empty.values()} == {0}
    catalog.add_version("v1", "iat", {"dim": 64})
    catalog.add_checkpoint(a_checkpoint("v1"))
    catalog.record_plan(a_plan())
    catalog.add_index(IndexVersion("tokens", "v1", "2017-02-28", DAY, "tokens/v1", 5))
    catalog.mark_rerun([DAY], "late")
    with catalog.run("encode", DAY, "v1") as run:
        run.artefact("tokens", "tokens/v1", rows=3)
        run.metric("auc", None, label="clicked")
    full = catalog.arrow()
    assert {name: t.num_rows for name, t in full.items()} == dict.fromkeys(empty, 1)
    assert {name: t.schema for name, t in full.items()} == {name: t.schema for name, t in empty.items()}
    assert full["versions"]["spec"].to_pylist() == ['{"dim": 64}']
    assert full["runs"].schema.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert full["plans"]["day"].to_pylist() == [DAY]


ALL = [check for name, check in sorted(globals().items()) if name.startswith("check_")]
