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

    from tokenlake._lake import Lake
    from tokenlake.evaluation.controls import Control
    from tokenlake.evaluation.retrieval import RetrievalReport
    from tokenlake.evaluation.tokens import TokenReport
    from tokenlake_models.metrics import Interval


@click.command()
@lake_argument
@click.option("--controls/--no-controls", default=True, help="Train what is missing of the baselines first.")
@click.option(
    "--part",
    type=click.Choice(["tokens", "retrieval", "ranker"]),
    metavar="PART",
    help="tokens, retrieval or ranker; default: first two.",
)
@click.option("--ablations", is_flag=True, help="Retrieval also without each of its parts.")
@click.option("--retrain", is_flag=True, help="Retrieval also by other encoders, which it trains.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(lake: Path, *, controls: bool, part: str | None, ablations: bool, retrain: bool, as_json: bool) -> None:
    """Print AUC, GAUC, NE and log loss of the source models of LAKE, progressively over all days after the bootstrap chunk.

    Beside them: the base rate, a logistic regression on the same features, and each with and without the running counts.
    Where there are user embeddings, recall and NDCG of their candidates over the last 28 days follow, beside popularity
    and item-kNN. `--retrain` adds user encoders without their time inputs and of other widths: each is trained and embedded
    over all days first, once, as a lineage of its own that nothing else reads.

    `--part ranker` trains a two-layer HSTU ranker over the stored tokens, in one pass in order of time, and prints its
    metrics beside the base rate's and the source model's.
    """
    import tokenlake

    opened = tokenlake.open(lake)
    if part == "ranker":
        print_ranker(opened, as_json=as_json)
    if part in {None, "tokens"}:
        print_tokens(opened, controls=controls, as_json=as_json)
    if part == "retrieval" or (part is None and opened.config.embeddings):
        print_retrieval(opened, ablations=ablations, retrain=retrain, as_json=as_json)


def print_retrieval(opened: Lake, *, ablations: bool, retrain: bool = False, as_json: bool) -> None:
    """Measure candidates, and print the table or JSON."""
    from tokenlake.evaluation.retrieval import retrieval_report

    with bar() as progress:
        report = retrieval_report(opened, ablations=ablations, retrain=retrain, progress=progress)
    if report.indexed:
        click.echo(f"indexed and linked {report.indexed} days that it asks about", err=True)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), default=str, indent=2))
    else:
        console.print(retrieval_table(report))


def retrieval_table(report: RetrievalReport) -> Table:
    """Every method on all, warm and cold users."""
    from rich.table import Table

    table = Table(
        title=f"next positive item, {report.events:,} events of {report.people:,} users, {report.first} to {report.last}"
    )
    for name in ("users", "method"):
        table.add_column(name)
    lift = "over 28 days' popularity [95%]"
    for name in ("events", f"recall@{report.k}", lift, f"NDCG@{report.k}"):
        table.add_column(name, justify="right")
    group = ""
    for score in report.scores:
        if group and score.users != group:
            table.add_section()
        group = score.users
        difference = f"{score.lift.value:+.4f} [{score.lift.low:+.4f}, {score.lift.high:+.4f}]"
        table.add_row(
            score.users, score.method, f"{score.events:,}", f"{score.recall:.4f}", difference, f"{score.ndcg:.4f}"
        )
    return table


def print_ranker(opened: Lake, *, as_json: bool = False) -> None:
    """Train the ranker where it is not trained yet, and print its tables or JSON."""
    from tokenlake.evaluation.ranker import RankerOptions, is_trained, ranker_report, train_ranker

    version, options = opened.resolve(), RankerOptions()
    if not is_trained(opened, version, options):
        with bar() as progress:
            train_ranker(opened, version, options, progress)
    _print(ranker_report(opened, version, options), as_json=as_json)


def print_tokens(opened: Lake, *, controls: bool, as_json: bool) -> None:
    """Score the source models, and print the tables or JSON."""
    from tokenlake.evaluation.tokens import token_report

    if controls:
        train_controls(opened)
    _print(token_report(opened), as_json=as_json)


def _print(report: TokenReport, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), default=str, indent=2))
    else:
        for label in report.rows:
            console.print(as_table(report, label))


def train_controls(lake: Lake) -> None:
    """Run the controls whose predictions are not complete, with a bar each."""
    from tokenlake.evaluation.controls import run_controls

    if missing := missing_controls(lake):
        with bar() as progress:
            run_controls(lake, missing, progress)


def missing_controls(lake: Lake) -> list[Control]:
    """The controls whose predictions are not complete."""
    from tokenlake.evaluation.controls import controls_of, is_complete

    plans = lake.catalog.plans(lake.resolve())
    return [control for control in controls_of(lake) if not is_complete(lake, control, plans)]


def as_table(report: TokenReport, label: str) -> Table:
    """One label's scores, best NE last."""
    from rich.markup import escape
    from rich.table import Table

    sampled = " (negatives were sampled)" if report.sampled else ""
    table = Table(
        title=f"{escape(label)}{sampled}: {report.rows[label]:,} rows of {report.users[label]:,} users, {report.first} to {report.last}, "
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
