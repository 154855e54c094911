"""`tokenlake audit`: checks a training set for values that became known after the row's time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._bars import bar
from tokenlake.commands._common import console, instant, open_store
from tokenlake.commands._tables import WholeTable, print_tables
from tokenlake.storage import atomic

if TYPE_CHECKING:
    from tokenlake.audit import AuditReport


def _pairs(_: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [label + sign + column for label, sign, column in pairs if not (label and column)]:
        raise click.BadParameter(f"{wrong[0]!r}; write LABEL=COLUMN, such as clicked=clicked_known_at", param=parameter)
    return {label: column for label, _, column in pairs}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--lake", type=click.Path(path_type=Path), help="A lake or a token store to compare the values with.")
@click.option("--version", help="Version of the lake's tokens; default: the table's, or the serving one.")
@click.option("--user", metavar="COLUMN", help="Column of user ids.")
@click.option("--time", metavar="COLUMN", help="Column of the rows' times.")
@click.option("--timestamps", metavar="COLUMN", multiple=True, help="Column of token times: lists, or one per row.")
@click.option("--available", type=click.Choice(["realtime", "daily"]), help="When a token becomes visible.")
@click.option("--length", type=click.IntRange(1), help="Tokens that each row should have, if the user has as many.")
@click.option(
    "--known-at",
    metavar="LABEL=COLUMN",
    multiple=True,
    callback=_pairs,
    help="Column of the times at which an input label becomes known.",
)
@click.option(
    "--target", "targets", metavar="LABEL=COLUMN", multiple=True, callback=_pairs, help="The same for a target."
)
@click.option("--as-of", callback=lambda c, p, v: v and instant(c, p, v), metavar="TIME", help="Instant of training.")
@click.option("--out", type=click.Path(path_type=Path), help="Write every leak to this Parquet file.")
@click.option("--show", type=click.IntRange(0), default=20, show_default=True, help="Leaks to print.")
@json_option
def command(
    path: Path, lake: Path | None, version: str | None, out: Path | None, show: int, *, as_json: bool, **options: object
) -> None:
    """Check the training set PATH (Parquet, or another format of docs/lake.md) row by row; exits with 1 if a value became known after its row's time.

    Options name the columns; the others are taken from the file's own metadata, else found by their names (user_id;
    event_timestamp or timestamp; lists named ...timestamps, as in Feast's token views).
    """
    import pyarrow.parquet as pq

    from tokenlake.audit import audit
    from tokenlake.times import as_micros

    if (when := options.pop("as_of")) is not None:
        options["as_of"] = int(as_micros(when))
    store = None if lake is None else open_store(lake, version or _version(path, lake))
    with bar() as progress:
        report = audit(path, store, progress=progress, **options)
    if out is not None:
        with atomic.file(out) as part:
            pq.write_table(report.leaks, part)
    if as_json:
        print_json(_facts(report, show, against_store=store is not None))
    else:
        _print(report, show, "" if store is None else ", and all is as in the store")
    if not report.clean:
        raise SystemExit(1)


def _facts(report: AuditReport, show: int, *, against_store: bool) -> dict[str, Any]:
    leaks = report.leaks
    return {
        "clean": report.clean,
        "rows": report.rows,
        "tokens": report.tokens,
        "available": report.columns.available,
        "against_store": against_store,
        "leaks": leaks.num_rows,
        "leaking_rows": len(leaks["row"].unique()),
        "shown": leaks.slice(0, show).to_pylist(),
    }


def _print(report: AuditReport, show: int, as_stored: str) -> None:
    told = f"{report.rows:,} rows with {report.tokens:,} tokens ({report.columns.available})"
    if report.clean:
        console.print(f"{told}: nothing was known later{as_stored}.")
        return
    leaks = report.leaks
    title = f"leaks: {leaks.num_rows:,}, of {len(leaks['row'].unique()):,} rows"
    table = WholeTable(*leaks.column_names, title=title)
    for line in leaks.slice(0, show).to_pylist():
        table.add_row(*("" if value is None else str(value) for value in line.values()))
    print_tables(table)
    console.print(told)


def _version(path: Path, lake: Path) -> str | None:
    """The version in the file's metadata, if `lake` is a lake."""
    from tokenlake.audit.written import read_description
    from tokenlake.errors import TokenlakeError
    from tokenlake.reading.source import open_source
    from tokenlake.tokens import manifest

    if (lake / manifest.NAME).is_file():
        return None
    try:
        return read_description(open_source(path).files[0].schema).get("version")
    except TokenlakeError:
        return None  # the audit reports what is wrong with the file
