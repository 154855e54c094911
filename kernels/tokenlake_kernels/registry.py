"""Registration of ops with PyTorch's dispatcher: schema, CPU and CUDA kernels, shapes for tracing, gradients.

`torch.library.Library` rather than `torch.library.custom_op`: the same guarantees for `torch.compile`, `opcheck` and
autograd, at 0.6 us a call in place of 14 us. An op never mutates or aliases its inputs; `opcheck` verifies that.
"""

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "tokenlake"
Size = int | torch.SymInt  # what a size is while tracing
_LIBRARY: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped


def define(
    name: str,
    schema: str,
    *,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup: Callable[..., None] | None = None,
) -> Any:
    """Register an op and return its callable.

    Args:
        name: The op's name under `torch.ops.tokenlake`.
        schema: Its arguments and results, in the dispatcher's language.
        cpu: The kernel for CPU tensors.
        cuda: The kernel for CUDA and ROCm tensors.
        fake: Returns empty outputs of the right shapes, for tracing.
        backward: `(ctx, *grads) -> one gradient an input`, for differentiable ops.
        setup: `(ctx, inputs, output)` saves what `backward` reads.
    """
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, cpu, "CPU")
    _LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name).default
