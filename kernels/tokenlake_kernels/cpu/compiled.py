"""The compiled CPU kernels: passes tensors as pointers to C functions. Half precision is converted to float32 first."""

import ctypes

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..plans import HstuPlan, SoftmaxPlan
from .native import library

SMALL = 1 << 14  # below this many elements a second thread costs more than it brings


def usable(x: Tensor) -> bool:
    """Whether compiled kernels are available for this dtype."""
    return x.dtype != torch.float64 and library() is not None


def call(name: str, *args: Tensor | int | float | None, threads: int) -> None:
    """Call a C function; tensors are passed as pointers."""
    native = library()
    if native is None:
        raise RuntimeError("the compiled kernels were asked for where usable() had said no")
    values: list[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float] = []
    for arg in args:
        if arg is None:
            values.append(ctypes.c_void_p(0))
        elif isinstance(arg, Tensor):
            values.append(ctypes.c_void_p(arg.data_ptr()))
        else:
            values.append(ctypes.c_float(arg) if isinstance(arg, float) else ctypes.c_int64(arg))
    getattr(native, name)(*values, ctypes.c_int(threads))


def threads_for(work: int) -> int:
    """Number of threads for this amount of work."""
    return 1 if work < SMALL else torch.get_num_threads()


def as_float(x: Tensor) -> Tensor:
    """float32 with a contiguous last dimension; other strides are kept."""
    x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def flat_float(x: Tensor) -> Tensor:
    """Contiguous float32."""
    return x.float().contiguous()


def strides(*tensors: Tensor) -> Tensor:
    """The (token, head) strides of all tensors, concatenated."""
    return torch.tensor([s for x in tensors for s in x.stride()[:2]])


def long(x: Tensor) -> Tensor:
    """Contiguous int64."""
    return x.long().contiguous()


def _ends(plan: SoftmaxPlan) -> tuple[Int[Tensor, " rows_plus_one"], Int[Tensor, " rows_plus_one"]]:
    keys = long(plan.offsets)
    return (torch.arange(keys.shape[0]) * plan.queries if plan.queries else keys), keys


def _sizes(q: Tensor, k: Tensor, plan: SoftmaxPlan, bias: Tensor | None) -> tuple[int | float, ...]:
    """Rows, heads, kv_heads and dim; queries and columns of the bias; the band and the scale."""
    shape = (plan.offsets.shape[0] - 1, q.shape[1], k.shape[1], q.shape[2])
    return *shape, *((0, 0) if bias is None else bias.shape[1:]), plan.left, plan.right, plan.scale


def attention_forward(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    plan: SoftmaxPlan,
    *,
    save: bool,
) -> tuple[Float[Tensor, "queries heads dim"], Float[Tensor, "heads saved"]]:
    """As `eager.attention_forward`."""
    qs, ks, vs = as_float(q), as_float(k), as_float(v)
    flat = None if plan.bias is None else flat_float(plan.bias)
    out = torch.empty(q.shape)
    lse = torch.empty(q.shape[1], q.shape[0] if save else 0)
    call(
        "tl_attention_forward",
        *(qs, ks, vs, strides(qs, ks, vs), flat, *_ends(plan), *_sizes(q, k, plan, flat)),
        *(out, lse if save else None),
        threads=threads_for(q.numel() * 8),
    )
    return out.to(q.dtype), lse


def attention_backward(
    g: Float[Tensor, "queries heads dim"],
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "total kv_heads dim"],
    v: Float[Tensor, "total kv_heads dim"],
    out: Float[Tensor, "queries heads dim"],
    lse: Float[Tensor, "heads queries"],
    plan: SoftmaxPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `eager.attention_backward`."""
    qs, ks, vs, gs = as_float(q), as_float(k), as_float(v), as_float(g)
    flat = None if plan.bias is None else flat_float(plan.bias)
    # Rows without keys are skipped, so the gradient of their queries must start as zero.
    dq, dk, dv = torch.zeros(q.shape), torch.zeros(k.shape), torch.zeros(v.shape)
    dbias = None if flat is None else torch.zeros_like(flat)
    call(
        "tl_attention_backward",
        *(qs, ks, vs, gs, strides(qs, ks, vs, gs), flat, lse, (gs * out.float()).sum(-1).T.contiguous()),
        *(*_ends(plan), *_sizes(q, k, plan, flat), dq, dk, dv, dbias),
        threads=threads_for(q.numel() * 8),
    )
    given = q.new_zeros(0) if plan.bias is None or dbias is None else dbias.to(plan.bias.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), given


class _Tables:
    """The bias tables of HSTU attention in the form of the C interface."""

    def __init__(self, plan: HstuPlan) -> None:
        self.position = None if plan.position is None else flat_float(plan.position)
        self.time = None if plan.time is None else flat_float(plan.time)
        self.timestamps = None if plan.timestamps is None else long(plan.timestamps)
        sizes = [
            (0, 0) if t is None else (t.shape[1], 0 if t.shape[0] == 1 else t.shape[1])
            for t in (self.position, self.time)
        ]
        self.sizes = torch.tensor(sizes).flatten()


def _rows(plan: HstuPlan) -> tuple[Tensor | int | None, ...]:
    return long(plan.offsets), None if plan.targets is None else long(plan.targets), plan.offsets.shape[0] - 1


def hstu_forward(
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total heads dim"],
    v: Float[Tensor, "total heads dim"],
    plan: HstuPlan,
) -> Float[Tensor, "total heads dim"]:
    """As `eager.hstu_forward`."""
    qs, ks, vs = as_float(q), as_float(k), as_float(v)
    tables = _Tables(plan)
    out = torch.empty(q.shape)
    call(
        "tl_hstu_forward",
        *(qs, ks, vs, strides(qs, ks, vs), *_rows(plan)),
        *(q.shape[1], q.shape[2], torch.tensor(plan.mask)),
        *(tables.position, tables.time, tables.sizes, tables.timestamps, plan.scale, plan.norm, out),
        threads=threads_for(q.numel() * 8),
    )
    return out.to(q.dtype)


def hstu_backward(
    g: Float[Tensor, "total heads dim"],
    q: Float[Tensor, "total heads dim"],
    k: Float[Tensor, "total heads dim"],
    v: Float[Tensor, "total heads dim"],
    plan: HstuPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `eager.hstu_backward`."""
    qs, ks, vs, gs = as_float(q), as_float(k), as_float(v), as_float(g)
    tables = _Tables(plan)
    dq, dk, dv = torch.zeros(q.shape), torch.zeros(k.shape), torch.zeros(v.shape)
    threads = threads_for(q.numel() * 8)
    given = (tables.position, tables.time)
    grads = [None if t is None else torch.zeros(threads, *t.shape) for t in given]
    call(
        "tl_hstu_backward",
        *(qs, ks, vs, gs, strides(qs, ks, vs, gs), *_rows(plan)),
        *(q.shape[1], q.shape[2], torch.tensor(plan.mask), *given, tables.sizes, tables.timestamps),
        *(plan.scale, plan.norm, dq, dk, dv, *grads, *(0 if t is None else t.numel() for t in given)),
        threads=threads,
    )
    dposition, dtime = (
        q.new_zeros(0) if grad is None or like is None else grad.sum(0).to(like.dtype)
        for grad, like in zip(grads, (plan.position, plan.time), strict=True)
    )
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dposition, dtime


def dense_bmm(
    x: Float[Tensor, "total inner"], dense: Float[Tensor, "rows inner outer"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total outer"]:
    """As `eager.dense_bmm`."""
    out = torch.empty(x.shape[0], dense.shape[2])
    work = x.numel() * dense.shape[2] // 8
    call(
        "tl_dense_bmm",
        *(flat_float(x), flat_float(dense), long(offsets), *dense.shape, out),
        threads=threads_for(work),
    )
    return out.to(x.dtype)


def jagged_bmm(
    x: Float[Tensor, "total left"], y: Float[Tensor, "total right"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "rows left right"]:
    """As `eager.jagged_bmm`."""
    out = torch.empty(offsets.shape[0] - 1, x.shape[1], y.shape[1])
    work = x.numel() * y.shape[1] // 8
    call("tl_jagged_bmm", *(flat_float(x), flat_float(y), long(offsets), *out.shape, out), threads=threads_for(work))
    return out.to(x.dtype)


def softmax(
    x: Float[Tensor, "total columns"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total columns"]:
    """As `eager.softmax`."""
    out = torch.empty(x.shape)
    batch = offsets.shape[0] - 1
    call("tl_softmax", flat_float(x), long(offsets), batch, x.shape[1], out, threads=threads_for(x.numel()))
    return out.to(x.dtype)


def softmax_backward(
    y: Float[Tensor, "total columns"], g: Float[Tensor, "total columns"], offsets: Int[Tensor, " rows_plus_one"]
) -> Float[Tensor, "total columns"]:
    """As `eager.softmax_backward`."""
    out = torch.empty(y.shape)
    batch = offsets.shape[0] - 1
    call(
        "tl_softmax_backward",
        flat_float(y),
        flat_float(g),
        long(offsets),
        batch,
        y.shape[1],
        out,
        threads=threads_for(y.numel()),
    )
    return out.to(y.dtype)


def broadcast(
    x: Float[Tensor, "total dim"],
    dense: Float[Tensor, "rows len cols"],
    offsets: Int[Tensor, " rows_plus_one"],
    *,
    mul: bool,
) -> Float[Tensor, "total dim"]:
    """As `eager.broadcast`."""
    out = torch.empty(x.shape)
    rows, length, cols = dense.shape
    sizes = (rows, x.shape[1], length, cols, int(mul))
    call("tl_broadcast", flat_float(x), flat_float(dense), long(offsets), *sizes, out, threads=threads_for(x.numel()))
    return out.to(x.dtype)


def copy_segments(
    src: Shaped[Tensor, " n *rest"],
    src_starts: Int[Tensor, " segments"],
    dst_starts: Int[Tensor, " segments"],
    lengths: Int[Tensor, " segments"],
    dst: Shaped[Tensor, " m *rest"],
) -> None:
    """As `eager.copy_segments`, for tensors of any dtype."""
    bytes_a_row = dst.element_size() * dst[:1].numel() if dst.shape[0] else 0
    parts = (src.contiguous(), long(src_starts), long(dst_starts), long(lengths))
    call("tl_copy_segments", *parts, lengths.shape[0], bytes_a_row, dst, threads=threads_for(dst.numel()))


def time_differences(
    timestamps: Int[Tensor, " total"], offsets: Int[Tensor, " rows_plus_one"], total: int
) -> Int[Tensor, " pairs"]:
    """As `eager.time_differences`."""
    ends = long(offsets)
    starts = torch.cat([ends.new_zeros(1), ends.diff().square().cumsum(0)])
    out = torch.empty(total, dtype=torch.int64)
    call("tl_time_differences", long(timestamps), ends, starts, ends.shape[0] - 1, out, threads=threads_for(total))
    return out


def gated_norm(
    a: Float[Tensor, "total dim"],
    u: Float[Tensor, "total dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    eps: float,
    *,
    concat: bool,
) -> Float[Tensor, "total out"]:
    """As `eager.gated_norm`."""
    total, dim = a.shape
    out = torch.empty(total, dim * 3 if concat else dim)
    parts = (flat_float(a), flat_float(u), flat_float(weight), flat_float(bias))
    call("tl_gated_norm", *parts, total, dim, eps, int(concat), out, threads=threads_for(a.numel()))
    return out.to(a.dtype)


def gated_norm_backward(
    g: Float[Tensor, "total out"],
    a: Float[Tensor, "total dim"],
    u: Float[Tensor, "total dim"],
    weight: Float[Tensor, " dim"],
    bias: Float[Tensor, " dim"],
    eps: float,
    *,
    concat: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `eager.gated_norm_backward`."""
    total, dim = a.shape
    threads = threads_for(a.numel())
    da, du = torch.empty(total, dim), torch.empty(total, dim)
    dweight, dbias = torch.zeros(threads, dim), torch.zeros(threads, dim)
    parts = (flat_float(a), flat_float(u), flat_float(weight), flat_float(bias), flat_float(g))
    call("tl_gated_norm_backward", *parts, total, dim, eps, int(concat), da, du, dweight, dbias, threads=threads)
    return da.to(a.dtype), du.to(u.dtype), dweight.sum(0).to(weight.dtype), dbias.sum(0).to(bias.dtype)
