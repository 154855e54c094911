"""Wrong arguments: each refusal names the argument and, for offsets, the first bad index."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tokenlake_kernels as kernels

X = torch.zeros(6, 2, 16)
OFFSETS = torch.tensor([0, 2, 6])


def attend(
    q: torch.Tensor = X, k: torch.Tensor = X, v: torch.Tensor = X, offsets: torch.Tensor = OFFSETS, **how: object
) -> object:
    return kernels.jagged_attention(q, k, v, offsets, **how)


def hstu(**how: object) -> object:
    given = {"q": X, "k": X, "v": X, "offsets": OFFSETS, "norm": 1} | how
    return kernels.hstu_attention(**given)


def prefix(**how: object) -> object:
    places = torch.tensor([0, 1, 0, 1, 2, 3])
    given = {"q": X, "k": X, "v": X, "offsets": OFFSETS, "limits": places, "own": places} | how
    return kernels.jagged_prefix_attention(**given)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: attend(q=X[0]), ValueError, r"q has shape \(2, 16\); expected \(total, heads, dim\)"),
        (lambda: attend(k=X[:5]), ValueError, r"v has shape \(6, 2, 16\); expected 5 \(the values of k\) in dimension 0"),
        (lambda: attend(k=X[..., :8]), ValueError, r"k has shape .* expected 16 \(the dim of q\)"),
        (lambda: attend(q=torch.zeros(6, 3, 16)), ValueError, "q has 3 heads, which k and v's 2 heads do not divide"),
        (lambda: attend(k=X.half()), TypeError, "k is torch.float16 but q is torch.float32"),
        (lambda: attend(X.int(), X.int(), X.int()), TypeError, "q is int32; expected one of float16, bfloat16"),
        (lambda: attend(offsets=OFFSETS.float()), TypeError, "offsets is float32; expected one of int32, int64"),
        (lambda: attend(offsets=OFFSETS[None]), ValueError, r"offsets has shape \(1, 3\)"),
        (lambda: attend(offsets=OFFSETS[:0]), ValueError, "offsets is empty"),
        (lambda: attend(offsets=torch.tensor([1, 6])), ValueError, r"offsets\[0\] is 1; expected 0"),
        (lambda: attend(offsets=torch.tensor([0, 4, 2, 6])), ValueError, r"offsets\[2\] is 2, below offsets\[1\] = 4"),
        (lambda: attend(offsets=torch.tensor([0, 2, 8])), ValueError, r"offsets\[2\] is 8; expected offsets to end at 6"),
        (lambda: attend(offsets=torch.tensor([0, 2, 5])), ValueError, r"offsets\[2\] is 5; expected offsets to end at 6"),
        (lambda: attend(max_len=3), ValueError, "row 1 of offsets holds 4 values; max_len is 3"),
        (lambda: attend(window=-1), ValueError, "window is -1; expected at least 0"),
        (lambda: attend(k=X.to("meta")), ValueError, "k is on meta but q is on cpu"),
        (lambda: hstu(norm=0), ValueError, "norm is 0; expected a positive number"),
        (lambda: hstu(local=-2), ValueError, "local is -2"),
        (lambda: hstu(num_targets=torch.tensor([0, 5])), ValueError, r"num_targets\[1\] is 5; row 1 holds 4 values"),
        (lambda: hstu(num_targets=torch.tensor([0])), ValueError, "num_targets has shape"),
        (lambda: hstu(time_bias=torch.zeros(4)), ValueError, "time_bias is given without timestamps"),
        (lambda: hstu(position_bias=torch.zeros(3, 4)), ValueError, r"position_bias has shape \(3, 4\)"),
        (lambda: prefix(limits=OFFSETS), ValueError, r"limits has shape \(3,\); expected 6 \(one a query\)"),
        (lambda: prefix(limits=torch.tensor([0, 1, 2, 3, 4, 5])), ValueError, r"limits\[5\] is 5; its row takes 0 to 4"),
        (lambda: prefix(own=torch.tensor([0, 2, 0, 0, 0, 0])), ValueError, r"own\[1\] is 2; its row takes 0 to 1"),
        (lambda: prefix(q_offsets=torch.tensor([0, 6])), ValueError, "q_offsets has shape"),
        (lambda: prefix(q_offsets=torch.tensor([0, 1, 5])), ValueError, r"q_offsets\[2\] is 5; .* end at 6"),
        (lambda: prefix(time_bias=torch.zeros(4)), ValueError, "time_bias is given without timestamps"),
        (lambda: prefix(time_bias=torch.zeros(3, 4), timestamps=torch.arange(6)), ValueError, "time_bias has shape"),
        (lambda: kernels.jagged_cross_attention(X[None], X, X, OFFSETS), ValueError, "one more than the rows of q"),
        (lambda: kernels.jagged_dense_bmm(X[:, 0], torch.zeros(2, 9, 3), OFFSETS), ValueError, "dense has shape"),
        (lambda: kernels.jagged_dense_add(X[:, 0], OFFSETS, torch.zeros(2, 3, 16)), ValueError, "row 1 of offsets holds 4"),
        (lambda: kernels.jagged_to_padded(X, torch.tensor([0, 7]), 4), ValueError, r"offsets\[1\] is 7"),
        (lambda: kernels.padded_to_jagged(torch.zeros(2, 3), OFFSETS), ValueError, "row 1 of offsets holds 4 values"),
        (lambda: kernels.jagged_concat([X], []), ValueError, "1 values with 0 offsets"),
        (lambda: kernels.jagged_split(X, OFFSETS, torch.tensor([0, 5])), ValueError, r"lengths\[1\] is 5"),
        (lambda: kernels.jagged_time_differences(OFFSETS, OFFSETS), ValueError, "offsets"),
        (lambda: kernels.grouped_gemm(X[:, 0], torch.zeros(2, 16, 3), OFFSETS, torch.tensor([0, 1, 2, 3, 4, 6])), ValueError, "index holds 6; x has 6 rows"),
        (lambda: kernels.gated_norm(X[:, 0], X[:, 0], torch.zeros(3), torch.zeros(16)), ValueError, "weight has shape"),
        (lambda: kernels.SamoyedsWeight.encode(torch.zeros(4, 100)), ValueError, "cols of 128"),
    ],
)  # fmt: skip
def test_refusals(call: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        call()
    assert isinstance(caught.value, kernels.KernelError)
