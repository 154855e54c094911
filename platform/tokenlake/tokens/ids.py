"""User ids: integers as they are; strings by a dictionary, so that two of them never collide."""

from __future__ import annotations

import struct
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import CorruptionError, SchemaError
from tokenlake.reading.arrays import flat
from tokenlake.reading.kinds import is_string
from tokenlake.storage import atomic, records
from tokenlake.storage.records import LogReader
from tokenlake.tokens import manifest as manifests

NAME = "ids"
IdKind = Literal["int64", "string"]
_KIND, _STRINGS = 1, 2
_COUNT = struct.Struct("<Q")
#: The code of a string that no row has.
UNKNOWN = -1


class Ids:
    """Turns a caller's ids into the int64 codes that segments hold.

    The log `ids` starts with the kind of ids, which the store's first rows decide. For strings, its records hold every
    string in the order of its code.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._log: LogReader | None = None
        self._lock = Lock()
        self._codes: dict[str, int] = {}
        self.kind: IdKind | None = None

    def refresh(self) -> None:
        """Read what other processes added.

        Raises:
            NotFoundError: the store was removed before this handle read them.
        """
        with self._lock:
            if self._log is None:
                if not self._path.exists():
                    manifests.require(self._path.parent)  # else every string of a removed store would be unknown
                    return
                self._log = LogReader(self._path)
            if self._log.has_more:
                for kind, payload in self._log.read():
                    self._take(kind, payload)

    def find(self, users: NDArray[Any]) -> NDArray[np.int64] | None:
        """Codes of ids, `UNKNOWN` for strings never written; None where the store's ids are of the other kind."""
        kind = kind_of(users)
        if self.kind is None:
            self.refresh()
        if kind != self.kind:
            return None
        if kind == "int64":
            return users
        codes = self._lookup(users)
        if (codes == UNKNOWN).any():
            self.refresh()
            codes = self._lookup(users)
        return codes

    def existing(self, users: NDArray[Any]) -> NDArray[np.int64] | None:
        """Codes of ids, if none is new to the store.

        Raises:
            SchemaError: integers given where the store holds strings, or the reverse.
        """
        self.refresh()
        if self.kind is None:
            return None
        kind = kind_of(users)
        self._expect(kind)
        if kind == "int64":
            return users
        codes = self._lookup(users)
        return None if (codes == UNKNOWN).any() else codes

    def assign(self, users: NDArray[Any]) -> NDArray[np.int64]:
        """Codes of ids, new and durable for strings never seen; the caller holds the log's lock.

        Raises:
            SchemaError: integers given where the store holds strings, or the reverse.
        """
        self.refresh()
        kind = kind_of(users)
        if self.kind is None:
            atomic.swap(self._path, records.pack(_KIND, kind.encode()))
            self.refresh()
        self._expect(kind)
        if kind == "int64":
            return users
        new = [s for s in dict.fromkeys(users.tolist()) if s not in self._codes]
        if new:
            if self._log is None:
                raise CorruptionError(f"{self._path} is gone since it was written; rebuild the store from its table")
            records.append(self._path, self._log.position, records.pack(_STRINGS, _pack(new)))
            self.refresh()
        return self._lookup(users)

    def names(self) -> list[str]:
        """Every string, by code."""
        return list(self._codes)

    def _lookup(self, users: NDArray[Any]) -> NDArray[np.int64]:
        get = self._codes.get
        codes = [get(s, UNKNOWN) for s in users.ravel().tolist()]
        return np.array(codes, np.int64).reshape(users.shape)

    def _expect(self, kind: IdKind) -> None:
        if kind != self.kind:
            given, held = ("integers", "strings") if kind == "int64" else ("strings", "integers")
            raise SchemaError(f"users: {given} given, but this store's user ids are {held}; convert them")

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == _KIND:
            self.kind = "string" if payload == b"string" else "int64"
        elif kind == _STRINGS:
            for name in _unpack(payload):
                self._codes[name] = len(self._codes)
        else:
            raise CorruptionError(f"{self._path}: unknown kind of record {kind}; was it written by a later version?")


def kind_of(users: NDArray[Any]) -> IdKind:
    """What a checked array of ids holds."""
    return "int64" if users.dtype == np.int64 else "string"


def as_ids(users: Any) -> NDArray[Any]:
    """Check user ids: int64, or strings as an object array.

    Strings are told apart to the last character, blanks and NULs among them; but an array of fixed-width strings of
    NumPy's has lost the NULs at their ends before it comes here.

    Args:
        users: integers or strings; a scalar, a list, an array of NumPy or Arrow, or a CPU tensor.

    Raises:
        SchemaError: floats, nulls, a mix of kinds, or integers beyond int64.
    """
    if isinstance(users, pa.Array | pa.ChunkedArray):
        users = _of_arrow(users)
    elif hasattr(users, "to_numpy"):
        users = users.to_numpy()
    try:
        array = np.asarray(users)
    except ValueError as error:
        raise SchemaError("users: a ragged list given; expected integers or strings of one shape") from error
    if array.dtype.kind == "U" and not isinstance(users, np.ndarray):
        array = np.asarray(users, object)  # the strings themselves: NumPy's own end before their last NULs
        if not all(isinstance(u, str) for u in array.flat):
            raise SchemaError("users: numbers and strings mixed; a store holds one kind of ids")
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise SchemaError(f"users: {int(array.max())} does not fit int64; pass such ids as strings")
        return array.astype(np.int64, copy=False)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind in "UT":
        return array.astype(object)
    if array.dtype == object:
        if all(isinstance(u, str) for u in array.flat):
            return array
        if all(isinstance(u, int | np.integer) and not isinstance(u, bool) for u in array.flat):
            try:
                return array.astype(np.int64)
            except OverflowError as error:
                raise SchemaError("users: an integer does not fit int64; pass such ids as strings") from error
    raise SchemaError(f"users: dtype {array.dtype} given; expected integers or strings, all of one kind, without nulls")


def query_ids(users: object, kind: pa.DataType) -> pa.Array:
    """The ids of a query as an Arrow column of a kind, (n,); null for those of the other kind, which no row can have.

    Args:
        users: what `as_ids` takes.
        kind: `pa.int64()` or `pa.string()`.

    Raises:
        SchemaError: as `as_ids`.
    """
    ids = as_ids(users).ravel()
    if kind_of(ids) != ("int64" if pa.types.is_int64(kind) else "string"):
        return pa.nulls(len(ids), kind)
    return pa.array(ids, kind)


def _of_arrow(users: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_dictionary(users.type):
        users = flat(users)
    if users.null_count:
        raise SchemaError(f"users: {users.null_count} nulls given; every row needs a user")
    if not (pa.types.is_integer(users.type) or is_string(users.type)) and len(users):
        raise SchemaError(f"users: Arrow type {users.type} given; expected integers or strings")
    array: NDArray[Any] = (
        users.to_numpy() if isinstance(users, pa.ChunkedArray) else users.to_numpy(zero_copy_only=False)
    )
    return array


def _pack(names: list[str]) -> bytes:
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    lengths = np.array([len(e) for e in encoded], "<u4").tobytes()
    return _COUNT.pack(len(names)) + lengths + b"".join(encoded)


def _unpack(payload: bytes) -> list[str]:
    (count,) = _COUNT.unpack_from(payload)
    ends = _COUNT.size + 4 * count + np.frombuffer(payload, "<u4", count, _COUNT.size).astype(np.int64).cumsum()
    starts = [_COUNT.size + 4 * count, *ends.tolist()]
    return [payload[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends.tolist(), strict=False)]
