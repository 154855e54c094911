"""Finds the files of a path (a file, a folder, a glob, Hive partitions, Delta tables) and the format of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from tokenlake.errors import DamagedSourceError, MissingSourceError, SourceError
from tokenlake.reading.arrays import cast_rows, true
from tokenlake.reading.handles import FileHandle

FileKind = Literal["parquet", "csv", "tsv", "delta"]

#: A plain integer; 007, +7 and 7.0 do not match.
INTEGER = r"^(0|-?[1-9]\d{0,18})$"
_ENDINGS: dict[str, FileKind] = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv"}
_PACKED = (".gz", ".bz2", ".zst")
_MAGIC = b"PAR1"
_LOG = "_delta_log"
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class SourceFile:
    """A file, or the folder of a Delta table.

    Attributes:
        path: path of the file or folder.
        kind: its format.
        parts: Hive partition values from folders such as `day=2024-01-01` below the given path; None stands for null.
    """

    path: str
    kind: FileKind
    parts: Mapping[str, str | None] = field(default_factory=dict)


def find(given: str, filesystem: pafs.FileSystem | None = None) -> list[SourceFile]:
    """The files of a path, in a fixed order.

    Args:
        given: a file, a folder, or on a local disk a glob.
        filesystem: None for the local one.

    Raises:
        MissingSourceError: the path does not exist, or holds no file of a known format.
        SourceError: a file of an unknown format.
    """
    if filesystem is not None and not isinstance(filesystem, pafs.LocalFileSystem):
        return _find_remote(given, filesystem)
    path = Path(given).expanduser()
    if path.is_dir():
        return _folder(str(path), str(path))
    if path.exists():
        return [SourceFile(_real(path), _known(str(path)))]
    if not glob.has_magic(str(path)):
        raise MissingSourceError(f"{path} does not exist; check the path")
    matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
    if not matches:
        raise MissingSourceError(f"{path} matches no file; check the pattern")
    base = _base(path)
    found: dict[str, SourceFile] = {}
    for match in matches:
        for one in _folder(match, base) if Path(match).is_dir() else [_file(match, base)]:
            found.setdefault(one.path, one)
    return list(found.values())


def typed_parts(files: Iterable[SourceFile]) -> dict[str, pa.DataType]:
    """The type of each Hive partition's column: int64 where the values of all files are plain integers, else string."""
    values: dict[str, list[str | None]] = {}
    for one in files:
        for name, value in one.parts.items():
            values.setdefault(name, []).append(value)
    return {name: _type_of(pa.array(texts, pa.string())) for name, texts in values.items()}


def _type_of(texts: pa.Array) -> pa.DataType:
    values = texts.drop_null()
    whole = len(values) and true(pc.match_substring_regex(values, INTEGER)).all()
    return pa.int64() if whole and not cast_rows(values, pa.int64())[1].any() else pa.string()


def _folder(path: str, base: str) -> list[SourceFile]:
    """The files below a folder, by name; hidden ones (`.x`, `_x`) and those of other formats are left out."""
    found: dict[str, SourceFile] = {}
    for place, folders, files in os.walk(path):
        if _LOG in folders:
            folders.clear()
            found[place] = SourceFile(_real(place), "delta", _parts(place, base, whole=True))
            continue
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in files:
            file = str(Path(place) / name)
            if not _hidden(name) and (kind := _kind(file)):
                found[file] = SourceFile(_real(file), kind, _parts(file, base))
    if not found:
        raise MissingSourceError(f"{path} holds no .parquet, .csv or .tsv file")
    return [found[file] for file in sorted(found, key=lambda file: Path(file).parts)]


def _file(path: str, base: str) -> SourceFile:
    return SourceFile(_real(path), _known(path), _parts(path, base))


def _find_remote(path: str, filesystem: pafs.FileSystem) -> list[SourceFile]:
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise MissingSourceError(f"{path} does not exist; check the path")
    if info.type == pafs.FileType.File:
        return [SourceFile(path, _by_name(path) or "parquet")]
    inside = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    files = sorted(one.path for one in inside if one.type == pafs.FileType.File)
    prefix = len(path.rstrip("/")) + 1
    shown = [p for p in files if not any(_hidden(part) for part in p[prefix:].split("/"))]
    if not shown:
        raise MissingSourceError(f"{path} holds no .parquet, .csv or .tsv file")
    if any(f"/{_LOG}/" in p[prefix - 1 :] for p in files):
        return [SourceFile(path, "delta")]
    return [SourceFile(p, _by_name(p) or "parquet", _parts(p, path.rstrip("/"))) for p in shown]


def _base(path: Path) -> str:
    """The folder above the first part of a glob that is a pattern."""
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return str(Path(*parts[:first])) if first else ""


def _parts(path: str, base: str, *, whole: bool = False) -> dict[str, str | None]:
    """Names and values of the folders between `base` and a file, or a folder itself."""
    below = Path(path).relative_to(base).parts if base else Path(path).parts
    pairs = [part.partition("=") for part in (below if whole else below[:-1]) if "=" in part]
    return {unquote(name): None if value == _NULL else unquote(value) for name, _, value in pairs if name}


def _known(path: str) -> FileKind:
    kind = _kind(path)
    if kind is None:
        raise SourceError(
            f"{path}: {Path(path).suffix or 'no ending'} says no kind; expected .parquet, .csv or .tsv, also .gz"
        )
    return kind


def _kind(path: str) -> FileKind | None:
    """The format, by the first bytes, else by the file name; None for another format."""
    kind = _by_name(path)
    with FileHandle(path).reading(kind or "a file"), open(path, "rb") as file:  # noqa: PTH123  # a plain path
        head = file.read(len(_MAGIC))
    if kind and not head:
        raise DamagedSourceError(f"{path} is empty (0 bytes); write it anew, or leave it out")
    return "parquet" if head == _MAGIC else kind


def _by_name(path: str) -> FileKind | None:
    name = Path(path)
    ending = name.with_suffix("").suffix if name.suffix.lower() in _PACKED else name.suffix
    return _ENDINGS.get(ending.lower())


def _real(path: str | Path) -> str:
    """The resolved path: the same for every spelling of a path."""
    return str(Path(path).resolve())


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))
