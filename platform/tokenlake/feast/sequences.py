"""Converts token sequences to list columns for Feast, and back to a `TokenBatch`."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_store import RetrievalJob
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.feast.offline.asof import Ints
from tokenlake.feast.offline.instants import nanos_of
from tokenlake.feast.offline.keys import aligned
from tokenlake.feast.sources import OWN_COLUMNS, TIMESTAMP, TIMESTAMPS, TOKENS, USER, TokenSource
from tokenlake.reading.arrays import valid
from tokenlake.reading.kinds import is_list
from tokenlake.times import EARLIEST
from tokenlake.tokens.batch import TokenBatch, side_arrays
from tokenlake.tokens.store import TokenStore

if TYPE_CHECKING:
    from tokenlake.lake.project import Project

#: Bytes of tokens in memory while sequences are copied to an online store.
_PORTION_BYTES = 16 << 20
#: Most elements of one Arrow list array, whose offsets have 32 bits.
_LIST_LIMIT = (1 << 31) - 1
#: Suffix of the column that says whether a label was known.
_FLAG = re.compile(r"(.+)_known_*", re.DOTALL)


def fetch_columns(
    source: TokenSource, store: TokenStore, users: pa.Array, times: Ints, columns: Sequence[str]
) -> list[pa.ChunkedArray]:
    """Read the columns of a token source as of some times: the tokens strictly before them.

    Args:
        source: the token source to read.
        store: its token store, opened by `store_of`.
        users: (n,) ids; null: no sequence. An id of another type than the store's is a user without tokens.
        times: (n,) int64 nanoseconds; `EARLIEST`: no sequence.
        columns: names of the columns to read.

    Returns:
        For each column (n,) lists; an empty list for a user without tokens before the time.

    Raises:
        SchemaError: a column that the source lacks.
    """
    kind = pa.string() if store.ids == "string" else pa.int64()
    asked = valid(users) & (times != EARLIEST)
    users = aligned(users, kind)
    ids = pc.fill_null(users, pa.scalar("" if store.ids == "string" else 0, kind)).to_numpy(zero_copy_only=False)
    # A token at microsecond m is before nanosecond t if m is less than t in microseconds, rounded up.
    before = np.where(asked & valid(users), -(-times // 1000), EARLIEST)
    parts: list[list[pa.Array]] = [[] for _ in columns]
    for part in _slices(len(ids), _LIST_LIMIT // (source.length * store.schema.dim)):
        batch = store.fetch(ids[part], before=before[part], length=source.length, available=source.available)
        for i, name in enumerate(columns):
            parts[i].append(_column(batch, name, ~asked[part], source))
    if not len(ids):
        batch = TokenBatch.empty(store.schema)
        parts = [[_column(batch, name, np.zeros(0, bool), source)] for name in columns]
    return [pa.chunked_array(part) for part in parts]


def store_of(source: TokenSource, lake: Project) -> TokenStore:
    """The token store behind a source.

    Raises:
        NotFoundError: the version has no tokens yet.
    """
    return lake.tokens(source.version or source.stream)


def latest(
    source: TokenSource, lake: Project, columns: Sequence[str], start: dt.datetime | None, end: dt.datetime | None
) -> pa.Table:
    """The sequence at `end` of every user with a token since `start`, and the time of the sequence's last token."""
    return pa.concat_tables(table for table, _, _ in portions(source, lake, columns, start, end))


def portions(
    source: TokenSource,
    lake: Project,
    columns: Sequence[str],
    start: dt.datetime | None,
    end: dt.datetime | None,
    size: int = _PORTION_BYTES,
) -> Iterator[tuple[pa.Table, int, int]]:
    """The rows of `latest` in portions of users, so that memory is bounded for any number of users.

    All portions are read from one snapshot of the store. There is at least one portion, which may be empty.

    Args:
        source: the token source; lake: its lake; columns: names of the columns to read.
        start: users without a token since this time are left out; end: tokens are strictly before it; default now.
        size: most bytes of tokens in a portion; a user with more has a portion alone.

    Yields:
        The portion's rows, the number of users done so far, and the number of all users.
    """
    end = end or dt.datetime.now(dt.UTC)
    store, users = store_of(source, lake), active(source, lake, start, end)
    step = size // (source.length * store.schema.dim * np.dtype(np.float32).itemsize)
    for part in _slices(len(users), step) or [slice(0, 0)]:
        own = users[part]
        yield _latest(source, store, own, columns, end), part.start + len(own), len(users)


def _latest(
    source: TokenSource, store: TokenStore, users: pa.Array, columns: Sequence[str], end: dt.datetime
) -> pa.Table:
    times = np.full(len(users), nanos_of(end))
    others = [name for name in columns if name not in (USER, TIMESTAMP)]
    wanted = list(dict.fromkeys([*others, TIMESTAMPS]))
    found = dict(zip(wanted, fetch_columns(source, store, users, times, wanted), strict=True))
    lists = found[TIMESTAMPS].combine_chunks()
    full = pc.greater(pc.list_value_length(lists), 0)
    offsets = lists.offsets.to_numpy()
    ends = (
        lists.values.to_numpy()[np.maximum(offsets[1:] - 1, 0)] if len(lists.values) else np.zeros(len(lists), np.int64)
    )
    made = {
        USER: users,
        TIMESTAMP: pa.array(ends).cast(pa.timestamp("us", "UTC")),
        **{name: found[name] for name in others},
    }
    return pa.table(made).filter(full)


def active(source: TokenSource, lake: Project, start: dt.datetime | None, end: dt.datetime | None) -> pa.Array:
    """Sorted ids of the users with a token since `start` and before `end`, in a day or in the realtime tail."""
    version = lake.resolve(source.version or source.stream)
    days = lake.instance_tokens.days(version)
    first, last = (None if t is None else dt.datetime.fromtimestamp(t.timestamp(), dt.UTC) for t in (start, end))
    if first is not None:
        days = [day for day in days if day >= first.date()]
    if last is not None:
        days = [day for day in days if day <= last.date()]
    keep = pc.scalar(True)  # noqa: FBT003 (an expression)
    if first is not None:
        keep &= pc.field("timestamp") >= pa.scalar(first)
    if last is not None:
        keep &= pc.field("timestamp") < pa.scalar(last)
    kind = lake.instance_tokens.schema.field("user_id").type
    found = [_appended(lake, version, first, last, kind)]
    if days:
        batches = lake.instance_tokens.batches(
            between=(days[0], days[-1]), version=version, columns=["user_id"], filter=keep
        )
        found += [pc.unique(batch.column(0)) for batch in batches]
    users = pc.unique(pa.chunked_array(found, kind))
    return users.take(pc.sort_indices(users))


def _appended(
    lake: Project, version: str, first: dt.datetime | None, last: dt.datetime | None, kind: pa.DataType
) -> pa.Array:
    """Users of the realtime tail, which no published day holds yet."""
    if not TokenStore.exists(lake.store_path(version)):
        return pa.array([], kind)
    limits = np.iinfo(np.int64)
    since = limits.min if first is None else nanos_of(first) // 1000
    before = limits.max if last is None else nanos_of(last) // 1000
    return pa.array(lake.tokens(version).appended(since, before).tolist(), kind)


def token_batch(retrieved: RetrievalJob | pa.Table, *, view: str | None = None, dim: int | None = None) -> TokenBatch:
    """Convert retrieved token sequences to a jagged batch, ready for `.torch()`; row i of the retrieval is query i.

    Args:
        retrieved: a retrieval of a `TokenSource` view, or its Arrow table.
        view: the view's name; needed if the features were retrieved with `full_feature_names`.
        dim: width of the tokens; needed only if `timestamps` was not retrieved.

    Returns:
        Tokens, timestamps (zeros if not retrieved), and every retrieved label with its `known` column.

    Raises:
        SchemaError: there is no token column, or the width does not match.
    """
    table = retrieved.to_arrow() if isinstance(retrieved, RetrievalJob) else retrieved
    prefix = f"{view}__" if view else ""

    def lists(name: str) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
        if prefix + name not in table.column_names:
            return None
        column = table[prefix + name]
        sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        # Arrow's arrays are read-only, and tensors must not be.
        return sizes, np.require(pc.list_flatten(column).to_numpy(), requirements="W")

    tokens = lists(TOKENS)
    if tokens is None:
        raise SchemaError(f"no column {prefix + TOKENS!r} was retrieved; there are {table.column_names}")
    sizes, values = tokens
    times = lists(TIMESTAMPS)
    if dim is None:
        if times is None:
            raise SchemaError(f"pass dim, or ask for {TIMESTAMPS!r} too: the width of the tokens follows from it")
        dim = len(values) // max(len(times[1]), 1) or 1
    rows = times[0] if times is not None else sizes // dim
    if not np.array_equal(rows * dim, sizes):
        raise SchemaError(f"the lists of {prefix + TOKENS!r} are not made of tokens of width {dim}")
    offsets = np.concatenate([[0], np.cumsum(rows)])
    batch = TokenBatch(
        values.reshape(-1, dim), offsets, times[1] if times is not None else np.zeros(len(values) // dim, np.int64)
    )
    columns = {name.removeprefix(prefix): table[name].type for name in table.column_names if name.startswith(prefix)}
    for label, value, flag in _label_columns(columns):
        side, known = lists(value), lists(flag)
        if side is not None and known is not None:
            batch.side[label], batch.known[label] = side[1], known[1]
    return batch


def _label_columns(columns: Mapping[str, pa.DataType]) -> Iterator[tuple[str, str, str]]:
    """Yield each label with its column of values and its column `known`, named as in a `TokenSource`.

    The column `known` is recognized by its type, lists of booleans, which no label's values have.
    """
    lists = {name: kind.value_type for name, kind in columns.items() if is_list(kind)}
    flags = {name for name, kind in lists.items() if pa.types.is_boolean(kind)}
    for flag in sorted(flags):
        if found := _FLAG.fullmatch(flag):
            label = found[1]
            named = [n for n in lists.keys() - flags if n.startswith(label) and not n[len(label) :].strip("_")]
            if values := sorted(set(named) - {TOKENS, TIMESTAMPS}, key=len):
                yield label, values[0], flag


def _slices(count: int, step: int) -> list[slice]:
    """Slices of `step` rows each; of one row if `step` is 0."""
    return [slice(at, at + max(1, step)) for at in range(0, count, max(1, step))]


def _column(batch: TokenBatch, name: str, missing: NDArray[np.bool_], source: TokenSource) -> pa.Array:
    if name == TOKENS:
        dim = batch.values.shape[1]
        return _lists(batch.offsets * dim, pa.array(batch.floats().reshape(-1)), missing)
    if name == TIMESTAMPS:
        return _lists(batch.offsets, pa.array(batch.timestamps), missing)
    columns = side_arrays(batch, OWN_COLUMNS) if source.side else {}
    if name not in columns:
        raise SchemaError(f"{source.name} has no column {name!r}; it has {[TOKENS, TIMESTAMPS, *columns]}")
    values = pa.array(columns[name])
    return _lists(batch.offsets, values.cast(pa.int32()) if pa.types.is_integer(values.type) else values, missing)


def _lists(offsets: NDArray[np.int64], values: pa.Array, missing: NDArray[np.bool_]) -> pa.Array:
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, mask=mask)
