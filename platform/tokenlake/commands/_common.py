"""What several commands share: the lake argument and the console."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

#: Into a file or a pipe, tables are as wide as they need to be read.
console = Console(width=None if sys.stdout.isatty() else 140)
lake_argument = click.argument("lake", type=click.Path(path_type=Path))
