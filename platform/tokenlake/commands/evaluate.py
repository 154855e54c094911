"""`tokenlake evaluate`: the encoders' metrics beside their baselines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.commands._bars import bar
from tokenlake.commands._common import console, lake_argument

if TYPE_CHECKING:
    from rich.table import Table

    from tokenlake.lake.lake import Lake
    from tokenlake.pipeline.evaluate import TokenReport
    from tokenlake_models.metrics import Interval


@click.command()
@lake_argument
@click.option("--controls/--no-controls", default=True, help="Train what is missing of the baselines first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(lake: Path, *, controls: bool, as_json: bool) -> None:
    """Print AUC, GAUC, NE and log loss of the source models of LAKE, progressively over all days after the bootstrap chunk.

    Beside them: the base rate, a logistic regression on the same features, and each with and without the running counts.
    """
    import tokenlake
    from tokenlake.pipeline.evaluate import token_report

    opened = tokenlake.open(lake)
    if controls:
        train_controls(opened)
    report = token_report(opened)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), default=str, indent=2))
    else:
        for label in report.rows:
            console.print(as_table(report, label))


def train_controls(lake: Lake) -> None:
    """Run the controls whose predictions are not complete, with a bar each."""
    from tokenlake.pipeline.controls import controls_of, is_complete
    from tokenlake.pipeline.parallel import run_controls

    plans = lake.catalog.plans(lake.resolve())
    if missing := [control for control in controls_of(lake) if not is_complete(lake, control, plans)]:
        with bar() as progress:
            run_controls(lake, missing, progress)


def as_table(report: TokenReport, label: str) -> Table:
    """One label's scores, best NE last."""
    from rich.table import Table

    sampled = " (negatives were sampled)" if report.sampled else ""
    table = Table(
        title=f"{label}{sampled}: {report.rows[label]:,} rows of {report.users[label]:,} users, {report.first} to {report.last}, "
        f"{report.base_rate[label]:.1%} positive"
    )
    table.add_column("model")
    for name in ("AUC [95%]", "GAUC", "NE [95%]", "log loss"):
        table.add_column(name, justify="right")
    scores = [score for score in report.scores if score.label == label]
    for score in sorted(scores, key=lambda score: -(score.ne.value if score.ne else 9.0)):
        table.add_row(
            score.model, _interval(score.auc), _number(score.gauc), _interval(score.ne), _number(score.log_loss)
        )
    return table


def _interval(value: Interval | None) -> str:
    return "n/a" if value is None else f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
