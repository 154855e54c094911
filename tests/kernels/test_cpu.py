"""Both CPU paths against the references: forward and every gradient, over lengths, shapes, masks and dtypes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import tokenlake_kernels as kernels
from tests.kernels.batches import LENGTHS, assert_same, normal, offsets_of, places
from tokenlake_kernels import reference

pytestmark = pytest.mark.usefixtures("path")
FEW = settings(max_examples=8, deadline=None, derandomize=True)


@FEW
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([(1, 1, 16), (4, 2, 24), (2, 2, 33), (3, 1, 64)]),
    causal=st.booleans(),
    window=st.sampled_from([None, 0, 5, 70]),
    scale=st.sampled_from([None, 0.3]),
    dtype=st.sampled_from([torch.int32, torch.int64]),
)
def test_attention(
    lengths: list[int],
    heads: tuple[int, int, int],
    causal: bool,
    window: int | None,
    scale: float | None,
    dtype: torch.dtype,
) -> None:
    offsets = offsets_of(lengths, dtype)
    n, (h, kv, dim) = sum(lengths), heads
    how = {"causal": causal, "window": window, "scale": scale}
    assert_same(
        lambda q, k, v: kernels.jagged_attention(q, k, v, offsets, **how),
        lambda q, k, v: reference.jagged_attention(q, k, v, offsets, **how),
        (normal(n, h, dim), normal(n, kv, dim, seed=1), normal(n, kv, dim, seed=2)),
    )


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_sdpa_row_by_row(causal: bool) -> None:
    lengths = [200, 1, 77]
    offsets = offsets_of(lengths)
    q, k, v = (normal(278, 2, 32, seed=n) for n in range(3))
    out = kernels.jagged_attention(q, k, v, offsets, causal=causal)
    for a, b in pairwise(offsets.tolist()):
        heads_first = [x[a:b].movedim(0, 1)[None] for x in (q, k, v)]
        row = scaled_dot_product_attention(*heads_first, is_causal=causal)
        torch.testing.assert_close(out[a:b], row[0].movedim(0, 1), atol=1e-5, rtol=1e-5)


@FEW
@given(
    lengths=LENGTHS,
    queries=st.sampled_from([1, 3, 17, 65]),
    heads=st.sampled_from([(2, 2, 16), (4, 1, 24)]),
    biased=st.booleans(),
)
def test_cross_attention(lengths: list[int], queries: int, heads: tuple[int, int, int], biased: bool) -> None:
    offsets = offsets_of(lengths)
    n, batch, (h, kv, dim) = sum(lengths), len(lengths), heads
    inputs = [normal(batch, queries, h, dim), normal(n, kv, dim, seed=1), normal(n, kv, dim, seed=2)]
    if biased:
        inputs.append(normal(batch, queries, 131))
    assert_same(
        lambda q, k, v, b=None: kernels.jagged_cross_attention(q, k, v, offsets, bias=b),
        lambda q, k, v, b=None: reference.jagged_cross_attention(q, k, v, offsets, bias=b),
        inputs,
    )


@FEW
@given(
    lengths=LENGTHS,
    heads=st.sampled_from([(1, 1, 16), (4, 2, 24), (2, 2, 33)]),
    tables=st.sampled_from(["none", "shared", "by head"]),
    share=st.sampled_from([None, 0.0, 0.4, 3.0]),
    dtype=st.sampled_from([torch.int32, torch.int64]),
)
def test_prefix_attention(
    lengths: list[int], heads: tuple[int, int, int], tables: str, share: float | None, dtype: torch.dtype
) -> None:
    """Queries: the rows themselves (None), or about `share` a key, with some rows without any."""
    offsets, (h, kv, dim), n = offsets_of(lengths, dtype), heads, sum(lengths)
    layout = places(lengths, share, seed=n)
    how = layout | ({} if share is None else {"q_offsets": layout["q_offsets"].to(dtype)})
    queries = len(how["limits"])
    inputs = [normal(queries, h, dim), normal(n, kv, dim, seed=1), normal(n, kv, dim, seed=2)]
    if tables != "none":
        inputs.append(normal(*((21,) if tables == "shared" else (h, 21)), seed=3))
    assert_same(
        lambda q, k, v, t=None: kernels.jagged_prefix_attention(q, k, v, offsets, time_bias=t, **how),
        lambda q, k, v, t=None: reference.jagged_prefix_attention(q, k, v, offsets, time_bias=t, **how),
        inputs,
    )


def test_prefix_attention_is_causal_attention_where_nothing_ties() -> None:
    offsets = offsets_of([200, 1, 77])
    q, k, v = (normal(278, 2, 32, seed=n) for n in range(3))
    place = torch.cat([torch.arange(n) for n in (200, 1, 77)])
    out = kernels.jagged_prefix_attention(q, k, v, offsets, place, place)
    expected = kernels.jagged_attention(q, k, v, offsets, causal=True)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@FEW
@given(
    lengths=LENGTHS,
    targets=st.sampled_from([None, 0, 2, 70]),
    local=st.sampled_from([None, 0, 3, 64]),
    tail=st.sampled_from([None, 2, 66]),
    prefix=st.sampled_from([None, 4]),
    contextual=st.sampled_from([0, 3, 67]),
    target_local=st.booleans(),
    tables=st.sampled_from(["none", "shared", "by head"]),
)
def test_hstu_attention(
    lengths: list[int],
    targets: int | None,
    local: int | None,
    tail: int | None,
    prefix: int | None,
    contextual: int,
    target_local: bool,
    tables: str,
) -> None:
    offsets, n, heads = offsets_of(lengths), sum(lengths), 2
    times = torch.randint(0, 1 << 40, (n,), generator=torch.Generator().manual_seed(n))
    how = {
        "norm": 40,
        "num_targets": None if targets is None else torch.tensor([min(targets, x) for x in lengths], dtype=torch.int64),
        "local": local,
        "tail": tail,
        "prefix": prefix,
        "contextual": contextual,
        "target_local": target_local,
        "timestamps": times,
    }
    inputs = [normal(n, heads, 24, seed=x) for x in range(3)]
    if tables != "none":
        shape = (heads,) if tables == "by head" else ()
        inputs += [normal(*shape, 50) * 0.3, normal(*shape, 60) * 0.3]
    assert_same(
        lambda q, k, v, p=None, t=None: kernels.hstu_attention(q, k, v, offsets, position_bias=p, time_bias=t, **how),
        lambda q, k, v, p=None, t=None: reference.hstu_attention(q, k, v, offsets, position_bias=p, time_bias=t, **how),
        inputs,
    )


@FEW
@given(lengths=LENGTHS, widths=st.sampled_from([(1, 1), (5, 16), (24, 7), (33, 64)]))
def test_products(lengths: list[int], widths: tuple[int, int]) -> None:
    offsets, n, batch, (a, b) = offsets_of(lengths), sum(lengths), len(lengths), widths
    x, y = normal(n, a), normal(n, b, seed=1)
    assert_same(
        lambda x, w: kernels.jagged_dense_bmm(x, w, offsets),
        lambda x, w: reference.jagged_dense_bmm(x, w, offsets),
        (x, normal(batch, a, b)),
    )
    assert_same(
        lambda x, y: kernels.jagged_jagged_bmm(x, y, offsets),
        lambda x, y: reference.jagged_jagged_bmm(x, y, offsets),
        (x, y),
    )
    index = torch.randint(0, max(1, n), (n,), generator=torch.Generator().manual_seed(n))
    assert_same(
        lambda x, w: kernels.grouped_gemm(x, w, offsets, index),
        lambda x, w: reference.grouped_gemm(x, w, offsets, index),
        (x, normal(batch, a, b)),
    )


@FEW
@given(lengths=LENGTHS, shape=st.sampled_from([(), (1,), (5,), (16,), (3, 11)]))
def test_softmax(lengths: list[int], shape: tuple[int, ...]) -> None:
    offsets = offsets_of(lengths)
    x = normal(sum(lengths), *shape)
    assert_same(lambda x: kernels.jagged_softmax(x, offsets), lambda x: reference.jagged_softmax(x, offsets), (x,))


@FEW
@given(lengths=LENGTHS, dim=st.sampled_from([1, 5, 32]), length=st.sampled_from([1, 130]), wide=st.booleans())
def test_broadcasting(lengths: list[int], dim: int, length: int, wide: bool) -> None:
    offsets = offsets_of(lengths)
    inputs = (normal(sum(lengths), dim), normal(len(lengths), length, dim if wide else 1, seed=1))
    for name in ("jagged_dense_add", "jagged_dense_mul"):
        fast, slow = getattr(kernels, name), getattr(reference, name)
        assert_same(lambda x, d, f=fast: f(x, offsets, d), lambda x, d, f=slow: f(x, offsets, d), inputs)


@FEW
@given(
    lengths=LENGTHS,
    others=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    max_len=st.sampled_from([0, 1, 16, 130]),
)
def test_copies(lengths: list[int], others: list[int], max_len: int) -> None:
    offsets, n = offsets_of(lengths, torch.int32), sum(lengths)
    x = normal(n, 5)
    assert_same(
        lambda x: kernels.jagged_to_padded(x, offsets, max_len, 2),
        lambda x: reference.jagged_to_padded(x, offsets, max_len, 2),
        (x,),
    )
    assert_same(
        lambda p: kernels.padded_to_jagged(p, offsets, n),
        lambda p: reference.padded_to_jagged(p, offsets),
        (normal(len(lengths), 130, 3),),
    )
    second = offsets_of(others[: len(lengths)])
    y = normal(int(second[-1]), 5, seed=1)
    joined = kernels.jagged_concat([x, y], [offsets, second])
    expected = reference.jagged_concat([x, y], [offsets, second])
    assert torch.equal(joined[0], expected[0])
    assert torch.equal(joined[1], expected[1])
    (front, front_offsets), (back, back_offsets) = kernels.jagged_split(*joined, offsets.diff())
    assert torch.equal(front, x)
    assert torch.equal(back, y)
    assert torch.equal(front_offsets, offsets.long())
    assert torch.equal(back_offsets, second)
    assert_same(
        lambda x, y: kernels.jagged_concat([x, y], [offsets, second])[0],
        lambda x, y: reference.jagged_concat([x, y], [offsets, second])[0],
        (x, y),
    )
    times = torch.randint(0, 1 << 50, (n,), generator=torch.Generator().manual_seed(n))
    assert torch.equal(
        kernels.jagged_time_differences(times, offsets), reference.jagged_time_differences(times, offsets)
    )


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (7, 24), (300, 33)])
def test_gated_norm(shape: tuple[int, int], concat: bool) -> None:
    n, dim = shape
    inputs = [normal(n, dim), normal(n, dim, seed=1), normal(dim), normal(dim, seed=1)]
    assert_same(
        lambda a, u, w, b: kernels.gated_norm(a, u, w, b, concat=concat),
        lambda a, u, w, b: reference.gated_norm(a, u, w, b, concat=concat),
        inputs,
    )
    assert_same(
        lambda a, u, w, b, o: kernels.gated_norm(a, u, w, b, concat=concat, out_weight=o),
        lambda a, u, w, b, o: reference.gated_norm(a, u, w, b, concat=concat) @ o.T,
        [*inputs, normal(11, 3 * dim if concat else dim)],
    )


def test_a_row_longer_than_any_block() -> None:
    offsets = offsets_of([1500])
    assert_same(
        lambda q, k, v: kernels.jagged_attention(q, k, v, offsets, causal=True),
        lambda q, k, v: reference.jagged_attention(q, k, v, offsets, causal=True),
        [normal(1500, 1, 256, seed=n) for n in range(3)],
    )


@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_samoyeds(tokens: int) -> None:
    weight = normal(24, 256)
    packed = kernels.SamoyedsWeight.encode(weight)
    dense = packed.decode()
    kept = dense != 0
    assert torch.equal(dense[kept], weight[kept])
    assert kept.float().mean() == 0.25
    assert (kept.view(24, 64, 4).sum(-1) <= 2).all()
    blocks = kept.view(12, 2, 2, 128).any(-1)
    assert (blocks.sum(1) == 1).all()  # of two rows, one is kept in each block of columns
    x = normal(50, 256)
    select = torch.randint(0, 50, (tokens,), generator=torch.Generator().manual_seed(1))

    def fast(x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        sparse = kernels.SamoyedsWeight(data, packed.indices, packed.metadata)
        return kernels.sparse_moe_matmul(x, sparse, select)

    def slow(x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        return x[select] @ kernels.SamoyedsWeight(data, packed.indices, packed.metadata).decode().T

    assert_same(fast, slow, (x, packed.data))
