"""Only `storage/` renames and syncs: whatever else replaces a file or a folder does it through there."""

from __future__ import annotations

import ast
from pathlib import Path

import tokenlake.storage
import tokenlake_models

_STORAGE = Path(tokenlake.storage.__file__).parent
_CALLS = {"os.replace", "os.rename", "os.renames", "os.link", "os.fsync", "os.fdatasync", "shutil.move"}
#: A kept state of a logged store is made of links to its files: nothing is replaced.
_ALLOWED = {("parity.py", "os.link")}


def _told(node: ast.Call) -> str | None:
    """What a call renames or syncs by; None: nothing."""
    called = node.func
    if not isinstance(called, ast.Attribute):
        return None
    name = ast.unparse(called)
    if name in _CALLS:
        return name
    # `Path.replace` and `Path.rename` take one argument; those of strings, times and dataclasses take more, or keywords.
    if called.attr in ("replace", "rename") and len(node.args) == 1 and not node.keywords:
        return f".{called.attr}"
    return None


def test_nothing_else_renames_or_syncs() -> None:
    found = []
    for package in (_STORAGE.parent, Path(tokenlake_models.__file__).parent):
        for path in package.rglob("*.py"):
            if _STORAGE not in path.parents:
                calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
                found += [(path.name, told) for call in calls if (told := _told(call)) is not None]
    assert set(found) <= _ALLOWED, (
        "write files and folders by tokenlake.storage.atomic, rename by tokenlake.storage.disk"
    )
