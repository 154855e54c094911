"""The Triton kernels in Triton's interpreter, against the CPU's PyTorch path. Run by test_triton.py in a process of its own.

Not named test_*: the interpreter must be switched on before anything imports Triton. Float32 and float16 only: the
interpreter's bfloat16 product is wrong. It also hides races and type errors: the compile check is the other half.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tokenlake_kernels as kernels
from tests.kernels.batches import normal, offsets_of, places
from tokenlake_kernels import attention as attention_op
from tokenlake_kernels import broadcast as broadcast_op
from tokenlake_kernels import differences as differences_op
from tokenlake_kernels import hstu as hstu_op
from tokenlake_kernels import layouts as layouts_op
from tokenlake_kernels import norm as norm_op
from tokenlake_kernels import prefix as prefix_op
from tokenlake_kernels import products as products_op
from tokenlake_kernels import samoyeds as samoyeds_op
from tokenlake_kernels import softmax as softmax_op
from tokenlake_kernels.cpu import eager
from tokenlake_kernels.cpu import prefix as cpu_prefix
from tokenlake_kernels.gpu import attention, hstu, interaction, launch, norm, prefix, samoyeds
from tokenlake_kernels.masks import FAR, HstuMask
from tokenlake_kernels.plans import HstuPlan, PrefixPlan, SoftmaxPlan

FEW = settings(max_examples=4, deadline=None, derandomize=True)
SHORT = st.lists(st.sampled_from([0, 1, 7, 32, 33, 70]), min_size=1, max_size=3)


def assert_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-4) -> None:
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        size = max(1.0, float(b.abs().max())) if b.numel() and b.isfinite().all() else 1.0
        torch.testing.assert_close(a, b, atol=tolerance * size, rtol=tolerance, msg=lambda m, n=n: f"result {n}: {m}")


@FEW
@given(
    lengths=SHORT,
    heads=st.sampled_from([(2, 1, 16), (1, 1, 24)]),
    band=st.sampled_from([(FAR, FAR), (FAR, 0), (9, 0), (5, 5)]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_attention(lengths: list[int], heads: tuple[int, int, int], band: tuple[int, int], dtype: torch.dtype) -> None:
    offsets, n, (h, kv, dim) = offsets_of(lengths, torch.int32), sum(lengths), heads
    q, g = (normal(n, h, dim, dtype=dtype, seed=x) for x in (0, 3))
    k, v = (normal(n, kv, dim, dtype=dtype, seed=x) for x in (1, 2))
    plan = SoftmaxPlan(None, offsets, 0, *band, 0.25, -1)
    ours = attention.attention_forward(q, k, v, plan, save=True)
    theirs = eager.attention_forward(q, k, v, plan, save=True)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    assert_close(ours, theirs, tolerance)
    ours = attention.attention_backward(g, q, k, v, *ours, plan)
    theirs = eager.attention_backward(g, q, k, v, theirs[0], plan)
    assert_close(ours, theirs, tolerance)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("queries", [3, 40])
def test_cross_attention(queries: int, biased: bool) -> None:
    offsets = offsets_of([3, 0, 40])
    q, g = (normal(3 * queries, 2, 16, seed=x) for x in (0, 3))
    k, v = (normal(43, 1, 16, seed=x) for x in (1, 2))
    bias = normal(3, queries, 45) if biased else None
    plan = SoftmaxPlan(bias, offsets, queries, FAR, FAR, 0.25, 45)
    ours = attention.attention_forward(q, k, v, plan, save=True)
    theirs = eager.attention_forward(q, k, v, plan, save=True)
    assert_close(ours, theirs)
    ours = attention.attention_backward(g, q, k, v, *ours, plan)
    assert_close(ours, eager.attention_backward(g, q, k, v, theirs[0], plan))


@pytest.mark.parametrize("dim", [128, 256])
def test_wide_heads_and_strided_inputs(dim: int) -> None:
    """Views of one projection, int32 offsets, the widest tiles that ship."""
    offsets = offsets_of([40, 0, 3], torch.int32)
    q, k, v, g = normal(43, 4, 2, dim).unbind(1)
    plan = SoftmaxPlan(None, offsets, 0, FAR, 0, 0.1, -1)
    ours = attention.attention_forward(q, k, v, plan, save=True)
    theirs = eager.attention_forward(q, k, v, plan, save=True)
    assert_close(ours, theirs)
    assert_close(
        attention.attention_backward(g, q, k, v, *ours, plan), eager.attention_backward(g, q, k, v, theirs[0], plan)
    )
    silu = HstuPlan(offsets, None, None, None, None, 0.1, 9.0, HstuMask(local=7), 40)
    assert_close((hstu.hstu_forward(q, k, v, silu),), (eager.hstu_forward(q, k, v, silu),))
    assert_close(hstu.hstu_backward(g, q, k, v, silu), eager.hstu_backward(g, q, k, v, silu))


def _prefix(lengths: list[int], share: float, table: Tensor | None, max_len: int = -1) -> PrefixPlan:
    given = places(lengths, share) | {"offsets": offsets_of(lengths)}
    names = ("q_offsets", "offsets", "limits", "own", "q_timestamps", "timestamps")
    return PrefixPlan(table, *(given[name] for name in names), 0.25, max_len)


@pytest.mark.parametrize(
    ("tables", "heads", "deterministic"),
    [(0, (2, 1), False), (1, (2, 2), False), (2, (2, 1), False), (2, (2, 2), True)],
)
def test_prefix_attention(
    tables: int, heads: tuple[int, int], deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENLAKE_DETERMINISTIC", str(int(deterministic)))
    plan, n = _prefix([3, 0, 80], 1.2, normal(tables, 19) if tables else None, 96), 83
    queries = len(plan.limits)
    q, g = (normal(queries, heads[0], 16, seed=x) for x in (0, 3))
    k, v = (normal(n, heads[1], 16, seed=x) for x in (1, 2))
    ours = prefix.forward(q, k, v, plan._replace(max_len=-1))
    theirs = cpu_prefix.eager_forward(q, k, v, plan)
    assert_close(ours, theirs)
    assert_close(prefix.backward(g, q, k, v, *ours, plan), cpu_prefix.eager_backward(g, q, k, v, theirs[0], plan))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("mask", "tables"),
    [
        (HstuMask(), 0),
        (HstuMask(local=4, tail=20), 2),
        (HstuMask(local=10, prefix=5, contextual=3), 1),
        (HstuMask(local=3, contextual=40), 0),
        (HstuMask(local=8, target_local=1, prefix=2), 2),
    ],
)
def test_hstu(mask: HstuMask, tables: int, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if deterministic and not tables:
        pytest.skip("only the tables' gradients have a second way")
    monkeypatch.setenv("TOKENLAKE_DETERMINISTIC", str(int(deterministic)))
    offsets, n = offsets_of([3, 0, 80]), 83
    q, k, v, g = (normal(n, 2, 16, seed=x) for x in range(4))
    times = torch.randint(0, 100_000, (n,), generator=torch.Generator().manual_seed(0)).sort().values
    position, time = (normal(tables, 30) * 0.3, normal(1, 12) * 0.3) if tables else (None, None)
    targets = torch.tensor([1, 0, 35])
    plan = HstuPlan(offsets, targets, times if tables else None, position, time, 0.25, 50.0, mask, 80)
    assert_close((hstu.hstu_forward(q, k, v, plan._replace(max_len=-1)),), (eager.hstu_forward(q, k, v, plan),))
    assert_close(hstu.hstu_backward(g, q, k, v, plan), eager.hstu_backward(g, q, k, v, plan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_products(dtype: torch.dtype) -> None:
    offsets, n = offsets_of([3, 0, 70]), 73
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    x, y, w = normal(n, 24, dtype=dtype), normal(n, 37, dtype=dtype, seed=1), normal(3, 24, 37, dtype=dtype)
    index = torch.randint(0, n, (n,), generator=torch.Generator().manual_seed(0))
    assert_close((interaction.dense_bmm(x, w, offsets, None),), (eager.dense_bmm(x, w, offsets),), tolerance)
    assert_close((interaction.dense_bmm(y, w.mT, offsets, None),), (eager.dense_bmm(y, w.mT, offsets),), tolerance)
    assert_close((interaction.dense_bmm(x, w, offsets, index),), (eager.dense_bmm(x[index], w, offsets),), tolerance)
    assert_close((interaction.jagged_bmm(x, y, offsets, None),), (eager.jagged_bmm(x, y, offsets),), tolerance)
    assert_close((interaction.jagged_bmm(x, y, offsets, index),), (eager.jagged_bmm(x[index], y, offsets),), tolerance)


def test_softmax_and_broadcasting() -> None:
    offsets = offsets_of([3, 0, 70])
    x, g = normal(73, 40), normal(73, 40, seed=1)
    y = eager.softmax(x, offsets)
    assert_close((interaction.softmax(x, offsets),), (y,))
    assert_close((interaction.softmax_backward(y, g, offsets),), (eager.softmax_backward(y, g, offsets),))
    for shape, mul in (((75, 40), True), ((1, 40), False), ((75, 1), False)):
        dense = normal(3, *shape)
        assert_close(
            (interaction.broadcast(x, dense, offsets, mul=mul),), (eager.broadcast(x, dense, offsets, mul=mul),)
        )


def test_copies_and_time_differences() -> None:
    offsets = offsets_of([3, 0, 70])
    x = normal(73, 40)
    out = torch.zeros(3 * 75, 40)
    interaction.copy_segments(x, offsets[:-1], torch.arange(3) * 75, offsets.diff(), out)
    assert torch.equal(out.view(3, 75, 40), kernels.jagged_to_padded(x, offsets, 75))
    times = torch.randint(0, 1 << 50, (73,), generator=torch.Generator().manual_seed(0))
    pairs = 9 + 70 * 70
    assert torch.equal(
        interaction.time_differences(times, offsets, pairs), eager.time_differences(times, offsets, pairs)
    )


@pytest.mark.parametrize("concat", [False, True])
def test_gated_norm(concat: bool) -> None:
    a, u, w, b = normal(33, 24), normal(33, 24, seed=1), normal(24), normal(24, seed=1)
    g = normal(33, 72 if concat else 24)
    how = {"concat": concat}
    assert_close((norm.gated_norm(a, u, w, b, 1e-6, **how),), (eager.gated_norm(a, u, w, b, 1e-6, **how),))
    ours, theirs = (m.gated_norm_backward(g, a, u, w, b, 1e-6, **how) for m in (norm, eager))
    assert_close(ours, theirs)


@pytest.mark.parametrize("steps", [(1 << 29, 16, 1), (16, 1 << 30, 1)], ids=["tokens", "heads"])
def test_values_more_than_32_bits_apart(steps: tuple[int, int, int]) -> None:
    """As in a batch of more than 2^31 values. The memory is asked for, not touched but for the few values there are."""
    try:
        store = torch.empty((1 << 31) + (1 << 29), dtype=torch.float16)
    except RuntimeError as error:
        pytest.skip(f"no room for 5 GB of addresses: {error}")
    near = [normal(5, 3, 16, dtype=torch.float16, seed=n) for n in range(4)]
    far = [store.as_strided((5, 3, 16), steps, 1024 * n).copy_(x) for n, x in enumerate(near)]
    offsets = offsets_of([5])
    band, silu = (
        SoftmaxPlan(None, offsets, 0, FAR, 0, 0.25, 5),
        HstuPlan(offsets, *[None] * 4, 0.25, 5.0, HstuMask(), 5),
    )
    out = attention.attention_forward(*far[:3], band, save=True)
    assert_close(out, eager.attention_forward(*near[:3], band, save=True), 1e-2)
    ours = attention.attention_backward(far[3], *far[:3], *out, band)
    assert_close(ours, eager.attention_backward(near[3], *near[:3], out[0], band), 1e-2)
    assert_close((hstu.hstu_forward(*far[:3], silu),), (eager.hstu_forward(*near[:3], silu),), 1e-2)
    assert_close(hstu.hstu_backward(far[3], *far[:3], silu), eager.hstu_backward(near[3], *near[:3], silu), 1e-2)
    plan = PrefixPlan(None, offsets, offsets, torch.arange(5), torch.arange(5), None, None, 0.25, 5)
    seen = prefix.forward(*far[:3], plan)
    assert_close(seen, cpu_prefix.eager_forward(*near[:3], plan), 1e-2)
    ours = prefix.backward(far[3], *far[:3], *seen, plan)
    assert_close(ours, cpu_prefix.eager_backward(near[3], *near[:3], seen[0], plan), 1e-2)


@pytest.mark.parametrize("select", [False, True])
def test_samoyeds(select: bool) -> None:
    packed = kernels.SamoyedsWeight.encode(normal(40, 256))
    x = normal(50, 256)
    selection = torch.randint(0, 50, (33,), generator=torch.Generator().manual_seed(0)) if select else None
    out = samoyeds.matmul(x, packed.data, packed.indices, packed.metadata, selection)
    assert_close((out,), ((x if selection is None else x[selection]) @ packed.decode().T,))


def _dispatched() -> dict[str, tuple[object, str, tuple[object, ...]]]:
    """What the dispatcher would call on a GPU: (module, name of the pair of kernels, arguments)."""
    offsets = offsets_of([3, 0, 20])
    q, k, v, g = (normal(23, 2, 16, seed=n) for n in range(4))
    x, y, w, b = normal(23, 24), normal(23, 24, seed=1), normal(24), normal(24, seed=1)
    out, lse = attention_op._forward_cpu(q, k, v, None, offsets, 0, FAR, 0, 0.3, -1, 1)
    rows = (torch.tensor([1, 0, 2]), torch.arange(23), normal(2, 9), normal(1, 9), 0.3, 5.0, [2, 0, 1, 0, 0], -1)
    packed = kernels.SamoyedsWeight.encode(normal(8, 128))
    sight = tuple(_prefix([3, 0, 20], 1.0, normal(2, 9)))
    seen = prefix_op._forward_cpu(q, k, v, *sight)
    return {
        "attention": (attention_op, "_forward", (q, k, v, None, offsets, 0, FAR, 0, 0.3, -1, 1)),
        "attention backward": (attention_op, "_backward", (g, out, lse, q, k, v, None, offsets, 0, FAR, 0, 0.3, -1)),
        "prefix": (prefix_op, "_forward", (q, k, v, *sight)),
        "prefix backward": (prefix_op, "_backward", (g, *seen, q, k, v, *sight)),
        "hstu": (hstu_op, "_forward", (q, k, v, offsets, *rows)),
        "hstu backward": (hstu_op, "_backward", (g, q, k, v, offsets, *rows)),
        "dense_bmm": (products_op, "_dense_bmm", (x, normal(3, 24, 5), offsets, torch.arange(23))),
        "jagged_bmm": (products_op, "_jagged_bmm", (x, y, offsets, None)),
        "softmax": (softmax_op, "_softmax", (x, offsets)),
        "softmax backward": (softmax_op, "_softmax_backward", (x, y, offsets)),
        "broadcast": (broadcast_op, "_broadcast", (x, normal(3, 20, 24), offsets, 1)),
        "copy": (layouts_op, "_copy", ([x], [offsets[:-1]], [torch.arange(3) * 20], [offsets.diff()], 60, 2.0)),
        "time differences": (differences_op, "_differences", (torch.arange(23), offsets, 409)),
        "gated norm": (norm_op, "_forward", (x, y, w, b, 1e-6, 1)),
        "gated norm backward": (norm_op, "_backward", (normal(23, 72), x, y, w, b, 1e-6, 1)),
        "samoyeds": (
            samoyeds_op, "_matmul", (normal(9, 128), packed.data, packed.indices, packed.metadata, torch.tensor([8, 8, 0]))
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_dispatched()))
def test_the_dispatcher_finds_the_same_on_both_devices(name: str) -> None:
    module, pair, args = _dispatched()[name]
    ours, theirs = (getattr(module, f"{pair}_{device}")(*args) for device in ("cuda", "cpu"))
    as_tuple = [x if isinstance(x, tuple) else (x,) for x in (ours, theirs)]
    assert_close(*as_tuple)


def test_nothing_at_all() -> None:
    empty, offsets = torch.zeros(0, 2, 16), torch.zeros(1, dtype=torch.int64)
    plan = SoftmaxPlan(None, offsets, 0, FAR, 0, 1.0, -1)
    out, lse = attention.attention_forward(empty, empty, empty, plan, save=True)
    assert out.shape == (0, 2, 16)
    attention.attention_backward(out, empty, empty, empty, out, lse, plan)
    silu = HstuPlan(offsets, None, None, None, None, 1.0, 1.0, HstuMask(), -1)
    assert hstu.hstu_forward(empty, empty, empty, silu).shape == (0, 2, 16)
    hstu.hstu_backward(empty, empty, empty, empty, silu)
    assert interaction.jagged_bmm(torch.zeros(0, 3), torch.zeros(0, 4), torch.tensor([0, 0]), None).eq(0).all()


def test_autotune_takes_the_fastest_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path))
    configs = tuple(launch.tiles(4, s, BLOCK_M=16) for s in (1, 2, 3))
    cost = {configs[0]: 3.0, configs[1]: 1.0, configs[2]: 2.0}
    ran: list[launch.LaunchConfig] = []

    def timer(run: object) -> float:
        run()
        return cost[ran[-1]]

    assert launch.choose(configs, "key", ran.append, timer) == configs[1]
    assert ran == list(configs)
    assert launch.choose(configs, "key", ran.append, timer) == configs[1]
    launch._remembered.cache_clear()  # another process
    assert launch.choose(configs, "key", ran.append, timer) == configs[1]
    assert len(ran) == 3
    monkeypatch.setenv("TOKENLAKE_DETERMINISTIC", "1")
    assert launch.choose(configs, "other", ran.append, timer) == configs[0]
    assert len(ran) == 3
