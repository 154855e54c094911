"""Arguments of the attention ops besides q, k and v, in the order of their schemas, as passed to the back ends."""

from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from .masks import HstuMask


class SoftmaxPlan(NamedTuple):
    """Arguments of softmax attention.

    Attributes:
        bias: `(rows, queries, max_len)`, added to the scores of all heads, or None.
        offsets: `(rows + 1,)` into k and v, and into q where that is jagged too.
        queries: Queries per row if q is dense; 0 if it is jagged.
        left: Query i sees key j when `-left <= j - i <= right`.
        right: See `left`.
        scale: Multiplies q k^T.
        max_len: At least the longest row; -1: unknown.
    """

    bias: Float[Tensor, "rows dense max_len"] | None
    offsets: Int[Tensor, " rows_plus_one"]
    queries: int
    left: int
    right: int
    scale: float
    max_len: int


class PrefixPlan(NamedTuple):
    """Arguments of prefix attention.

    Attributes:
        table: `(1 or heads, 1 + buckets)`: the bias of the query's own key, then of the time gap; or None.
        q_offsets: `(rows + 1,)` into q.
        offsets: `(rows + 1,)` into k and v.
        limits: `(queries,)`: number of first keys of its row that a query sees.
        own: `(queries,)`: position of a query's own key in its row.
        q_times: `(queries,)`; None without `table`.
        times: `(total,)`, likewise.
        scale: Multiplies q k^T.
        max_len: At least the longest row; -1: unknown.
    """

    table: Float[Tensor, "tables entries"] | None
    q_offsets: Int[Tensor, " rows_plus_one"]
    offsets: Int[Tensor, " rows_plus_one"]
    limits: Int[Tensor, " queries"]
    own: Int[Tensor, " queries"]
    q_times: Int[Tensor, " queries"] | None
    times: Int[Tensor, " total"] | None
    scale: float
    max_len: int


class HstuPlan(NamedTuple):
    """Arguments of HSTU attention.

    Attributes:
        offsets: `(rows + 1,)` into q, k and v.
        targets: `(rows,)`: number of targets at the end of each row, or None.
        timestamps: `(total,)`; None without `time`.
        position: `(1 or heads, positions)`: the bias of the distance, or None.
        time: `(1 or heads, buckets)`: the bias of the time gap, or None.
        scale: Multiplies q k^T.
        norm: Divides the weights.
        mask: The attention mask.
        max_len: At least the longest row; -1: unknown.
    """

    offsets: Int[Tensor, " rows_plus_one"]
    targets: Int[Tensor, " rows"] | None
    timestamps: Int[Tensor, " total"] | None
    position: Float[Tensor, "tables positions"] | None
    time: Float[Tensor, "time_tables buckets"] | None
    scale: float
    norm: float
    mask: HstuMask
    max_len: int

    @classmethod
    def of(cls, *arguments: Any) -> "HstuPlan":
        """Create a plan from the op's arguments, in which the mask is a list."""
        *rest, mask, max_len = arguments
        return cls._make((*rest, HstuMask(*mask), max_len))
