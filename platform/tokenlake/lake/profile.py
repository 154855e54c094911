"""Properties of whole columns that are inferred before any row is read: id types, units of times, widths of vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenlake.config import Config
from tokenlake.errors import SchemaError
from tokenlake.lake.instants import TimeReader
from tokenlake.lake.schema import INT64, IdTypes
from tokenlake.lake.tables import Table
from tokenlake.lake.validate import Columns, vectors
from tokenlake.reading.arrays import cast_rows, flat, numpy, true, valid, where
from tokenlake.reading.chunks import File
from tokenlake.reading.files import INTEGER
from tokenlake.reading.kinds import is_string, plain

_IdKind = Literal["int64", "string"]


@dataclass
class Profile:
    """What was inferred for one ingest.

    Attributes:
        ids: the lake's id types, from the table or, at the first ingest, from these sources.
        dims: the width of each vector feature that any row has.
        clocks: for each source the readers of its time columns.
    """

    ids: IdTypes = field(default_factory=IdTypes)
    dims: dict[str, int] = field(default_factory=dict)
    clocks: list[dict[str, TimeReader]] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was inferred, for a dry run."""
        kinds = f"ids: event {self.ids.event}, user {self.ids.user}, item {self.ids.item}"
        times = [clock.note for clocks in self.clocks for clock in clocks.values() if clock.note]
        widths = [f"{name}: vectors of length {dim}" for name, dim in self.dims.items()]
        return tuple(dict.fromkeys([kinds, *times, *widths]))


def profile(config: Config, events: Table, sources: Sequence[File], columns: Columns) -> Profile:
    """Infer what the lake's tables do not fix yet; reads only the columns that this needs.

    Raises:
        SchemaError: sources with integer and with string ids, or ids of another type than the lake's.
    """
    roles = {"user": config.events.user, "item": config.events.item}
    if config.events.id is not None:
        roles["event"] = config.events.id
    first = not events.exists
    votes: dict[str, dict[_IdKind, str]] = {role: {} for role in roles}
    text_votes: dict[str, dict[_IdKind, str]] = {role: {} for role in roles}
    lengths: dict[str, Counter[int]] = {}
    dims = {} if first else _stored_dims(config, events)
    vague = {
        name: config.events.features[name].column or name
        for name in config.events.of_kind("vector")
        if name not in dims
    }
    out = Profile(dims=dims)
    for source in sources:
        sample = _SourceSample(source, config, columns)
        text_ids = {role: name for role, name in roles.items() if first and source.text}
        for name, arrays in sample.columns([*sample.times, *text_ids.values(), *vague.values()]):
            if name in sample.times:
                sample.clocks[name].observe(arrays)
            for role in [role for role, given in text_ids.items() if given == name]:
                for kind in _text_kinds(arrays):
                    text_votes[role].setdefault(kind, source.name)
            for feature in [feature for feature, given in vague.items() if given == name]:
                lengths.setdefault(feature, Counter()).update(_lengths(arrays))
        for role, name in roles.items():
            typed = None if source.text else _typed_kind(source.schema.field(name).type)
            if typed is not None:
                votes[role].setdefault(typed, source.name)
        out.clocks.append(sample.settled())
    out.dims |= {name: max(seen, key=lambda n: (seen[n], n)) for name, seen in lengths.items() if seen}
    out.ids = (
        _first_ids(votes, text_votes)
        if first
        else _checked(IdTypes.of(events.schema), votes, derived="event" not in roles)
    )
    return out


class _SourceSample:
    """One source's time readers, and the columns that must be read to infer something."""

    def __init__(self, source: File, config: Config, columns: Columns) -> None:
        self._source = source
        self.clocks = {name: TimeReader.of(config.events, name) for name in columns.times}
        self.times = [name for name in columns.times if self._vague(source.schema.field(name).type, config.events.unit)]

    @staticmethod
    def _vague(kind: pa.DataType, unit: str | None) -> bool:
        kind = plain(kind)
        return is_string(kind) or (unit is None and not (pa.types.is_temporal(kind) or pa.types.is_null(kind)))

    def columns(self, names: Iterable[str]) -> Iterator[tuple[str, list[pa.Array]]]:
        """For each chunk, the named columns that the source has."""
        wanted = list(dict.fromkeys(names))
        if wanted:
            for chunk in self._source.chunks(wanted):
                if chunk.rows.num_rows:
                    for name in wanted:
                        yield name, [flat(chunk.rows.column(name))]

    def settled(self) -> dict[str, TimeReader]:
        for clock in self.clocks.values():
            clock.settle()
        return self.clocks


def _text_kinds(arrays: Iterable[pa.Array]) -> set[_IdKind]:
    """Kinds of ids in text: integers without leading zeros that fit are int64; anything else makes the column strings."""
    kinds: set[_IdKind] = set()
    for array in arrays:
        whole = true(pc.match_substring_regex(array, INTEGER))
        too_big = cast_rows(where(array, whole), pa.int64())[1]
        if (valid(array) & (~whole | too_big)).any():
            return {"string"}
        if whole.any():
            kinds.add("int64")
    return kinds


def _typed_kind(kind: pa.DataType) -> _IdKind | None:
    kind = plain(kind)
    return None if pa.types.is_null(kind) else "string" if is_string(kind) else "int64"


def _lengths(arrays: Iterable[pa.Array]) -> Counter[int]:
    seen: Counter[int] = Counter()
    for array in arrays:
        lists, bad = vectors(array)
        kept = numpy(pc.list_value_length(lists), np.int64)[valid(lists) & ~bad]
        lengths, counts = np.unique(kept[kept > 0], return_counts=True)
        seen.update(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))
    return seen


def _stored_dims(config: Config, events: Table) -> dict[str, int]:
    dims = {}
    for name in config.events.of_kind("vector"):
        for batch in events.batches(columns=[name]):
            array = flat(batch.column(0)).drop_null()
            if len(array):
                dims[name] = len(array[0])
                break
    return dims


def _first_ids(votes: dict[str, dict[_IdKind, str]], text_votes: dict[str, dict[_IdKind, str]]) -> IdTypes:
    kinds = {}
    for role, typed in votes.items():
        strings = typed.get("string") or text_votes[role].get("string")
        if strings and "int64" in typed:
            raise SchemaError(
                f"{role} ids are integers in {typed['int64']} and strings in {strings}; a lake holds one of them. "
                "Convert one source"
            )
        # If all sources are text, strings win: the integers among them are strings that look like numbers.
        kinds[role] = pa.string() if strings else INT64
    return IdTypes(**kinds)


def _checked(ids: IdTypes, votes: dict[str, dict[_IdKind, str]], *, derived: bool) -> IdTypes:
    if derived and ids.event != INT64:
        raise SchemaError(
            "this lake's event ids are strings, and the config no longer names their column: set events.id"
        )
    for role, seen in votes.items():
        stored = "int64" if getattr(ids, role) == INT64 else "string"
        for kind, source in seen.items():
            if kind != stored:
                raise SchemaError(
                    f"{source}: its {role} ids are {kind}, and this lake's are {stored} since its first ingest; "
                    "convert the column"
                )
    return ids
