"""Conversions between jagged and padded rows, and concat and split of jagged rows: all are copies of segments."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks
from .cpu import compiled, eager
from .cpu.native import library
from .errors import ArgumentError, OffsetsError, ShapeError
from .registry import Size, define


def _check_segments(
    srcs: list[Tensor], src_starts: list[Tensor], dst_starts: list[Tensor], lengths: list[Tensor], rows: int
) -> None:
    """Check that no segment exceeds its tensor, which would corrupt memory; done wherever reading values is free."""
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


def padded(x: Tensor, offsets: Tensor, max_len: Size, fill: float | int) -> Tensor:
    """`jagged_to_padded` without checks, for gradients."""
    batch = offsets.shape[0] - 1
    starts = torch.arange(batch, device=x.device) * max_len
    lengths = offsets.diff().clamp(max=max_len)  # type: ignore[arg-type]  # its types know no symbolic size
    out: Tensor = _copy([x], [offsets[:-1]], [starts], [lengths], batch * max_len, float(fill))
    return out.view(batch, max_len, *x.shape[1:])


def _check_offsets_now(offsets: Tensor, total: int | None, max_len: int = -1) -> None:
    """Check offsets, except while tracing, when values cannot be read; the op itself then checks its segments."""
    if not torch.compiler.is_compiling():
        checks.offsets_values("offsets", offsets, total, max_len)


def jagged_to_padded(x: Tensor, offsets: Tensor, max_len: int, fill: float | int = 0) -> Tensor:
    """Copy jagged rows into a padded block.

    Args:
        x: `(total, ...)` of any dtype.
        offsets: `(batch + 1,)` int32 or int64.
        max_len: The length of the block; longer rows keep their first `max_len` values.
        fill: Value of the padding after shorter rows.

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
    return padded(x, offsets, max_len, fill)


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
    """Concatenate jagged tensors row by row: row b of the result is the concatenation of all rows b.

    Args:
        values: `(total_n, ...)` each, with the same trailing dimensions.
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
        checks.same_dtype(f"values[{n}]", x, "values[0]", values[0])
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
    """Split every row in two: the inverse of `jagged_concat` of two tensors.

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
