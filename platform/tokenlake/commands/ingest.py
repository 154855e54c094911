"""`tokenlake ingest`: ingests raw events into a lake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenlake.commands._answers import json_option, print_json

if TYPE_CHECKING:
    from tokenlake.lake.ingest import IngestReport


@click.command()
@click.argument("lake", type=click.Path(path_type=Path))
@click.argument("source", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Report what would happen, and change nothing.")
@click.option("--quotes/--no-quotes", default=None, help="Values may be in quotes; default: yes in .csv, no in .tsv.")
@click.option("--encoding", help="Encoding of text files; default: UTF-8, or by the byte order mark.")
@json_option
def command(
    lake: Path,
    source: tuple[str, ...],
    *,
    dry_run: bool,
    quotes: bool | None,
    encoding: str | None,
    as_json: bool,
) -> None:
    """Ingest events of SOURCE... (Parquet, CSV, TSV, Delta, folders, globs) into LAKE.

    Bad rows go to the table `quarantine` with their reasons. Ingesting the same file again changes nothing.
    """
    import tokenlake
    from tokenlake.commands._bars import bar

    opened = tokenlake.open(lake)
    with bar() as progress:
        report = opened.ingest(list(source), dry_run=dry_run, progress=progress, quotes=quotes, encoding=encoding)
    if as_json:
        print_json(_facts(report, dry_run=dry_run))
        return
    for line in describe(report, dry_run=dry_run):
        click.echo(line)


def _facts(report: IngestReport, *, dry_run: bool) -> dict[str, Any]:
    samples = [{"reason": reason, "row": row} for reason, row in report.samples]
    return {"dry_run": dry_run} | vars(report) | {"samples": samples}


def describe(report: IngestReport, *, dry_run: bool = False) -> list[str]:
    """The lines of a printed report."""
    total = report.accepted + report.duplicates + report.quarantined
    lines = [f"{total:,} rows{' (dry run: nothing was changed)' if dry_run else ''}"]
    lines.append(f"  {report.accepted:>12,} {'would be accepted' if dry_run else 'accepted'}{_days(report)}")
    lines.append(f"  {report.duplicates:>12,} duplicates")
    lines.append(f"  {report.quarantined:>12,} quarantined")
    lines += [f"  {count:>14,}  {reason}" for reason, count in report.reasons.items()]
    if report.samples and dry_run:
        lines += ["For example:", *(f"  {row}" for _, row in report.samples)]
    if report.reruns:
        days = ", ".join(day.isoformat() for day in report.reruns[:5])
        more = f" and {len(report.reruns) - 5} more" if len(report.reruns) > 5 else ""
        lines.append(f"Published days {'that would be' if dry_run else 'now'} marked to be run again: {days}{more}")
    if dry_run:
        lines += [f"Inferred {note}" for note in report.notes]
    return lines


def _days(report: IngestReport) -> str:
    if not report.days:
        return ""
    first, last = report.days[0], report.days[-1]
    return f", on {first}" if first == last else f", on {len(report.days):,} days from {first} to {last}"
