"""What several commands share: the lake argument and the console."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

console = Console()
lake_argument = click.argument("lake", type=click.Path(path_type=Path))
