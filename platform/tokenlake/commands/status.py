"""`tokenlake status`: prints a lake's content, its progress and its last errors."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._common import console, lake_argument
from tokenlake.commands._tables import WholeTable, bare, print_tables
from tokenlake.commands.versions import state_of
from tokenlake.errors import ServiceError

if TYPE_CHECKING:
    from rich.text import Text

    from tokenlake._lake import Lake
    from tokenlake.catalog import RunRecord, Version
    from tokenlake.lake.tables import Table

Facts: TypeAlias = dict[str, Any]
_COLOURS = {"done": "green", "failed": "red", "killed": "red", "interrupted": "yellow", "running": "cyan"}


@click.command()
@lake_argument
@json_option
@click.option(
    "--runs", "n", default=8, show_default=True, type=click.IntRange(min=0), help="Number of last runs to show."
)
def command(lake: Path, n: int, *, as_json: bool) -> None:
    """Show days, freshness, versions and last errors of LAKE."""
    import tokenlake

    facts = collect(tokenlake.open(lake), n)
    if as_json:
        print_json(facts)
        return
    console.print(f"[bold]{facts['project']}[/bold]  {facts['data']}", highlight=False)
    for shown in (
        _tables(facts),
        _versions(facts),
        _embeddings(facts),
        _runs("last runs", facts["runs"]),
        _errors(facts),
    ):
        if shown.row_count:
            print_tables(shown)
    for line in _advice(facts):
        console.print(line, highlight=False)


def collect(lake: Lake, n: int = 8) -> Facts:
    """Everything that `status` prints, as plain values; dates stay dates."""
    catalog = lake.catalog
    days = lake.events.days()
    tables = [_table("events", lake.events), _table("quarantine", lake.quarantine)]
    for version in catalog.versions():
        if not version.is_model:
            tables.append(_table("instance_tokens", lake.instance_tokens, version.version))
        tables.append(_table("predictions", lake.predictions, version.version))
    if lake.config.embeddings is not None and lake.user_embeddings.exists:
        made = (lake.user_embeddings, lake.item_embeddings, lake.edges)
        tables += [_table(table.path.name, table, lake.config.embedding_version) for table in made]
    return {
        "project": lake.config.project,
        "root": str(lake.root),
        "data": str(lake.data),
        "catalog": catalog.url.render_as_string(),
        "tables": tables,
        "freshness": _freshness(lake, days),
        "versions": [_version(lake, version, days) for version in catalog.versions()],
        "feast": _feast(lake),
        "embeddings": _lineage(lake, days) if lake.config.embeddings is not None else None,
        "runs": [_run(run) for run in catalog.last_runs(n)],
        "errors": [_run(run) for run in _last_errors(lake)],
    }


def _table(name: str, table: Table, version: str | None = None) -> Facts:
    days = table.days(version)
    facts = {"table": name, "version": version, "rows": table.count(version=version), "days": len(days)}
    return facts | {"first_day": days[0] if days else None, "last_day": days[-1] if days else None}


def _freshness(lake: Lake, days: list[dt.date]) -> Facts:
    done = lake.published(lake.resolve())
    last = max(done, default=None)
    ended = [run.ended_at for run in lake.catalog.runs(job="publish", status="done") if run.ended_at]
    return {
        "last_event_day": days[-1] if days else None,
        "last_published_day": last,
        "days_behind": sum(day not in done for day in days),
        "last_published_at": max(ended, default=None),
    }


def _version(lake: Lake, version: Version, days: list[dt.date]) -> Facts:
    from tokenlake.features.versions import finished

    catalog, name = lake.catalog, version.version
    published = finished(lake, name)
    checkpoints = catalog.checkpoints(name)
    return {
        "version": name,
        "encoder": version.encoder,
        "kind": version.kind,
        "state": version.state,
        "created_at": version.created_at,
        "promoted_at": version.promoted_at,
        "checkpoints": len(checkpoints),
        "last_checkpoint": checkpoints[-1].checkpoint if checkpoints else None,
        "bootstrap": [plan.day for plan in catalog.plans(name) if plan.bootstrap],
        "published": len(published),
        "missing": [day for day in days if day not in published],
        "rerun": [mark.day for mark in catalog.restatements(name)],
        "store": _store(lake, name),
    }


def _lineage(lake: Lake, days: list[dt.date]) -> Facts:
    """State of the user and item embeddings, and of their indexes and graphs."""
    from tokenlake.catalog.catalog import EMBED
    from tokenlake.features.versions import finished
    from tokenlake.retrieval.artefacts import graph_is_current, index_is_current

    catalog, name = lake.catalog, lake.config.embedding_version
    embedded, checkpoints = finished(lake, name), catalog.checkpoints(name)
    last = max(embedded, default=None)
    newest = {index.name: index for index in catalog.indexes(name)}  # sorted by day: the last one wins
    users, graph = newest.get("users"), newest.get("graph")
    runs = {job: catalog.runs(job=job, version=name) for job in ("train-embeddings", EMBED, "index", "graph")}
    ended = [run.ended_at for run in runs[EMBED] if run.ended_at and run.status == "done"]
    return {
        "version": name,
        "checkpoints": len(checkpoints),
        "last_checkpoint": checkpoints[-1].checkpoint if checkpoints else None,
        "bootstrap": [plan.day for plan in catalog.plans(name) if plan.bootstrap],
        "embedded": len(embedded),
        "missing": [day for day in days if day not in embedded],
        "rerun": [mark.day for mark in catalog.restatements(name)],
        "last_embedded_day": last,
        "last_embedded_at": max(ended, default=None),
        "index_day": users.day if users else None,
        "index_kind": users.stats.get("kind") if users else None,
        "recall@10": {name: newest[name].stats.get("recall@10") for name in ("users", "items") if name in newest},
        "index_current": last is not None and index_is_current(lake, last),
        "graph_day": graph.day if graph else None,
        "graph_weights": graph.stats.get("weights") if graph else None,
        "graph_current": last is not None and graph_is_current(lake, last),
        "last_runs": [_run(of[-1]) for of in runs.values() if of],
    }


def _store(lake: Lake, version: str) -> Facts | None:
    from tokenlake.tokens.store import TokenStore

    path = lake.store_path(version)
    if not TokenStore.exists(path):
        return None
    try:
        status = TokenStore.open(path).status()
    except ServiceError as error:  # the rest of the page is most useful when a service is down
        return {"unreachable": str(error)}
    return {
        "rows": status.rows,
        "days": len(status.days),
        "bytes": status.bytes,
        "tail_rows": status.tail_rows,
        "tail": status.tail,
        "unmatched": status.unmatched,
    }


def _feast(lake: Lake) -> Facts | None:
    """State of Feast's online store; None for a lake without a feature repository."""
    from tokenlake.feast import repository
    from tokenlake.pipeline.materialization import materialized_until

    return {"last_day": materialized_until(lake)} if repository.exists(lake.root) else None


def _last_errors(lake: Lake, n: int = 5) -> list[RunRecord]:
    """The newest failed runs without a later successful run of the same job, day and version."""
    newest: dict[tuple[object, ...], RunRecord] = {}
    for run in lake.catalog.runs():
        if run.status not in {"skipped", "running"}:
            newest[run.job, run.day, run.version] = run
    broken = [run for run in newest.values() if run.status != "done"]
    return sorted(broken, key=lambda run: -run.id)[:n]


def _run(run: RunRecord) -> Facts:
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else None
    return {
        "id": run.id,
        "job": run.job,
        "day": run.day,
        "version": run.version,
        "status": run.status,
        "started_at": run.started_at,
        "seconds": seconds,
        "error": run.error_type,
        "kind": run.error_kind,
        "message": run.message,
    }


# Tables.


def _tables(facts: Facts) -> WholeTable:
    shown = bare("tables", "table", "version", "rows", "days", "first", "last", right={"rows", "days"})
    for row in facts["tables"]:
        span = (str(row["first_day"] or ""), str(row["last_day"] or ""))
        shown.add_row(row["table"], row["version"] or "", f"{row['rows']:,}", f"{row['days']:,}", *span)
    return shown


def _versions(facts: Facts) -> WholeTable:
    shown = bare("versions", "version", "state", "checkpoint", "days", "first missing", "re-run", "stored")
    for row in facts["versions"]:
        last = row["last_checkpoint"] or "none"
        of = f"{row['published']}/{row['published'] + len(row['missing'])}"
        missing, rerun = _first(row["missing"]), str(len(row["rerun"]))
        stored = "" if row["kind"] == "model" else _store_text(row["store"])
        shown.add_row(row["version"], state_of(row), last, of, missing, rerun, stored)
    return shown


def _embeddings(facts: Facts) -> WholeTable:
    columns = ("version", "checkpoint", "days", "first missing", "re-run", "index", "recall@10", "graph")
    shown = bare("embeddings", *columns)
    if (row := facts["embeddings"]) is None or not (row["embedded"] or row["last_runs"]):
        return shown
    of = f"{row['embedded']}/{row['embedded'] + len(row['missing'])}"
    recall = ", ".join(f"{name} {value:.3f}" for name, value in row["recall@10"].items() if value is not None)
    index = _derived(row["index_day"], row["index_kind"], current=row["index_current"])
    graph = _derived(row["graph_day"], row["graph_weights"], current=row["graph_current"])
    last = (row["last_checkpoint"] or "none", of, _first(row["missing"]), str(len(row["rerun"])))
    shown.add_row(row["version"], *last, index, recall, graph)
    return shown


def _coloured(text: str, colour: str) -> Text:
    from rich.text import Text

    return Text(text, colour)


def _derived(day: dt.date | None, kind: str | None, *, current: bool) -> str:
    if day is None:
        return "none"
    return f"{day} ({kind})" + ("" if current else ", not of the newest embeddings")


def _store_text(store: Facts | None) -> str:
    if store is None:
        return "none"
    if "unreachable" in store:
        return f"unreachable: {store['unreachable']}"
    tail = f", tail {store['tail_rows']:,} ({store['unmatched']:,} in no day)" if store["tail_rows"] else ""
    place = "" if store["tail"] == "disk" else f", tail in {store['tail']}"
    return f"{store['rows']:,} rows{tail}{place}"


def _runs(title: str, runs: list[Facts]) -> WholeTable:
    shown = bare(title, "run", "job", "day", "version", "status", "began", "seconds")
    for run in runs:
        seconds = "" if run["seconds"] is None else f"{run['seconds']:.1f}"
        status = _coloured(run["status"], _COLOURS.get(run["status"], "dim"))
        began = f"{run['started_at']:%m-%d %H:%M:%S}"
        shown.add_row(str(run["id"]), run["job"], str(run["day"] or ""), run["version"] or "", status, began, seconds)
    return shown


def _errors(facts: Facts) -> WholeTable:
    shown = bare("errors that no later run has mended", "run", "job", "day", "version", "kind", "error")
    for run in facts["errors"]:
        text = f"{run['error'] or run['status']}: {run['message'] or ''}".strip(" :")
        where = (str(run["day"] or ""), run["version"] or "")
        shown.add_row(str(run["id"]), run["job"], *where, run["kind"] or "", text)
    return shown


def _advice(facts: Facts) -> list[str]:
    fresh, root = facts["freshness"], facts["root"]
    if fresh["last_event_day"] is None:
        return [f"No events yet: tokenlake ingest {root} FILE"]
    lines = [f"Events reach {fresh['last_event_day']}; "]
    if fresh["last_published_day"] is None:
        lines[0] += "nothing is published for the serving version yet."
    else:
        when = f"{fresh['last_published_at']:%Y-%m-%d %H:%M} UTC"
        lines[0] += f"published up to {fresh['last_published_day']}, last at {when}."
    if facts["feast"] is not None:
        last = facts["feast"]["last_day"]
        lines[0] += f" Feast serves values of up to {last}." if last else " Feast serves nothing yet."
    pending = len({day for version in facts["versions"] for day in version["rerun"]})
    lineage = facts["embeddings"]
    if lineage is not None and lineage["last_embedded_day"] is not None:
        when = f"{lineage['last_embedded_at']:%Y-%m-%d %H:%M} UTC" if lineage["last_embedded_at"] else "unknown"
        lines.append(
            f"Embedded up to {lineage['last_embedded_day']}, last at {when}; {len(lineage['missing'])} days missing."
        )
        if not (lineage["index_current"] and lineage["graph_current"]):
            lines.append(f"Its index or graph is not of these: tokenlake index {root} {lineage['last_embedded_day']}")
    if fresh["days_behind"] or pending:
        behind = f"{fresh['days_behind']} days with events are not published, {pending} wait to be run again"
        lines.append(f"{behind}: tokenlake backfill {root}")
    return lines


def _first(days: list[dt.date]) -> str:
    return str(days[0]) if days else "none"
