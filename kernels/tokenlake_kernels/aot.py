"""Compiles every Triton kernel ahead of time for several GPUs, and checks the compiled code.

No GPU and no toolkit is needed: the Triton wheel contains ptxas, cuobjdump, nvdisasm and LLVM's AMD back end. The check
finds problems that a compiler accepts but a GPU runs slowly or not at all: registers spilled to memory, matrix products
that do not use the tensor cores, and more shared memory than a block may have.
"""

import itertools
import multiprocessing
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .gpu import attention, flash, hstu, interaction, norm, prefix, samoyeds
from .gpu.launch import Kernel, LaunchConfig, options

KERNELS = {
    k.name: k for module in (flash, attention, prefix, hstu, interaction, norm, samoyeds) for k in module.KERNELS
}
DTYPES = ("bf16", "fp16")


class Target(NamedTuple):
    """A GPU to compile for."""

    vendor: str
    arch: str
    shared: int  # bytes of shared memory that one block may have
    dot: str  # what a matrix instruction is called in its assembly

    def gpu(self) -> GPUTarget:
        """Triton's description of the GPU."""
        if self.vendor == "cuda":
            return GPUTarget("cuda", int(self.arch.removeprefix("sm_")), 32)
        return GPUTarget("hip", self.arch, 64)


TARGETS = (
    Target("cuda", "sm_80", 166_912, r"\bHMMA"),
    Target("cuda", "sm_90", 232_448, r"\bHG?MMA"),
    Target("cuda", "sm_100", 232_448, r"\bHMMA|\bUTC\w*MMA"),
    Target("hip", "gfx942", 65_536, r"v_mfma"),
)


class Case(NamedTuple):
    """One configuration of one kernel, for one target."""

    kernel: str
    flags: tuple[tuple[str, Any], ...]
    config: LaunchConfig
    dim: int
    dtype: str
    target: Target


@dataclass(frozen=True, slots=True)
class Result:
    """The compiler's result for a case.

    Attributes:
        case: What was compiled.
        registers: Vector registers a thread.
        spills: Registers kept in memory: spill instructions in the assembly, or what the AMD compiler reports.
        stack: Bytes of stack or scratch a thread.
        shared: Bytes of shared memory a block.
        dots: Matrix instructions in the assembly.
        occupancy: Warps that fit a processor at once, of those that it can hold.
    """

    case: Case
    registers: int
    spills: int
    stack: int
    shared: int
    dots: int
    occupancy: float

    def problems(self) -> list[str]:
        """Problems of the compiled code; empty if there are none."""
        found = []
        if self.spills or (self.case.target.vendor == "hip" and self.stack):
            found.append(f"{self.spills} spills, {self.stack} bytes of stack")
        if self.shared > self.case.target.shared:
            found.append(f"{self.shared} bytes of shared memory, {self.case.target.shared} allowed")
        if KERNELS[self.case.kernel].dots and not self.dots:
            found.append("no matrix instruction")
        return found


def cases(*, defaults: bool) -> Iterator[Case]:
    """All cases; with `defaults`, only the first configuration of each kernel, with all its flags."""
    for kernel, target in itertools.product(KERNELS.values(), TARGETS):
        sized = kernel.sizes(kernel.dims[0]) != kernel.sizes(kernel.dims[-1])
        dims = kernel.dims if sized and not defaults else kernel.dims[1:2]
        for dim, dtype in itertools.product(dims, DTYPES[:1] if defaults else DTYPES):
            configs = kernel.configs(dim, target.vendor)
            flags = kernel.flags
            for flag, config in itertools.product(
                flags[-1:] if defaults else flags, configs[:1] if defaults else configs
            ):
                yield Case(kernel.name, tuple(flag.items()), config, dim, dtype, target)


def _source(kernel: Kernel, case: Case) -> ASTSource:
    constants = dict(case.flags) | kernel.sizes(case.dim) | dict(case.config.tiles)
    types = {name: kind.replace("T", case.dtype) for name, kind in kernel.signature.items()}
    signature = {name: types.get(name, "constexpr") for name in kernel.fn.arg_names}
    # Pointers and strides are multiples of 16 in practice; Triton then uses wider loads.
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (n,): aligned
        for n, name in enumerate(kernel.fn.arg_names)
        if types.get(name, "").startswith("*") or name.endswith(("_token", "_head", "_row", "_inner"))
    }
    return ASTSource(kernel.fn, signature, constexprs=constants, attrs=attributes)


def _tool(name: str, *args: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    # The tool is part of Triton, and the arguments come from this module.
    return subprocess.run([str(path), *args], capture_output=True, text=True, check=True).stdout  # noqa: S603


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def _nvidia_occupancy(registers: int, warps: int, shared: int, target: Target) -> float:
    by_registers = 65_536 // (-(-registers // 8) * 8 * 32 * warps)
    by_shared = (target.shared + 1024) // (shared + 1024)
    return min(by_registers, by_shared, 64 // warps, 32) * warps / 64


def _amd_occupancy(registers: int, warps: int, shared: int) -> float:
    waves = min(8, 512 // max(8, -(-registers // 8) * 8)) * 4  # four SIMD units of 512 registers a lane, 8 waves each
    blocks = min(waves // warps, 65_536 // max(1, shared))
    return blocks * warps / 32


def check(case: Case) -> Result:
    """Compile one case and read its assembly."""
    kernel = KERNELS[case.kernel]
    built = triton.compile(
        _source(kernel, case), target=case.target.gpu(), options=options(case.config, case.target.vendor)
    )
    shared = int(built.metadata.shared)
    if case.target.vendor == "hip":
        text = built.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s*(\d+)", text)  # accumulation registers are among them
        spills, stack = (
            _number(r"\.vgpr_spill_count:\s*(\d+)", text),
            _number(r"\.private_segment_fixed_size:\s*(\d+)", text),
        )
        occupancy = _amd_occupancy(registers, case.config.warps, shared)
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(built.asm["cubin"])
            file.flush()
            usage, text = _tool("cuobjdump", "--dump-resource-usage", file.name), _tool("nvdisasm", "-c", file.name)
        registers, stack = _number(r"REG:(\d+)", usage), _number(r"STACK:(\d+)", usage)
        spills = len(re.findall(r"\b(?:STL|LDL)\b", text))
        occupancy = _nvidia_occupancy(registers, case.config.warps, shared, case.target)
    return Result(case, registers, spills, stack, shared, len(re.findall(case.target.dot, text)), occupancy)


def check_all(wanted: list[Case], jobs: int) -> Iterator[Result]:
    """Check cases on several processes, in order."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(check, wanted)
