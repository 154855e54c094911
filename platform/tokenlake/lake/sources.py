"""Sources of events: the files of each given path or table. Each file is read by itself; the config fixes the types."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenlake.config import Config
from tokenlake.errors import SchemaError, SourceError
from tokenlake.lake.validate import Columns, check_types
from tokenlake.reading.chunks import File
from tokenlake.reading.placed import PlacedFile
from tokenlake.reading.source import Source, open_source
from tokenlake.reading.text import Dialect, TextFile

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def listed(source: Any, spool: Path) -> list[Any]:
    """Turn the `source` of an ingest into a list, and streams, which can be read only once, into files.

    Args:
        source: Arrow data, a frame, anything with `__arrow_c_stream__`, a path, a folder, a glob, or a list of these.
        spool: folder for streams; made when needed.

    Raises:
        SourceError: an empty list, or an object of an unsupported type.
    """
    items = list(source) if isinstance(source, list | tuple) else [source]
    if not items:
        raise SourceError("an empty list was given; name at least one file")
    return [
        one
        if isinstance(one, str | os.PathLike)
        else open_source(one, name=_named(place), spool=spool / f"stream-{place}.arrow")
        for place, one in enumerate(items)
    ]


def event_files(
    items: Sequence[Any], config: Config, dialect: Dialect, *, labels: bool = True
) -> tuple[list[File], list[str]]:
    """The files behind the items of `listed`, in a fixed order, each once, with all columns that the config names.

    A feature or label that a file lacks is missing there, if another file of the same folder or glob has it.

    Returns:
        The files, and notes for the user.

    Raises:
        SourceError: a path that does not exist, or a file of an unsupported format.
        SchemaError: a column that is missing, that the file has twice, or that has a wrong type.
    """
    columns = Columns.of(config, labels=labels)
    found: dict[str, File] = {}
    notes: list[str] = []
    for one in items:
        source = one if isinstance(one, Source) else open_source(one, dialect=dialect, typed=False)
        there = {name for file in source.files for name in file.schema.names}
        for file in source.files:
            absent = [name for name in columns.optional if name not in file.schema.names and name in there]
            _check(file, [name for name in columns.needed if name not in absent])
            check_types(config, file.schema, file.name, absent=absent, labels=labels)
            if absent:
                notes.append(
                    f"missing in all rows of {file.name}, which has no such column: {', '.join(map(repr, absent))}"
                )
            whole = PlacedFile(file, dict.fromkeys(absent, pa.scalar(None))) if absent else file
            found.setdefault(file.name, whole)
    return list(found.values()), notes


def _check(file: File, wanted: Sequence[str]) -> None:
    names = file.schema.names
    if twice := sorted({n for n in wanted if names.count(n) > 1}):
        raise SchemaError(f"{file.name}: columns {twice} stand there more than once; rename them")
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    if isinstance(file, TextFile) and len(names) == 1:
        for delimiter, called in _DELIMITERS.items():
            if delimiter in names[0] and delimiter != file.delimiter:
                raise SourceError(
                    f"{file.name} looks separated by {called}, and was split at {_DELIMITERS[file.delimiter]}: its "
                    f"header is the single column {names[0]!r}. Write it with commas, or with tabs as .tsv"
                )
    raise SchemaError(
        f"{file.name} lacks {len(missing)} of the columns that tokenlake.yaml names: {', '.join(map(repr, missing))}; "
        f"it has {', '.join(map(repr, names))}{_nearest(missing, names)}"
    )


def _nearest(missing: list[str], names: list[str]) -> str:
    folded = {name.casefold(): name for name in names}
    pairs = [(m, difflib.get_close_matches(m.casefold(), folded, n=1)) for m in missing]
    hints = [f"{folded[close[0]]!r} for {m!r}" for m, close in pairs if close]
    return f"; did you mean {', '.join(hints)}?" if hints else ""


def _named(place: int) -> str:
    return f"<table {place + 1}>" if place else "<table>"
