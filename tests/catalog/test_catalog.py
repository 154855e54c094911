from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures import catalog_checks
from tests.fixtures.catalog_checks import DAY, a_plan
from tokenlake.catalog import Catalog
from tokenlake.errors import OrderError, SchemaError


@pytest.mark.parametrize("check", catalog_checks.ALL, ids=lambda check: check.__name__.removeprefix("check_"))
def test_on_sqlite(catalog: Catalog, check: Callable[[Catalog], None]) -> None:
    check(catalog)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (SchemaError("bad"), "failed", "terminal"),
        (OrderError("early"), "failed", "transient"),
        (OSError("disk"), "failed", "terminal"),
        (KeyboardInterrupt(), "interrupted", "transient"),
        (SystemExit(1), "interrupted", "transient"),
    ],
)
def test_how_a_run_ended(catalog: Catalog, error: BaseException, status: str, kind: str) -> None:
    with pytest.raises(type(error)), catalog.run("train", DAY, "v1"):
        raise error
    (run,) = catalog.last_runs(5)
    assert (run.status, run.error_kind, run.message) == (status, kind, str(error))


def test_a_skipped_run_says_why_and_changes_no_day(catalog: Catalog) -> None:
    with catalog.run("encode", DAY, "v1"):
        pass
    with catalog.run("encode", DAY, "v1") as run:
        run.skip("encoded already")
    assert catalog.last_runs(1)[0].message == "encoded already"
    assert catalog.done("v1", "encode") == {DAY}


def test_a_failed_rerun_makes_a_day_undone_but_not_unpublished(catalog: Catalog) -> None:
    assert not catalog.is_published(DAY)
    with catalog.run("publish", DAY, "v1"):
        assert catalog.done("v1", "publish") == set()
    assert catalog.done("v1", "publish") == {DAY}
    assert catalog.done("v2", "publish") == set()
    with pytest.raises(OSError, match="disk"), catalog.run("publish", DAY, "v1"):
        raise OSError("disk")
    assert catalog.done("v1", "publish") == set()
    assert catalog.is_published(DAY)
    assert not catalog.is_published(DAY + dt.timedelta(1))


def test_metrics_are_those_of_the_newest_done_run(catalog: Catalog) -> None:
    for value in (0.6, 0.7):
        with catalog.run("train", DAY, "v1") as run:
            run.metric("auc", value)
    with suppress(OSError), catalog.run("train", DAY, "v1") as run:
        run.metric("auc", 0.1)
        raise OSError
    with catalog.run("ingest") as run:
        run.metric("rows", 5)
    assert [m.value for m in catalog.metrics("auc", version="v1", day=DAY, job="train")] == [0.7]
    assert [m.value for m in catalog.metrics("rows")] == [5.0]
    assert [m.value for m in catalog.metrics(day=DAY)] == [0.7]
    assert catalog.arrow()["metrics"]["value"].to_pylist() == [0.6, 0.7, 0.1, 5.0]


def test_reruns_are_pending_for_each_version_that_planned_the_day(catalog: Catalog) -> None:
    other = DAY + dt.timedelta(1)
    for version in ("v1", "v2"):
        catalog.record_plan(a_plan(version))
    catalog.mark_rerun([DAY, other, DAY], "late events")
    assert [(r.day, r.version) for r in catalog.restatements()] == [(DAY, "v1"), (DAY, "v2"), (other, None)]
    catalog.clear_rerun(DAY, "v1")
    assert [(r.day, r.version) for r in catalog.restatements()] == [(DAY, "v2"), (other, None)]
    assert [r.day for r in catalog.restatements("v1")] == [other]
    catalog.clear_rerun(DAY)
    catalog.clear_rerun(other, "v1")
    assert catalog.restatements() == []


def test_a_mark_made_during_the_rerun_stays(catalog: Catalog) -> None:
    catalog.record_plan(a_plan())
    catalog.mark_rerun([DAY], "late")
    with catalog.run("encode", DAY, "v1") as run:
        catalog.mark_rerun([DAY], "later still")
    catalog.clear_rerun(DAY, "v1", before=run.started_at)
    assert [r.reason for r in catalog.restatements("v1")] == ["later still"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["done", "failed", "skipped"]), st.integers(0, 2)), max_size=8))
def test_done_is_what_a_plain_loop_says(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
) -> None:
    catalog = Catalog.open(tmp_path_factory.mktemp("done") / "c.sqlite")
    newest: dict[dt.date, str] = {}
    for status, offset in history:
        day = DAY + dt.timedelta(offset)
        with suppress(OSError), catalog.run("encode", day, "v1") as run:
            if status == "skipped":
                run.skip("nothing")
            if status == "failed":
                raise OSError
        if status != "skipped":
            newest[day] = status
    assert catalog.done("v1", "encode") == {day for day, status in newest.items() if status == "done"}
