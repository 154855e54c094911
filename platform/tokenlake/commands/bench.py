"""`tokenlake bench`: runs the repository's benchmarks; each measures a ratio to another library in the same run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from tokenlake.errors import NotFoundError


@click.command()
@click.argument("names", nargs=-1)
def command(names: tuple[str, ...]) -> None:
    """Run the benchmarks NAMES (default: all) from the folder `benchmarks` of the repository."""
    folder = _folder()
    known = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if unknown := [name for name in names if name not in known]:
        raise NotFoundError(f"no benchmark {unknown}; there are {sorted(known)}")
    for name in names or known:
        click.secho(f"benchmarks/{name}.py", bold=True)
        # Our own interpreter, on a file of the repository.
        if status := subprocess.run([sys.executable, str(known[name])], check=False).returncode:  # noqa: S603
            raise SystemExit(status)


def _folder() -> Path:
    for root in (Path.cwd(), Path(__file__).parents[3]):
        if (root / "benchmarks").is_dir():
            return root / "benchmarks"
    raise NotFoundError("no folder `benchmarks` here; they come with the repository, not with the wheel: clone it")
