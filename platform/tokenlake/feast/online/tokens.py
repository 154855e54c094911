"""Serves feature views over token sequences from the lake's token store: results of `fetch` as wire bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from feast import FeatureView, Field
from feast.value_type import ValueType
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.feast.online import wire
from tokenlake.feast.online.table import KeyValues
from tokenlake.feast.sources import OWN_COLUMNS, TIMESTAMPS, TOKENS, TokenSource
from tokenlake.lake.project import Project
from tokenlake.storage import locks
from tokenlake.storage.native_ops import float32_writer
from tokenlake.times import EARLIEST
from tokenlake.tokens.batch import TokenBatch, list_columns, side_arrays
from tokenlake.tokens.store import TokenStore

#: Seconds that a push waits for another one.
PATIENCE_S = 30.0
_MICRO = 1_000_000
#: Bytes reserved for the header of a list, so that its numbers are aligned.
_HEAD_BYTES = 64
#: Most bytes that a thread keeps for its next response.
_KEPT_BYTES = 64 << 20
_VARINTS = {ValueType.INT32_LIST, ValueType.INT64_LIST, ValueType.BOOL_LIST, ValueType.UNIX_TIMESTAMP_LIST}
_FIXED = {ValueType.FLOAT_LIST: np.float32, ValueType.DOUBLE_LIST: np.float64}


class _ThreadBuffers(threading.local):
    """Buffers that each thread reuses, since new memory pages take longer than writing them."""

    batch: TokenBatch | None = None
    wire: NDArray[np.uint8] = np.empty(0, np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """A buffer of this size, with undefined content."""
        if len(self.wire) >= size:
            return self.wire
        made = np.empty(size, np.uint8)
        if size <= _KEPT_BYTES:
            self.wire = made
        return made


class TokenStores:
    """The token stores of one lake, kept open."""

    def __init__(self, lake: Path) -> None:
        self._lake: Project = Project.open(lake)
        self._stores: dict[str, TokenStore] = {}
        self._room = _ThreadBuffers()

    def read(
        self, source: TokenSource, view: FeatureView, users: Sequence[Any], names: Sequence[str]
    ) -> list[KeyValues | None]:
        """The last tokens of each user strictly before now; None for a user without tokens, or an id of another type.

        The values are in buffers that the thread's next call overwrites.

        Raises:
            NotFoundError: nothing was published for the version yet.
            SchemaError: the store does not have a feature.
        """
        store, room = self._store(source), self._room
        kind, dtype, nobody = (str, object, "") if store.ids == "string" else (int, np.int64, 0)
        meant = [type(user) is kind for user in users]
        ids = np.array([user if own else nobody for user, own in zip(users, meant, strict=True)], dtype)
        before = np.where(meant, time.time_ns() // 1000, EARLIEST)
        batch = store.fetch(ids, before=before, length=source.length, available=source.available, out=room.batch)
        room.batch = batch if batch.values.nbytes <= _KEPT_BYTES else None
        fields, back = {field.name: field for field in view.features}, _columns(source)
        columns = {name: _encode(store, batch, fields[name], back.get(name, name), room) for name in names}
        last = batch.timestamps[batch.offsets[1:] - 1].tolist() if len(batch.timestamps) else []
        return [
            KeyValues(last[i], {name: column[i] for name, column in columns.items()}) if count else None
            for i, count in enumerate(batch.lengths.tolist())
        ]

    def push(self, source: TokenSource, view: FeatureView, rows: list[tuple[Any, dict[str, Any]]]) -> int:
        """Append tokens that the store does not have yet to its realtime tail: durable, and visible to the next read.

        Args:
            source: the view's token source; view: the feature view.
            rows: user id, and Feast's values of the view's features.

        Returns:
            Number of new tokens.

        Raises:
            SchemaError: lists that do not fit each other or the store; or new tokens for a store whose labels need a
                time at which they become known, or for a view whose times are whole seconds.
        """
        store, back = self._store(source), _columns(source)
        dtypes = {back.get(field.name, field.name): field.dtype.to_value_type() for field in view.features}
        plain = [(user, {back.get(name, name): value for name, value in values.items()}) for user, values in rows]
        fresh = [row for row in plain if not _stands(store, row, dtypes.get(TIMESTAMPS))]
        if not fresh:
            return 0
        if dtypes.get(TIMESTAMPS) != ValueType.INT64_LIST or store.schema.known_at:
            reason = f"labels {list(store.schema.known_at)}, which are known only from an instant of their own"
            if dtypes.get(TIMESTAMPS) != ValueType.INT64_LIST:
                reason = f"no feature {TIMESTAMPS!r} of Array(Int64), microseconds"
            raise SchemaError(
                f"a push to {view.name!r} holds tokens that the store doesn't, and the view has {reason}; "
                f"append them with lake.tokens().append(users, timestamps, tokens, ...)"
            )
        users, times, tokens, side = _flatten(store, fresh)
        with locks.hold(
            self._lake.data / "locks" / f"push-{store.path.name}.lock", f"push to {view.name}", timeout=PATIENCE_S
        ):
            new = np.asarray(store.fetch_at(users, times).missing)
            if not new.any():
                return 0
            return store.append(
                users[new], times[new], tokens[new], {name: column[new] for name, column in side.items()}
            )

    def _store(self, source: TokenSource) -> TokenStore:
        name = source.version or source.stream
        if (store := self._stores.get(name)) is None:
            store = self._stores[name] = self._lake.tokens(name)
        store.refresh()
        return store


def _columns(source: TokenSource) -> dict[str, str]:
    """Feature -> column, if they differ."""
    return {feature: column for column, feature in source.field_mapping.items()}


def user_ids(entities: Sequence[Mapping[str, Any]]) -> list[Any]:
    """User ids of entities, each given as join key -> value; None for a null.

    Raises:
        SchemaError: more than one join key.
    """
    plain: list[Any] = []
    for entity in entities:
        if len(entity) != 1:
            raise SchemaError(f"a token sequence has one entity, its user; got the join keys {list(entity)}")
        (value,) = entity.values()
        kind = value.WhichOneof("val")
        plain.append(None if kind is None else getattr(value, kind))
    return plain


def _encode(store: TokenStore, batch: TokenBatch, field: Field, name: str, room: _ThreadBuffers) -> list[wire.Pieces]:
    """Wire bytes of one list per query."""
    kind = field.dtype.to_value_type()
    if name == TOKENS and kind == ValueType.FLOAT_LIST and batch.values.dtype == np.float16:
        return _widened(batch, room)
    column = _column(store, batch, name, kind)
    if kind in _FIXED:
        data = np.ascontiguousarray(column, _FIXED[kind])
        width = data.itemsize * (data.shape[1] if data.ndim == 2 else 1)
        return _lists(data, batch.offsets * width, wire.FIELDS[kind.name])
    if kind in _VARINTS and column.ndim == 1:
        packed, sizes = wire.varints(column.astype(np.int64))
        return _lists(packed, np.concatenate([[0], np.cumsum(sizes)])[batch.offsets], wire.FIELDS[kind.name])
    raise SchemaError(f"feature {field.name!r} is of type {field.dtype}; token sequences are lists of numbers")


def _widened(batch: TokenBatch, room: _ThreadBuffers) -> list[wire.Pieces]:
    """Half precision tokens, converted to float32 one query at a time on demand, so that the bytes are still in the cache."""
    prefix = wire.packed_list(wire.FIELDS["FLOAT_LIST"])
    sizes = (batch.lengths * (batch.values.shape[1] * 4)).tolist()
    out = room.of(_HEAD_BYTES + max(sizes, default=0))
    widen, view = float32_writer(batch.values, out[_HEAD_BYTES:]), out.data

    def late(run: tuple[int, int], size: int) -> Callable[[], memoryview]:
        def whole() -> memoryview:
            head = prefix(size)
            first = _HEAD_BYTES - len(head)
            view[first:_HEAD_BYTES] = head
            widen(*run)
            return view[first : _HEAD_BYTES + size]

        return whole

    return [late(run, size) for run, size in zip(pairwise(batch.offsets.tolist()), sizes, strict=True)]


def _lists(data: NDArray[Any], ends: NDArray[np.int64], field: int) -> list[wire.Pieces]:
    view, prefix, bounds = data.reshape(-1).view(np.uint8).data, wire.packed_list(field), ends.tolist()
    return [(prefix(stop - start), view[start:stop]) for start, stop in pairwise(bounds)]


def _column(store: TokenStore, batch: TokenBatch, name: str, kind: ValueType) -> NDArray[Any]:
    if name == TIMESTAMPS:
        return batch.timestamps // _MICRO if kind == ValueType.UNIX_TIMESTAMP_LIST else batch.timestamps
    if name == TOKENS:
        return batch.floats()
    columns = side_arrays(batch, OWN_COLUMNS)
    if name not in columns:
        raise SchemaError(f"the token store {store.path} has no {name!r}; it has {[TOKENS, TIMESTAMPS, *columns]}")
    return columns[name]


def _numbers(value: Any) -> Any:
    """The list in a Feast value."""
    kind = value.WhichOneof("val")
    return getattr(value, kind).val if kind is not None else ()


def _stands(store: TokenStore, row: tuple[Any, dict[str, Any]], kind: ValueType | None) -> bool:
    """Whether the store's newest tokens up to the row's last time have the same times as the row's tokens."""
    user, values = row
    times = np.array(_numbers(values[TIMESTAMPS]) if TIMESTAMPS in values else [], np.int64)
    if not len(times):
        return True
    unit = _MICRO if kind == ValueType.UNIX_TIMESTAMP_LIST else 1
    held = store.fetch([user], before=(int(times[-1]) + 1) * unit, length=len(times)).timestamps
    return len(held) == len(times) and bool((held // unit == times).all())


def _flatten(
    store: TokenStore, rows: list[tuple[Any, dict[str, Any]]]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Rows of lists as rows of tokens, each key once."""
    dim, sides = store.schema.dim, list(store.schema.side)
    columns = list_columns(sides, store.schema.known_at, OWN_COLUMNS)[0]
    found: dict[tuple[Any, int], tuple[Any, list[Any]]] = {}
    for user, values in rows:
        times = list(_numbers(values[TIMESTAMPS]))
        tokens = np.array(_numbers(values[TOKENS]) if TOKENS in values else [], np.float32)
        lists = [list(_numbers(values[columns[name]])) if columns[name] in values else [] for name in sides]
        if tokens.size != len(times) * dim or any(len(each) != len(times) for each in lists):
            raise SchemaError(
                f"user {user!r}: {tokens.size} numbers of {len(times)} tokens given, and lists of "
                f"{[len(each) for each in lists]} for {sides}; expected {dim} numbers and one of each a token"
            )
        for i, moment in enumerate(times):
            found[user, moment] = (tokens[i * dim : (i + 1) * dim], [each[i] for each in lists])
    users = np.array([user for user, _ in found], object)
    side = {name: np.array([own[i] for _, own in found.values()]) for i, name in enumerate(sides)}
    return users, np.array([t for _, t in found], np.int64), np.stack([token for token, _ in found.values()]), side
