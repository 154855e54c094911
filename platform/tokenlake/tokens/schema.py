"""What a store holds: the columns of a row, and rows of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.errors import SchemaError
from tokenlake.names import apart, quotable
from tokenlake.storage.native_ops import take

TOKEN_DTYPES = ("float32", "float16", "int8")
SIDE_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
#: Names of a store's own columns, beside which the side columns lie.
_OWN = ("timestamp", "token", "scale")


@dataclass(frozen=True)
class StoreSchema:
    """Width and dtype of the tokens, and the columns beside them.

    Attributes:
        dim: width of a token.
        dtype: `float32`, `float16`, or `int8` (with a float32 scale per row).
        side: name -> NumPy dtype of each side column.
        known_at: the side columns that are labels, each with an instant from which it is known.
    """

    dim: int
    dtype: str
    side: Mapping[str, str] = field(default_factory=dict)
    known_at: tuple[str, ...] = ()

    @classmethod
    def of(cls, dim: int, dtype: object, side: Mapping[str, Any] | None, known_at: Iterable[str]) -> StoreSchema:
        """Check what a caller asks for.

        Raises:
            SchemaError: a width below 1, an unknown dtype, a name that is none, or a label that is no side column.
        """
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= 65_536:
            raise SchemaError(f"dim={dim!r}; expected a width between 1 and 65536")
        name = _dtype_name(dtype, TOKEN_DTYPES, "dtype")
        sides = {str(k): _dtype_name(v, SIDE_DTYPES, f"side {k!r}") for k, v in (side or {}).items()}
        if isinstance(known_at, str):
            raise SchemaError(f"known_at={known_at!r}; expected a list of names, such as [{known_at!r}]")
        labels = tuple(known_at)
        if missing := [label for label in labels if label not in sides]:
            raise SchemaError(
                f"known_at names {missing}, which are no side columns; the side columns are {list(sides)}"
            )
        if strange := [name for name in sides if not quotable(name)]:
            raise SchemaError(f"side {strange[0]!r}: no name of a column; expected any text without NUL, not empty")
        if len(set(labels)) < len(labels):
            raise SchemaError(f"known_at={list(labels)}; expected each label once")
        return cls(int(dim), name, sides, labels)

    @cached_property
    def token_dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the stored tokens."""
        return np.dtype(self.dtype)

    @cached_property
    def _beside(self) -> list[str]:
        """Names of the columns beside the store's own: a side column's is its own, unless that is a column already."""
        return apart([*self.side, *(f"{label}_known_at" for label in self.known_at)], _OWN)

    @cached_property
    def side_columns(self) -> dict[str, str]:
        """Side name -> its column."""
        return dict(zip(self.side, self._beside, strict=False))

    @cached_property
    def known_columns(self) -> dict[str, str]:
        """Label -> the column of the instants from which it is known."""
        return dict(zip(self.known_at, self._beside[len(self.side) :], strict=True))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Column of a label's value -> the label."""
        return {self.side_columns[label]: label for label in self.known_at}

    @cached_property
    def columns(self) -> dict[str, np.dtype[Any]]:
        """Every stored column but `user`, in file order; `token` has a second axis of `dim`."""
        scale = {"scale": np.dtype(np.float32)} if self.dtype == "int8" else {}
        sides = {self.side_columns[k]: np.dtype(v) for k, v in self.side.items()}
        known = dict.fromkeys(self.known_columns.values(), np.dtype(np.int64))
        return {"timestamp": np.dtype(np.int64), "token": self.token_dtype, **scale, **sides, **known}

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row without its user."""
        return sum(d.itemsize for d in self.columns.values()) + self.token_dtype.itemsize * (self.dim - 1)

    @cached_property
    def arrow(self) -> pa.Schema:
        """A segment's schema: one record per user, its rows as a list of structs."""
        fields = [pa.field(name, self.arrow_type(name), nullable=False) for name in self.columns]
        rows = pa.list_(pa.field("row", pa.struct(fields), nullable=False))
        return pa.schema([pa.field("user", pa.int64(), nullable=False), pa.field("rows", rows, nullable=False)])

    def arrow_type(self, column: str) -> pa.DataType:
        """Arrow type of a column; bools are bytes, so that every column is a plain array."""
        if column == "timestamp":
            return pa.timestamp("us", "UTC")
        dtype = self.columns[column]
        plain = pa.uint8() if dtype == np.bool_ else pa.from_numpy_dtype(dtype)
        return pa.list_(pa.field("value", plain, nullable=False), self.dim) if column == "token" else plain

    def shape(self, column: str, rows: int) -> tuple[int, ...]:
        """Shape of a column of so many rows."""
        return (rows, self.dim) if column == "token" else (rows,)

    def empty(self, rows: int) -> dict[str, NDArray[Any]]:
        """Uninitialised columns."""
        return {name: np.empty(self.shape(name, rows), dtype) for name, dtype in self.columns.items()}

    def to_json(self) -> dict[str, Any]:
        """The schema as the manifest keeps it."""
        return {"dim": self.dim, "dtype": self.dtype, "side": dict(self.side), "known_at": list(self.known_at)}


def _dtype_name(value: object, allowed: tuple[str, ...], what: str) -> str:
    try:
        name = np.dtype(value).name  # type: ignore[call-overload]  # anything may be given; NumPy is the judge
    except TypeError:
        name = None
    if value is None or name not in allowed:
        raise SchemaError(f"{what}: {value!r} given; expected one of {', '.join(allowed)}")
    return str(name)


@dataclass(frozen=True)
class TokenRows:
    """Rows in memory: `users` is (n,) int64, each column (n,) or, for `token`, (n, dim)."""

    users: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """The time of each row, (n,) int64 microseconds."""
        return self.columns["timestamp"]

    def take(self, index: NDArray[Any]) -> TokenRows:
        """The rows at an integer or boolean index."""
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return TokenRows(take(self.users, index), {name: take(column, index) for name, column in self.columns.items()})
