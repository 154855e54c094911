"""`tokenlake run` and `tokenlake backfill`, as typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.fixtures.lakes import day, make_events, make_lake
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import NotFoundError, OrderError, SchemaError


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_lake(tmp_path_factory.mktemp("commanded"))
    lake.ingest(make_events(days=5))
    return lake


def test_backfill_in_parallel_does_what_backfill_in_turn_does(lake: Lake, tmp_path: Path) -> None:
    assert "24 jobs on 4 days" in call("backfill", lake.root, day(0), day(3), "--parallel").output
    alone = make_lake(tmp_path)
    alone.ingest(make_events(days=5))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as each of the two processes: sums in the same order
    try:
        alone.backfill(day(0), day(3))
    finally:
        torch.set_num_threads(threads)
    order = [("version", "ascending"), ("event_id", "ascending")]
    assert lake.instance_tokens.read().sort_by(order).equals(alone.instance_tokens.read().sort_by(order))


def test_run_does_the_next_day_and_then_has_nothing_to_do(lake: Lake) -> None:
    first = call("run", lake.root, day(4))
    assert first.exit_code == 0
    assert first.output.count("publish") == 2
    again = call("run", lake.root, day(4))
    assert again.output.count("done before") == 2
    assert "0 jobs" in call("backfill", lake.root).output


def test_forced_it_runs_again(lake: Lake) -> None:
    assert call("run", lake.root, day(4), "--force").output.count("publish") == 2


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (("run", "yesterday"), SchemaError, "not a day"),
        (("backfill", "--version", "nobody"), NotFoundError, "no version or encoder 'nobody'"),
    ],
)
def test_mistakes_are_named(lake: Lake, words: tuple[str, ...], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(words[0], lake.root, *words[1:])


def test_a_day_out_of_order_waits(tmp_path: Path) -> None:
    lake = make_lake(tmp_path)
    lake.ingest(make_events(days=3))
    with pytest.raises(OrderError, match="2 earlier days"):
        call("run", lake.root, day(2))
