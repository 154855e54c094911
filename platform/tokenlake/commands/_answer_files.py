"""Where answers may be written: never inside a lake, and over another file only when its owner says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenlake.errors import ForbiddenError

if TYPE_CHECKING:
    from tokenlake.lake.project import Project

_CONFIG = "tokenlake.yaml"
_SQLITE = "sqlite:///"


def checked(file: Path, lake: Project, *, replace: bool = False) -> Path:
    """Check that an answer may be written to a file, and ask on a terminal whether an existing one may be replaced.

    Args:
        file: a path.
        lake: the lake that is asked.
        replace: an existing file may be replaced, without a question.

    Returns:
        The path.

    Raises:
        ForbiddenError: it lies in this lake or in another one, also behind links; or it is no plain file.
        click.UsageError: it exists, `replace` is not set, and nobody can be asked.
        click.Abort: the answer was no.
    """
    # A link is looked at as well as what it leads to: a written file takes the place of the link.
    for path in (file.resolve(), file.parent.resolve() / file.name):
        _outside(file, path, (lake.root, lake.data))
        _no_catalog(file, path, lake.config.catalog or "")
    if os.path.lexists(file):
        if not file.is_file() and not file.is_symlink():
            raise ForbiddenError(f"{file} is no plain file; give the name of a file")
        if not replace:
            may_replace(file)
    return file


def _outside(given: Path, path: Path, own: tuple[Path, ...]) -> None:
    """Compare folders as the file system does: one may be spelled in several ways, or be mounted twice."""
    for folder in path.parents:
        if not folder.is_dir():
            continue
        if any(each.is_dir() and folder.samefile(each) for each in own) or os.path.lexists(folder / _CONFIG):
            raise ForbiddenError(f"{given} lies inside the lake {folder}; write it to a place outside of it")


def _no_catalog(given: Path, path: Path, url: str) -> None:
    """A catalog in SQLite may stand outside of its lake, with files of its own beside it, as `catalog.sqlite-wal`."""
    if not url.startswith(_SQLITE):
        return
    catalog = Path(url.removeprefix(_SQLITE)).resolve()
    if path.parent == catalog.parent and path.name.startswith(catalog.name):
        raise ForbiddenError(f"{given} belongs to the lake's catalog {catalog}; give another name")


def may_replace(file: Path) -> None:
    """Ask on a terminal whether a file may be replaced.

    Raises:
        click.UsageError: nobody can be asked.
        click.Abort: the answer was no.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{file} exists. Give another name, or, with -o, replace it by --yes")
    click.confirm(f"{file} exists. Replace it?", abort=True, err=True)
