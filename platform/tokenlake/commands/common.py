"""What several commands share: the lake argument, the console, progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from tokenlake.pipeline.backfill import Progress as OnDay  # at run time it would bring torch to every command

console = Console()
lake_argument = click.argument("lake", type=click.Path(path_type=Path))


@contextmanager
def day_bars() -> Iterator[OnDay]:
    """Show one bar per version, of days."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TextColumn("days"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        bars: dict[str, TaskID] = {}

        def on_day(version: str, done: int, total: int) -> None:
            if version not in bars:
                bars[version] = progress.add_task(version, total=total)
            progress.update(bars[version], completed=done, total=total)

        yield on_day
