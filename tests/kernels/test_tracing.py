"""The dispatcher's contract: opcheck, gradcheck in float64, and `torch.compile` without a break."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import tokenlake_kernels as kernels
import tokenlake_kernels.ops  # registers them
from tests.fixtures.patience import HANG_S
from tests.kernels.batches import normal, offsets_of

OPS = torch.ops.tokenlake
OFFSETS = offsets_of([3, 0, 5])
N, B = 8, 3


def _leaf(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return normal(*shape, dtype=dtype, seed=seed).requires_grad_()


def _calls(dtype: torch.dtype) -> dict[str, tuple[Callable[..., object], tuple[object, ...]]]:
    """Each differentiable op with arguments: (the op, its arguments)."""
    q, k, v = (_leaf(N, 2, 16, dtype=dtype, seed=n) for n in range(3))
    k1, v1 = (_leaf(N, 1, 16, dtype=dtype, seed=n) for n in range(2))
    dense_q, bias = _leaf(B * 2, 2, 16, dtype=dtype), _leaf(B, 2, 6, dtype=dtype)
    x, y = _leaf(N, 6, dtype=dtype), _leaf(N, 4, dtype=dtype, seed=1)
    times = torch.tensor([0, 5, 60, 1, 2, 90, 700, 800])
    position, time = _leaf(2, 9, dtype=dtype), _leaf(1, 9, dtype=dtype)
    targets = torch.tensor([1, 0, 2])
    norm = (
        _leaf(N, 6, dtype=dtype),
        _leaf(N, 6, dtype=dtype, seed=1),
        _leaf(6, dtype=dtype),
        _leaf(6, dtype=dtype, seed=1),
    )
    index = torch.tensor([0, 0, 7, 3, 2, 2, 1, 5])
    packed = kernels.SamoyedsWeight.encode(normal(4, 128, dtype=dtype))
    data = packed.data.requires_grad_()
    far = 1 << 30
    lengths, starts = OFFSETS.diff(), torch.arange(B) * 6
    return {
        "attention": (OPS.attention_forward.default, (q, k1, v1, None, OFFSETS, 0, far, 0, 0.3, -1, 1)),
        "cross": (OPS.attention_forward.default, (dense_q, k, v, bias, OFFSETS, 2, far, far, 0.3, 6, 1)),
        "hstu": (
            OPS.hstu_forward.default,
            (q, k, v, OFFSETS, targets, times, position, time, 0.3, 5.0, [2, 0, 1, 0, 0], -1),
        ),
        "prefix": (
            OPS.prefix_forward.default,
            (
                _leaf(4, 2, 16, dtype=dtype),
                k1,
                v1,
                time,
                torch.tensor([0, 2, 2, 4]),
                OFFSETS,
                torch.tensor([0, 1, 3, 5]),
                torch.tensor([2, 1, 3, 0]),
                times[:4],
                times,
                0.3,
                -1,
            ),
        ),
        "dense_bmm": (OPS.dense_bmm.default, (x, _leaf(B, 6, 3, dtype=dtype), OFFSETS, index)),
        "jagged_bmm": (OPS.jagged_bmm.default, (x, y, OFFSETS, None)),
        "softmax": (OPS.softmax.default, (x, OFFSETS)),
        "broadcast": (OPS.broadcast.default, (x, _leaf(B, 6, 6, dtype=dtype), OFFSETS, 1)),
        "copy": (OPS.copy_segments.default, ([x], [OFFSETS[:-1]], [starts], [lengths], B * 6, 0.0)),
        "gated_norm": (OPS.gated_norm.default, (*norm, 1e-5, 1)),
        "gated_norm_linear": (OPS.gated_norm_linear.default, (*norm, _leaf(5, 6, dtype=dtype), 1e-5, 0)),
        "samoyeds": (
            OPS.samoyeds_matmul.default,
            (_leaf(N, 128, dtype=dtype), data, packed.indices, packed.metadata, torch.tensor([1, 1, 7])),
        ),
    }


NAMES = list(_calls(torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    op, args = _calls(torch.float32)[name]
    torch.library.opcheck(op, args)


def test_opcheck_time_differences() -> None:
    torch.library.opcheck(OPS.time_differences.default, (torch.arange(8), OFFSETS, 34))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    """In float64, which the PyTorch path serves: the formulas of every backward."""
    op, args = _calls(torch.float64)[name]
    leaves = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
    if name == "copy":
        leaves = [args[0][0]]

    def run(*given: Tensor) -> Tensor:
        fresh = iter(given)
        if name == "copy":
            return op([given[0]], *args[1:])
        out = op(*(next(fresh) if isinstance(x, Tensor) and x.requires_grad else x for x in args))
        return out[0] if isinstance(out, tuple) else out

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_one_op_in_a_forward_without_gradients_saves_nothing() -> None:
    q = normal(N, 2, 16)
    with torch.no_grad():
        out, lse = OPS.attention_forward.default(q, q, q, None, OFFSETS, 0, 1 << 30, 0, 0.3, -1, 0)
    assert lse.numel() == 0
    torch.testing.assert_close(out, kernels.jagged_attention(q, q, q, OFFSETS, causal=True, scale=0.3))


MODEL = '''
import sys
import torch
from torch import Tensor, nn
import tokenlake_kernels as kernels

class Model(nn.Module):
    """Every op once."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 128)
        self.weight, self.bias = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))
        self.out = nn.Parameter(torch.randn(32, 96) / 10)
        self.position, self.time = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(2, 8))
        self.experts = nn.Parameter(torch.randn(3, 32, 8) / 6)
        packed = kernels.SamoyedsWeight.encode(torch.randn(8, 128))
        self.data = nn.Parameter(packed.data)
        self.register_buffer("indices", packed.indices)
        self.register_buffer("metadata", packed.metadata)

    def forward(self, x: Tensor, offsets: Tensor, times: Tensor) -> Tensor:
        n, batch = x.shape[0], offsets.shape[0] - 1
        u, v, q, k = (part.view(n, 2, 16) for part in self.project(x).split(32, 1))
        a = kernels.hstu_attention(q, k, v, offsets, norm=9, local=3, prefix=1, max_len=9, timestamps=times,
                                   position_bias=self.position, time_bias=self.time)
        y = kernels.gated_norm(a.flatten(1), u.flatten(1), self.weight, self.bias, concat=True, out_weight=self.out)
        y = y + kernels.jagged_attention(q, k, v, offsets, causal=True, max_len=9).flatten(1)
        at = torch.tensor([0, 1, 2, *range(9)])
        past = kernels.jagged_prefix_attention(q, k, v, offsets, at, at, max_len=9, timestamps=times, time_bias=self.time)
        y = y + past.flatten(1)
        pooled = kernels.jagged_cross_attention(y.new_ones(batch, 2, 2, 16), k, v, offsets, bias=y.new_zeros(batch, 2, 9))
        w = kernels.jagged_softmax(y[:, :3], offsets)
        z = kernels.jagged_jagged_bmm(y, w, offsets)
        y = kernels.jagged_dense_mul(y, offsets, z[:, None, :, 0] + pooled.mean((1, 2)).repeat(1, 2)[:, None])
        y = kernels.jagged_dense_add(y, offsets, z[:, None, :, 1])
        padded = kernels.jagged_to_padded(y, offsets, 9)
        y = kernels.padded_to_jagged(padded * 2, offsets, n)
        both, joined = kernels.jagged_concat([y, y], [offsets, offsets])
        (y, _), _ = kernels.jagged_split(both, joined, offsets.diff(), n)
        y = kernels.grouped_gemm(y, self.experts, offsets) + kernels.jagged_dense_bmm(y, self.experts, offsets)
        packed = kernels.SamoyedsWeight(self.data, self.indices, self.metadata)
        return kernels.sparse_moe_matmul(torch.cat([y] * 16, 1), packed)

torch.manual_seed(0)
model = Model()
x, offsets = torch.randn(12, 32), torch.tensor([0, 3, 3, 12])
times = torch.arange(12) * 50
plain = model(x, offsets, times)
plain.square().sum().backward()
wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
model.zero_grad()
with torch.set_grad_enabled(sys.argv[1] != "inductor"):  # compiling the backward too takes a minute
    fast = torch.compile(model, fullgraph=True, backend=sys.argv[1])(x, offsets, times)
torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)
if fast.requires_grad:
    fast.square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], atol=1e-3, rtol=1e-3)
'''


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_model_of_every_op_compiles_without_a_break(backend: str) -> None:
    """In its own process: what checks types in the tests is not made to be traced."""
    done = subprocess.run(
        [sys.executable, "-c", MODEL, backend], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
