"""Two matrix products over jagged rows (arXiv 2409.15373); each computes the gradients of the other."""

from typing import Any

from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .errors import OffsetsError
from .registry import define


def _picked(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def _ours(x: Tensor, matrix: int) -> bool:
    """Whether to use our kernel: it is faster for many small matrices, the vendor's for large ones; it has no float64."""
    return compiled.usable(x) and matrix <= 1 << 15


def _check_rows(x: Tensor, offsets: Tensor, index: Tensor | None) -> None:
    rows = x.shape[0] if index is None else index.shape[0]
    checks.offsets_values("offsets", offsets, rows)
    if index is not None and checks.reads_values(index) and index.numel():
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= x.shape[0]:
            raise OffsetsError(f"index holds {low if low < 0 else high}; x has {x.shape[0]} rows")


def _dense_bmm_cpu(x: Tensor, dense: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    _check_rows(x, offsets, index)
    run = compiled.dense_bmm if _ours(x, dense.shape[1] * dense.shape[2]) else eager.dense_bmm
    return run(_picked(x, index), dense, offsets)


def _dense_bmm_cuda(x: Tensor, dense: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    from .gpu import interaction as gpu

    _check_rows(x, offsets, index)
    return gpu.dense_bmm(x, dense, offsets, index)


def _dense_bmm_fake(x: Tensor, dense: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0] if index is None else index.shape[0], dense.shape[2])


def _jagged_bmm_cpu(x: Tensor, y: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    _check_rows(x, offsets, index)
    run = compiled.jagged_bmm if _ours(x, x.shape[1] * y.shape[1]) else eager.jagged_bmm
    return run(_picked(x, index), y, offsets)


def _jagged_bmm_cuda(x: Tensor, y: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    from .gpu import interaction as gpu

    _check_rows(x, offsets, index)
    return gpu.jagged_bmm(x, y, offsets, index)


def _jagged_bmm_fake(x: Tensor, y: Tensor, offsets: Tensor, index: Tensor | None) -> Tensor:
    return x.new_empty(offsets.shape[0] - 1, x.shape[1], y.shape[1])


def _save_all(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _unpick(rows: Tensor, index: Tensor | None, like: Tensor) -> Tensor:
    """The gradient of `_picked`: gradients of a row that was picked twice are summed."""
    return rows if index is None else like.new_zeros(like.shape).index_add(0, index, rows)


def _dense_bmm_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, dense, offsets, index = ctx.saved_tensors
    dx = ddense = None
    if ctx.needs_input_grad[0]:
        dx = _unpick(_dense_bmm(g, dense.mT, offsets, None), index, x)
    if ctx.needs_input_grad[1]:
        ddense = jagged_bmm(x, g, offsets, index)
    return dx, ddense, None, None


def _jagged_bmm_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, y, offsets, index = ctx.saved_tensors
    dx = dy = None
    if ctx.needs_input_grad[0]:
        dx = _unpick(_dense_bmm(y, g.mT, offsets, None), index, x)
    if ctx.needs_input_grad[1]:
        dy = _dense_bmm(x, g, offsets, index)
    return dx, dy, None, None


_dense_bmm = define(
    "dense_bmm",
    "(Tensor x, Tensor dense, Tensor offsets, Tensor? index) -> Tensor",
    cpu=_dense_bmm_cpu,
    cuda=_dense_bmm_cuda,
    fake=_dense_bmm_fake,
    backward=_dense_bmm_gradients,
    setup=_save_all,
)
jagged_bmm = define(
    "jagged_bmm",
    "(Tensor x, Tensor y, Tensor offsets, Tensor? index) -> Tensor",
    cpu=_jagged_bmm_cpu,
    cuda=_jagged_bmm_cuda,
    fake=_jagged_bmm_fake,
    backward=_jagged_bmm_gradients,
    setup=_save_all,
)


def jagged_dense_bmm(x: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    """Each row of a jagged tensor times its own matrix.

    Args:
        x: `(total, inner)`.
        dense: `(batch, inner, outer)`.
        offsets: `(batch + 1,)` int32 or int64.

    Returns:
        `(total, outer)`; differentiable in x and dense.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.rank("x", x, ("total", "inner"))
    checks.rank("dense", dense, ("batch", "inner", "outer"))
    checks.dtype("x", x)
    checks.same_dtype("dense", dense, "x", x)
    checks.offsets_form("offsets", offsets)
    checks.size("dense", dense, 0, offsets.shape[0] - 1, "one matrix a row")
    checks.size("dense", dense, 1, x.shape[1], "the width of x")
    checks.devices(x=x, dense=dense, offsets=offsets)
    out: Tensor = _dense_bmm(x, dense, offsets, None)
    return out


def jagged_jagged_bmm(x: Tensor, y: Tensor, offsets: Tensor) -> Tensor:
    """Each row of x, transposed, times the same row of y: pools a long feature with `right` weights.

    Args:
        x: `(total, left)`.
        y: `(total, right)`.
        offsets: `(batch + 1,)` int32 or int64, of both.

    Returns:
        `(batch, left, right)`, zeros for empty rows; differentiable in x and y.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.rank("x", x, ("total", "left"))
    checks.rank("y", y, ("total", "right"))
    checks.dtype("x", x)
    checks.same_dtype("y", y, "x", x)
    checks.size("y", y, 0, x.shape[0], "the values of x")
    checks.offsets_form("offsets", offsets)
    checks.devices(x=x, y=y, offsets=offsets)
    out: Tensor = jagged_bmm(x, y, offsets, None)
    return out


def grouped_gemm(x: Tensor, weights: Tensor, offsets: Tensor, index: Tensor | None = None) -> Tensor:
    """Groups of rows, each times its group's weights; rows may be selected by index, without copying x.

    Args:
        x: `(tokens, inner)`.
        weights: `(groups, inner, outer)`.
        offsets: `(groups + 1,)`: group g takes the rows `offsets[g]:offsets[g + 1]` of x, or of x[index].
        index: `(selected,)` int32 or int64 rows of x, sorted by group: a token routed to two experts stands in it
            twice. None: x is already in that order.

    Returns:
        `(selected, outer)`; differentiable in x and weights.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.rank("x", x, ("tokens", "inner"))
    checks.rank("weights", weights, ("groups", "inner", "outer"))
    checks.dtype("x", x)
    checks.same_dtype("weights", weights, "x", x)
    checks.offsets_form("offsets", offsets)
    checks.size("weights", weights, 0, offsets.shape[0] - 1, "one matrix a group")
    checks.size("weights", weights, 1, x.shape[1], "the width of x")
    if index is not None:
        checks.rank("index", index, ("selected",))
        checks.dtype("index", index, checks.INTS)
    checks.devices(x=x, weights=weights, offsets=offsets, index=index)
    out: Tensor = _dense_bmm(x, weights, offsets, index)
    return out
