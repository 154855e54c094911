"""`tokenlake simulate`: writes an ads-like log of any size."""

from __future__ import annotations

from pathlib import Path

import click

from tokenlake.commands._answers import json_option


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--users", type=int, default=1_000, show_default=True)
@click.option("--items", type=int, default=500, show_default=True, help="Ads.")
@click.option("--days", type=int, default=30, show_default=True)
@click.option("--events", type=int, default=100_000, show_default=True, help="Impressions, in all.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--start", default="2024-01-01", show_default=True, help="First day.")
@json_option
def command(out: Path, users: int, items: int, days: int, events: int, seed: int, start: str, *, as_json: bool) -> None:
    """Write an ads-like log to the folder OUT: impressions, clicks and late conversions.

    The same options give the same files; a folder that holds them already is not changed.
    """
    from tokenlake.commands._bars import bar
    from tokenlake.commands.datasets import show
    from tokenlake.datasets.simulate import simulate

    with bar() as tell:
        report = simulate(out, users, items, days, events, seed, start, tell)
    show(report, as_json=as_json)
