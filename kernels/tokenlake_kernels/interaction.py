"""Feature interaction over jagged rows: products, softmax, broadcasting, and copies between layouts (arXiv 2409.15373).

Four ops carry all of it: two products that are each other's gradients, one broadcast, one copy of segments whose
gradient is the copy back.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .cpu.native import library
from .errors import ArgumentError, OffsetsError, ShapeError
from .registry import Size, define

# ---- products: dense_bmm and jagged_bmm -------------------------------------------------------------------------


def _picked(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def _ours(x: Tensor, matrix: int) -> bool:
    """The vendor's matrix product wins on large matrices, ours on many small ones (and has no float64)."""
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
    """The gradient of `_picked`: rows that were picked twice collect both gradients."""
    return rows if index is None else like.new_zeros(like.shape).index_add(0, index, rows)


def _dense_bmm_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, dense, offsets, index = ctx.saved_tensors
    dx = ddense = None
    if ctx.needs_input_grad[0]:
        dx = _unpick(_dense_bmm(g, dense.mT, offsets, None), index, x)
    if ctx.needs_input_grad[1]:
        ddense = _jagged_bmm(x, g, offsets, index)
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
_jagged_bmm = define(
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
    checks.same("dense", dense, "x", x)
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
    checks.same("y", y, "x", x)
    checks.size("y", y, 0, x.shape[0], "the values of x")
    checks.offsets_form("offsets", offsets)
    checks.devices(x=x, y=y, offsets=offsets)
    out: Tensor = _jagged_bmm(x, y, offsets, None)
    return out


def grouped_gemm(x: Tensor, weights: Tensor, offsets: Tensor, index: Tensor | None = None) -> Tensor:
    """Groups of rows, each times its group's weights; the rows may be picked by index, without moving x.

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
    checks.same("weights", weights, "x", x)
    checks.offsets_form("offsets", offsets)
    checks.size("weights", weights, 0, offsets.shape[0] - 1, "one matrix a group")
    checks.size("weights", weights, 1, x.shape[1], "the width of x")
    if index is not None:
        checks.rank("index", index, ("selected",))
        checks.dtype("index", index, checks.INTS)
    checks.devices(x=x, weights=weights, offsets=offsets, index=index)
    out: Tensor = _dense_bmm(x, weights, offsets, index)
    return out


# ---- softmax ----------------------------------------------------------------------------------------------------


def _softmax_cpu(x: Tensor, offsets: Tensor) -> Tensor:
    checks.offsets_values("offsets", offsets, x.shape[0])
    return (compiled.softmax if compiled.usable(x) else eager.softmax)(x, offsets)


def _softmax_cuda(x: Tensor, offsets: Tensor) -> Tensor:
    from .gpu import interaction as gpu

    checks.offsets_values("offsets", offsets, x.shape[0])
    return gpu.softmax(x, offsets)


def _softmax_backward_cpu(y: Tensor, g: Tensor, offsets: Tensor) -> Tensor:
    return (compiled.softmax_backward if compiled.usable(y) else eager.softmax_backward)(y, g, offsets)


def _softmax_backward_cuda(y: Tensor, g: Tensor, offsets: Tensor) -> Tensor:
    from .gpu import interaction as gpu

    return gpu.softmax_backward(y, g, offsets)


def _softmax_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(output, inputs[1])


def _softmax_gradients(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    y, offsets = ctx.saved_tensors
    return _softmax_backward(y, g, offsets), None


_softmax_backward = define(
    "softmax_backward",
    "(Tensor y, Tensor g, Tensor offsets) -> Tensor",
    cpu=_softmax_backward_cpu,
    cuda=_softmax_backward_cuda,
    fake=lambda y, g, offsets: y.new_empty(y.shape),
)
_softmax = define(
    "softmax",
    "(Tensor x, Tensor offsets) -> Tensor",
    cpu=_softmax_cpu,
    cuda=_softmax_cuda,
    fake=lambda x, offsets: x.new_empty(x.shape),
    backward=_softmax_gradients,
    setup=_softmax_setup,
)


def jagged_softmax(x: Tensor, offsets: Tensor) -> Tensor:
    """Softmax over the length of each row, column by column.

    Args:
        x: `(total, ...)` floating point.
        offsets: `(batch + 1,)` int32 or int64.

    Returns:
        The shape of x; differentiable in x.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.dtype("x", x)
    if x.dim() == 0:
        raise ShapeError("x is a scalar; expected (total, ...)")
    checks.offsets_form("offsets", offsets)
    checks.devices(x=x, offsets=offsets)
    columns = 1
    for n in x.shape[1:]:
        columns *= n
    out: Tensor = _softmax(x.reshape(x.shape[0], columns), offsets)
    return out.view(x.shape)


# ---- broadcasting -----------------------------------------------------------------------------------------------


def _broadcast_cpu(x: Tensor, dense: Tensor, offsets: Tensor, mul: int) -> Tensor:
    checks.offsets_values("offsets", offsets, x.shape[0], -1 if dense.shape[1] == 1 else dense.shape[1])
    return (compiled.broadcast if compiled.usable(x) else eager.broadcast)(x, dense, offsets, mul=bool(mul))


def _broadcast_cuda(x: Tensor, dense: Tensor, offsets: Tensor, mul: int) -> Tensor:
    from .gpu import interaction as gpu

    checks.offsets_values("offsets", offsets, x.shape[0], -1 if dense.shape[1] == 1 else dense.shape[1])
    return gpu.broadcast(x, dense, offsets, mul=bool(mul))


def _broadcast_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, dense, offsets, ctx.mul = inputs
    ctx.shape = dense.shape
    ctx.save_for_backward(x if ctx.mul else None, dense if ctx.mul else None, offsets)


def _onto_dense(g: Tensor, offsets: Tensor, shape: torch.Size) -> Tensor:
    """Sum the jagged gradient into the (batch, len, cols) that was broadcast."""
    if shape[1] == 1:
        summed: Tensor = _jagged_bmm(g.new_ones(g.shape[0], 1), g, offsets, None)
    else:
        summed = _padded(g, offsets, shape[1], 0)
    return summed.sum(-1, keepdim=True) if shape[2] == 1 and g.shape[1] != 1 else summed


def _broadcast_gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, dense, offsets = ctx.saved_tensors
    dx = ddense = None
    if ctx.needs_input_grad[0]:
        dx = _broadcast(g, dense, offsets, ctx.mul) if ctx.mul else g
    if ctx.needs_input_grad[1]:
        ddense = _onto_dense(g * x if ctx.mul else g, offsets, ctx.shape)
    return dx, ddense, None, None


_broadcast = define(
    "broadcast",
    "(Tensor x, Tensor dense, Tensor offsets, int mul) -> Tensor",
    cpu=_broadcast_cpu,
    cuda=_broadcast_cuda,
    fake=lambda x, dense, offsets, mul: x.new_empty(x.shape),
    backward=_broadcast_gradients,
    setup=_broadcast_setup,
)


def _check_broadcast(x: Tensor, offsets: Tensor, dense: Tensor) -> None:
    checks.rank("x", x, ("total", "dim"))
    checks.rank("dense", dense, ("batch", "len or 1", "dim or 1"))
    checks.dtype("x", x)
    checks.same("dense", dense, "x", x)
    checks.offsets_form("offsets", offsets)
    checks.size("dense", dense, 0, offsets.shape[0] - 1, "one block a row")
    if dense.shape[2] != 1:
        checks.size("dense", dense, 2, x.shape[1], "the width of x, or 1")
    checks.devices(x=x, offsets=offsets, dense=dense)


def jagged_dense_add(x: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """`x[offsets[b] + l] + dense[b, l]`.

    Args:
        x: `(total, dim)`.
        offsets: `(batch + 1,)` int32 or int64.
        dense: `(batch, len, dim)`, len at least the longest row; a len or a dim of 1 is broadcast.

    Returns:
        `(total, dim)`; differentiable in x and dense.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    _check_broadcast(x, offsets, dense)
    out: Tensor = _broadcast(x, dense, offsets, 0)
    return out


def jagged_dense_mul(x: Tensor, offsets: Tensor, dense: Tensor) -> Tensor:
    """`x[offsets[b] + l] * dense[b, l]`; arguments, result and errors as `jagged_dense_add`."""
    _check_broadcast(x, offsets, dense)
    out: Tensor = _broadcast(x, dense, offsets, 1)
    return out


# ---- copies between layouts -------------------------------------------------------------------------------------


def _check_segments(
    srcs: list[Tensor], src_starts: list[Tensor], dst_starts: list[Tensor], lengths: list[Tensor], rows: int
) -> None:
    """Copying past an end would corrupt memory, so this is checked wherever reading values is free."""
    if not lengths or not checks.reads_values(lengths[0]):
        return
    for src, starts, ends, counts in zip(srcs, src_starts, dst_starts, lengths, strict=True):
        bad = (counts < 0) | (starts < 0) | (ends < 0) | (starts + counts > src.shape[0]) | (ends + counts > rows)
        if bad.any():
            at = int(bad.int().argmax())
            raise OffsetsError(
                f"row {at} of offsets overruns: {int(counts[at])} values from {int(starts[at])} of {src.shape[0]}"
            )


def _copy_cpu(
    srcs: list[Tensor],
    src_starts: list[Tensor],
    dst_starts: list[Tensor],
    lengths: list[Tensor],
    rows: int,
    fill: float,
) -> Tensor:
    _check_segments(srcs, src_starts, dst_starts, lengths, rows)
    out = srcs[0].new_full((rows, *srcs[0].shape[1:]), fill)
    run = eager.copy_segments if library() is None else compiled.copy_segments
    for parts in zip(srcs, src_starts, dst_starts, lengths, strict=True):
        run(*parts, out)
    return out


def _copy_cuda(
    srcs: list[Tensor],
    src_starts: list[Tensor],
    dst_starts: list[Tensor],
    lengths: list[Tensor],
    rows: int,
    fill: float,
) -> Tensor:
    from .gpu import interaction as gpu

    _check_segments(srcs, src_starts, dst_starts, lengths, rows)
    out = srcs[0].new_full((rows, *srcs[0].shape[1:]), fill)
    for parts in zip(srcs, src_starts, dst_starts, lengths, strict=True):
        gpu.copy_segments(*parts, out)
    return out


def _copy_fake(
    srcs: list[Tensor],
    src_starts: list[Tensor],
    dst_starts: list[Tensor],
    lengths: list[Tensor],
    rows: Size,
    fill: float,
) -> Tensor:
    return srcs[0].new_empty(rows, *srcs[0].shape[1:])


def _copy_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    srcs, *segments, _, _ = inputs
    ctx.rows = [src.shape[0] for src in srcs]
    ctx.save_for_backward(*(x for kind in segments for x in kind))


def _copy_gradients(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    count = len(ctx.rows)
    saved = ctx.saved_tensors
    kinds = zip(saved[:count], saved[count : 2 * count], saved[2 * count :], ctx.rows, strict=True)
    back = [_copy([g], [ends], [starts], [counts], rows, 0.0) for starts, ends, counts, rows in kinds]
    return back, [None] * count, [None] * count, [None] * count, None, None


_copy = define(
    "copy_segments",
    "(Tensor[] srcs, Tensor[] src_starts, Tensor[] dst_starts, Tensor[] lengths, SymInt rows, float fill) -> Tensor",
    cpu=_copy_cpu,
    cuda=_copy_cuda,
    fake=_copy_fake,
    backward=_copy_gradients,
    setup=_copy_setup,
)


def _padded(x: Tensor, offsets: Tensor, max_len: Size, fill: float | int) -> Tensor:
    batch = offsets.shape[0] - 1
    starts = torch.arange(batch, device=x.device) * max_len
    lengths = offsets.diff().clamp(max=max_len)  # type: ignore[arg-type]  # its types know no symbolic size
    out: Tensor = _copy([x], [offsets[:-1]], [starts], [lengths], batch * max_len, float(fill))
    return out.view(batch, max_len, *x.shape[1:])


def _check_offsets_now(offsets: Tensor, total: int | None, max_len: int = -1) -> None:
    """Values can't be read while tracing; then the op's own check of its segments remains."""
    if not torch.compiler.is_compiling():
        checks.offsets_values("offsets", offsets, total, max_len)


def jagged_to_padded(x: Tensor, offsets: Tensor, max_len: int, fill: float | int = 0) -> Tensor:
    """Lay jagged rows out as a padded block.

    Args:
        x: `(total, ...)` of any dtype.
        offsets: `(batch + 1,)` int32 or int64.
        max_len: The length of the block; longer rows keep their first `max_len` values.
        fill: What stands behind shorter rows.

    Returns:
        `(batch, max_len, ...)`; differentiable in x.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError, OffsetsError: An argument that does not fit the others.
    """
    if x.dim() == 0:
        raise ShapeError("x is a scalar; expected (total, ...)")
    checks.offsets_form("offsets", offsets)
    checks.devices(x=x, offsets=offsets)
    checks.at_least("max_len", max_len, 0)
    _check_offsets_now(offsets, x.shape[0])
    return _padded(x, offsets, max_len, fill)


def padded_to_jagged(p: Tensor, offsets: Tensor, total: int | None = None) -> Tensor:
    """Drop the padding: the inverse of `jagged_to_padded`.

    Args:
        p: `(batch, max_len, ...)` of any dtype.
        offsets: `(batch + 1,)` int32 or int64; no row longer than `max_len`.
        total: `offsets[-1]`. None reads it, which waits for a GPU and ends a `torch.compile` graph.

    Returns:
        `(total, ...)`; differentiable in p.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    if p.dim() < 2:
        raise ShapeError(f"p has shape {tuple(p.shape)}; expected (batch, max_len, ...)")
    checks.offsets_form("offsets", offsets)
    checks.size("p", p, 0, offsets.shape[0] - 1, "one block a row")
    checks.devices(p=p, offsets=offsets)
    _check_offsets_now(offsets, total, p.shape[1])
    rows = int(offsets[-1]) if total is None else total
    starts = torch.arange(p.shape[0], device=p.device) * p.shape[1]
    out: Tensor = _copy([p.flatten(0, 1)], [starts], [offsets[:-1]], [offsets.diff()], rows, 0.0)
    return out


def jagged_concat(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Join jagged tensors row by row: row b of the result is row b of each, one after the other.

    Args:
        values: `(total_n, ...)` each, alike but for their totals.
        offsets: `(batch + 1,)` each.

    Returns:
        `(sum of totals, ...)` and its `(batch + 1,)` int64 offsets; differentiable in the values.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError, OffsetsError: Inputs that do not fit each other.
    """
    if not values or len(values) != len(offsets):
        raise ArgumentError(f"{len(values)} values with {len(offsets)} offsets; expected as many of each, at least one")
    for n, (x, o) in enumerate(zip(values, offsets, strict=True)):
        checks.offsets_form(f"offsets[{n}]", o)
        checks.size(f"offsets[{n}]", o, 0, offsets[0].shape[0], "the rows of offsets[0]")
        checks.same(f"values[{n}]", x, "values[0]", values[0])
        checks.devices(values=values[0], this=x, offsets=o)
        if x.shape[1:] != values[0].shape[1:]:
            raise ShapeError(f"values[{n}] has shape {tuple(x.shape)}; values[0] has {tuple(values[0].shape)}")
        if not torch.compiler.is_compiling():
            checks.offsets_values(f"offsets[{n}]", o, x.shape[0])
    ends = [o.long() for o in offsets]
    joined = torch.stack(ends).sum(0)
    counts = [o.diff() for o in ends]
    starts, at = [], joined[:-1]
    for count in counts:
        starts.append(at)
        at = at + count
    rows = sum(x.shape[0] for x in values)
    out: Tensor = _copy(list(values), [o[:-1] for o in ends], starts, counts, rows, 0.0)
    return out, joined


def jagged_split(
    x: Tensor, offsets: Tensor, lengths: Tensor, total: int | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cut every row in two: the inverse of `jagged_concat` of two.

    Args:
        x: `(total, ...)`.
        offsets: `(batch + 1,)` int32 or int64.
        lengths: `(batch,)` integers: how many values of each row go to the first part.
        total: The sum of lengths; None reads it, which waits for a GPU and ends a `torch.compile` graph.

    Returns:
        `((first, its offsets), (second, its offsets))`; differentiable in x.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.offsets_form("offsets", offsets)
    checks.dtype("lengths", lengths, checks.INTS)
    checks.rank("lengths", lengths, ("batch",))
    checks.size("lengths", lengths, 0, offsets.shape[0] - 1, "one a row")
    checks.devices(x=x, offsets=offsets, lengths=lengths)
    if not torch.compiler.is_compiling():
        checks.offsets_values("offsets", offsets, x.shape[0])
        checks.row_counts("lengths", lengths, offsets)
    ends, counts = offsets.long(), lengths.long()
    first = torch.cat([ends.new_zeros(1), counts.cumsum(0)])
    rows = int(first[-1]) if total is None else total
    second = ends - first
    front: Tensor = _copy([x], [ends[:-1]], [first[:-1]], [counts], rows, 0.0)
    back: Tensor = _copy([x], [ends[:-1] + counts], [second[:-1]], [second.diff()], x.shape[0] - rows, 0.0)
    return (front, first), (back, second)


# ---- time differences -------------------------------------------------------------------------------------------


def _differences_cpu(timestamps: Tensor, offsets: Tensor, total: int) -> Tensor:
    checks.offsets_values("offsets", offsets, timestamps.shape[0])
    found = int(offsets.long().diff().square().sum())
    if found != total:
        raise OffsetsError(f"total is {total}; the rows of offsets have {found} pairs")
    run = eager.time_differences if library() is None else compiled.time_differences
    return run(timestamps, offsets, total)


def _differences_cuda(timestamps: Tensor, offsets: Tensor, total: int) -> Tensor:
    from .gpu import interaction as gpu

    checks.offsets_values("offsets", offsets, timestamps.shape[0])
    return gpu.time_differences(timestamps, offsets, total)


_differences = define(
    "time_differences",
    "(Tensor timestamps, Tensor offsets, SymInt total) -> Tensor",
    cpu=_differences_cpu,
    cuda=_differences_cuda,
    fake=lambda timestamps, offsets, total: timestamps.new_empty(total),
)


def jagged_time_differences(timestamps: Tensor, offsets: Tensor, total: int | None = None) -> Tensor:
    """`t_i - t_j` for all pairs of every row.

    Args:
        timestamps: `(total,)` int64.
        offsets: `(batch + 1,)` int32 or int64.
        total: The sum of the squared lengths; None reads it, which waits for a GPU and ends a `torch.compile` graph.

    Returns:
        `(pairs,)` int64: the L_b x L_b differences of each row, row-major, row after row.

    Raises:
        ShapeError, DtypeError, DeviceError, OffsetsError: An argument that does not fit the others.
    """
    checks.dtype("timestamps", timestamps, (torch.int64,))
    checks.rank("timestamps", timestamps, ("total",))
    checks.offsets_form("offsets", offsets)
    checks.devices(timestamps=timestamps, offsets=offsets)
    pairs = int(offsets.long().diff().square().sum()) if total is None else total
    out: Tensor = _differences(timestamps, offsets, pairs)
    return out
