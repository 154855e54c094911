"""What the demo takes by default, in full, and as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tokenlake.cli import app
from tokenlake.commands import demo
from tokenlake.commands._demo_forms import form_of
from tokenlake.times import as_day


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    runs: list[Any] = []
    monkeypatch.setattr(demo, "_run", lambda *given: runs.append(given))
    return runs


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, ["demo", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_short_by_default_and_whole_when_asked_in_folders_of_their_own(asked: list[Any]) -> None:
    run()
    run("--full")
    (short, whole) = asked
    assert short[:2] == ("complete-journey", Path("demo/complete-journey"))
    assert whole[:2] == ("complete-journey", Path("demo/complete-journey-full"))
    assert (short[2].households, short[2].airflow_days, short[2].controls) == (300, 1, False)
    assert (short[2].days[1] - short[2].days[0]).days == 8 * 7 - 1
    assert (whole[2].households, whole[2].days, whole[2].airflow_days, whole[2].controls) == (400, None, 2, True)
    assert whole[2].report_days == 28


def test_options_override_the_form(asked: list[Any], tmp_path: Path) -> None:
    run("--households", "7", "--days", "2017-03-01", "2017-04-01", "--airflow-days", "0", "--out", str(tmp_path))
    ((_, folder, form),) = asked
    assert folder == tmp_path
    assert (form.households, form.airflow_days) == (7, 0)
    assert form.days == (as_day("2017-03-01"), as_day("2017-04-01"))


@pytest.mark.parametrize("dataset", ["complete-journey", "movielens-100k"])
def test_the_graph_that_is_shown_is_one_that_the_report_needs(dataset: str) -> None:
    from tokenlake.commands import _demo_retrieval

    form = form_of(dataset, full=False)
    assert form.days is not None
    assert _demo_retrieval._TAIL.days < form.report_days
