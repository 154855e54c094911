"""`tokenlake counts`: what a lake counts, and the counts of rows at an instant."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import instant, lake_argument
from tokenlake.commands._tables import WholeTable, print_tables

#: Rows of a file that are shown to people.
_SHOWN = 50

if TYPE_CHECKING:
    import pyarrow as pa

    from tokenlake._lake import Lake


def _instant(context: click.Context, option: click.Parameter, value: str | None) -> dt.datetime | None:
    return None if value is None else instant(context, option, value)


@click.command()
@lake_argument
@click.option("--explain", is_flag=True, help="Print what each definition counts, and what its state takes.")
@click.option("--user", help="A user.")
@click.option("--item", help="An item.")
@click.option("--set", "features", multiple=True, metavar="FEATURE=VALUE", help="A feature; again for more of them.")
@click.option("--rows", type=click.Path(path_type=Path), help="Rows of a Parquet or CSV file, with a column a key.")
@click.option(
    "--at", callback=_instant, metavar="TIME", help="ISO time; UTC without a zone; default: the rows' or now."
)
@click.option("--name", "names", multiple=True, help="Only this definition; again for more of them.")
@json_option
def command(
    lake: Path,
    user: str | None,
    item: str | None,
    features: tuple[str, ...],
    rows: Path | None,
    at: dt.datetime | None,
    names: tuple[str, ...],
    *,
    explain: bool,
    as_json: bool,
) -> None:
    """Print the declared aggregations of LAKE for a user and an item, or for the rows of a file, as known at a time.

    With --explain: what tokenlake.yaml declares, and the size and cost of its state.
    """
    import tokenlake

    given = bool(user or item or features)
    if explain + given + (rows is not None) != 1:
        raise click.UsageError("give one of: --explain; --user, --item and --set; --rows FILE")
    opened = tokenlake.open(lake)
    if explain:
        _explain(opened, names, as_json=as_json)
        return
    if rows is None:
        table, at = _row(opened, user, item, features), at or dt.datetime.now(dt.UTC)
    else:
        table = _read(rows)
    answers = opened.counts(table, at, names=names or _answerable(opened, table)).to_pylist()
    if as_json:
        print_json(answers)
        return
    print_tables(_table_of(answers[0], at) if rows is None else _rows_of(answers))


def _row(lake: Lake, user: str | None, item: str | None, features: tuple[str, ...]) -> pa.Table:
    """One row of the keys that were typed."""
    import pyarrow as pa

    lists = lake.config.events.of_kind("multi")
    keys = (*lake.config.events.of_kind("categorical"), *lists)
    columns: dict[str, list[Any]] = {}
    for name, value in (("user_id", user), ("item_id", item)):
        if value is not None:
            columns[name] = [value]
    for each in features:
        name, equals, value = each.partition("=")
        if not equals or name not in keys:
            raise click.BadParameter(
                f"{each!r}: write FEATURE=VALUE with a categorical or multi-valued feature; there are "
                f"{', '.join(keys) or 'none'}",
                param_hint="--set",
            )
        columns[name] = [[v for v in value.split(",") if v]] if name in lists else [value]
    return pa.table(columns)


def _answerable(lake: Lake, rows: pa.Table) -> list[str]:
    """The definitions all of whose keys the rows have."""
    from tokenlake.errors import SchemaError
    from tokenlake.features.aggregations import Aggregations
    from tokenlake.lake.database import origins_of

    aggregations, origins = lake.shared(Aggregations), origins_of(lake.config)
    missing: dict[str, list[str]] = {}
    for name in lake.config.definitions:
        needed = aggregations.key_columns([name])
        missing[name] = [key for key in needed if not {key, origins.get(key, key)} & set(rows.column_names)]
    if answerable := [name for name, keys in missing.items() if not keys]:
        return answerable
    needs = "; ".join(f"{name} needs {', '.join(keys)}" for name, keys in missing.items())
    raise SchemaError(f"no definition can be counted of {', '.join(rows.column_names)}: {needs or 'none is declared'}")


def _read(path: Path) -> pa.Table:
    """The rows of a Parquet or CSV file."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv}
    if path.suffix not in readers or not path.is_file():
        raise click.BadParameter(f"{path} is no .parquet or .csv file", param_hint="--rows")
    try:
        return readers[path.suffix](path)
    except pa.ArrowException as error:
        raise click.BadParameter(f"{path} cannot be read ({error})", param_hint="--rows") from None


def _table_of(answer: dict[str, float | None], at: dt.datetime | None) -> WholeTable:
    """One row, a line a column."""
    table = WholeTable("column", "value", title="" if at is None else f"at {at.isoformat()}", right=("value",))
    for name, value in answer.items():
        table.add_row(name, _shown(value))
    return table


def _rows_of(answers: list[dict[str, float | None]]) -> WholeTable:
    """The first rows of a file, a line each."""
    columns = tuple(answers[0]) if answers else ()
    table = WholeTable("row", *columns, right=("row", *columns))
    for number, answer in enumerate(answers[:_SHOWN], 1):
        table.add_row(f"{number}", *map(_shown, answer.values()))
    if len(answers) > _SHOWN:
        table.caption = f"the first {_SHOWN} of {len(answers):,} rows; --json prints all"
    return table


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.10g}"


def _explain(lake: Lake, names: tuple[str, ...], *, as_json: bool) -> None:
    facts = _facts(lake, names)
    if as_json:
        print_json(facts)
        return
    numbers = ("contributions", "keys", "bytes", "CPU s")
    table = WholeTable("definition", "counts", "columns", *numbers, title="declared counts", right=numbers)
    for fact in facts:
        sizes = [f"{fact[name]:,}" for name in ("contributions", "keys", "bytes")]
        columns = ", ".join(column["name"] for column in fact["columns"])
        table.add_row(fact["name"], fact["about"], columns, *sizes, f"{fact['seconds']:.3f}")
    table.caption = "definitions that count the same share a state; CPU s: of its last update"
    print_tables(table)


def _facts(lake: Lake, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each definition counts, and what its state takes; those that share a state have the same sizes."""
    from tokenlake.config.count_words import about, about_column
    from tokenlake.features.aggregations import Aggregations

    aggregations, out = lake.shared(Aggregations), []
    aggregations.columns(names or None)  # refuses unknown names
    for name, count in lake.config.definitions.items():
        if names and name not in names:
            continue
        uses = list(aggregations.use(name).values())
        reached = min(use.until for use in uses)
        out.append(
            {
                "name": name,
                "about": about(count),
                "by": list(count.by),
                "columns": [{"name": c.name, "about": about_column(count, c)} for c in count.columns(name)],
                "contributions": sum(use.contributions for use in uses),
                "keys": max(use.keys for use in uses),
                "bytes": sum(use.bytes for use in uses),
                "until": dt.datetime.fromtimestamp(reached / 1e6, dt.UTC) if reached else None,
                "added": sum(use.added for use in uses),
                "seconds": sum(use.seconds for use in uses),
            }
        )
    return out
