"""Description, configuration and launch of Triton kernels.

A `Kernel` describes one kernel completely: types of its arguments, its sets of flags, and the tile configurations for a
head dimension and a vendor. Both the launch and the ahead-of-time check (`tokenlake_kernels.report`) use it, so that
exactly the running code is checked.

On a GPU the configurations are timed once per kernel, shape class and device, and the fastest is stored in the user's
cache folder. `TOKENLAKE_DETERMINISTIC=1`, or `torch.use_deterministic_algorithms(True)`, always selects the first
configuration, and avoids atomic additions, whose order is random.
"""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..errors import ShapeError
from ..native_build import cache_folder

#: Largest head dimension for which the configurations are compiled and checked.
WIDEST = 256

#: Maps tile sizes to the grid: `grid.programs`.
Grid = Callable[[Mapping[str, int]], tuple[int]]


class LaunchConfig(NamedTuple):
    """One configuration of a kernel."""

    tiles: tuple[tuple[str, int], ...]
    warps: int
    stages: int

    def label(self) -> str:
        """A label such as `64x32, 4 warps, 2 stages`."""
        return f"{'x'.join(str(n) for _, n in self.tiles)}, {self.warps} warps, {self.stages} stages"


def options(config: LaunchConfig, vendor: str) -> dict[str, int]:
    """Compiler options of a configuration. Without an explicit register limit, ptxas spills to fit one more block."""
    bound = {"maxnreg": 255} if vendor == "cuda" else {}
    return {"num_warps": config.warps, "num_stages": config.stages} | bound


class Kernel(NamedTuple):
    """One kernel with all its configurations.

    Attributes:
        fn: The Triton function.
        signature: Argument name to Triton type; `*T` is a pointer to the values' dtype. In the function's order,
            constants left out.
        flags: The supported sets of constants, apart from tiles and dimensions.
        configs: (head dim, vendor "cuda" or "hip") to configurations, the default first.
        sizes: dim to the constants computed from it.
        dots: Whether it has matrix products, and so must use tensor cores.
        dims: The dimensions that are compiled ahead of time.
    """

    fn: Any
    signature: dict[str, str]
    flags: tuple[dict[str, Any], ...]
    configs: Callable[[int, str], tuple[LaunchConfig, ...]]
    sizes: Callable[[int], dict[str, int]]
    dots: bool = True
    dims: tuple[int, ...] = (32, 64, 128, 256)

    @property
    def name(self) -> str:
        """The function's name."""
        name: str = self.fn.__name__
        return name


def tiles(warps: int, stages: int, **sizes: int) -> LaunchConfig:
    """A short constructor of `LaunchConfig`, for tables of configurations."""
    return LaunchConfig(tuple(sizes.items()), warps, stages)


def head_sizes(dim: int) -> dict[str, int]:
    """The constants of a head dimension: the dimension, and the next power of two.

    Raises:
        ShapeError: the head is too wide for every configuration.
    """
    if dim > WIDEST:
        raise ShapeError(f"the heads are {dim} wide; the GPU kernels take up to {WIDEST}: use more heads, or the CPU")
    return {"DIM": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim))}


def precision(dtype: torch.dtype) -> str:
    """Precision of float32 matrix products: exact, unless PyTorch is set to allow TF32."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def vendor() -> str:
    """`cuda` or `hip`."""
    return "hip" if torch.version.hip else "cuda"


def deterministic() -> bool:
    """Whether results must not depend on timing or on the order of threads."""
    return os.environ.get("TOKENLAKE_DETERMINISTIC") == "1" or torch.are_deterministic_algorithms_enabled()


def longest(offsets: Tensor, max_len: int) -> int:
    """`max_len` if it is known, else the longest row, which waits for the device."""
    if max_len >= 0:
        return max_len
    return int(offsets.diff().max()) if offsets.shape[0] > 1 else 0


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def _time(run: Callable[[], None]) -> float:
    return float(triton.testing.do_bench(run, warmup=5, rep=20))


class Choices:
    """The fastest configuration by kernel, shape class and device; on disk as one small JSON file per key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def get(self, key: str, configs: tuple[LaunchConfig, ...]) -> LaunchConfig | None:
        """The stored configuration of `key`, if it is still among `configs`."""
        try:
            label = json.loads(self._path(key).read_text())["config"]
        except (OSError, ValueError, KeyError):
            return None
        return next((c for c in configs if c.label() == label), None)

    def put(self, key: str, config: LaunchConfig) -> None:
        """Store a configuration, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            json.dump({"key": key, "config": config.label()}, file)
        Path(file.name).replace(self._path(key))


@functools.cache
def _remembered(key: str, configs: tuple[LaunchConfig, ...], folder: Path) -> list[LaunchConfig]:
    """A list for the choice of this process, with at most one element, which the first launch adds."""
    found = Choices(folder).get(key, configs)
    return [found] if found else []


def choose(
    configs: tuple[LaunchConfig, ...],
    key: str,
    run: Callable[[LaunchConfig], None],
    timer: Callable[[Callable[[], None]], float] = _time,
) -> LaunchConfig:
    """The fastest configuration for `key`: the stored one, else timed now and stored.

    A configuration that the device cannot run (for example, too much shared memory) is skipped.
    """
    if len(configs) == 1 or deterministic():
        return configs[0]
    folder = cache_folder() / "autotune"
    known = _remembered(key, configs, folder)
    if not known:
        times: dict[LaunchConfig, float] = {}
        for config in configs:
            try:
                times[config] = timer(lambda config=config: run(config))  # type: ignore[misc]  # mypy has no default here
            except (triton.OutOfResources, triton.CompilationError):
                continue
        known.append(min(times, key=times.__getitem__) if times else configs[0])
        Choices(folder).put(key, known[0])
    return known[0]


def launch(
    kernel: Kernel,
    grid: Grid,
    args: tuple[Any, ...],
    *,
    dim: int,
    like: Tensor,
    rows: int,
    repeatable: bool = True,
    **flags: Any,
) -> None:
    """Run a kernel in its fastest configuration.

    Args:
        kernel: The kernel.
        grid: Maps tile sizes to the grid, by `grid.programs`.
        args: The arguments of the signature, in order; None for a tensor that is not used with these flags.
        dim: The head dimension, or another argument of `kernel.sizes`.
        like: A tensor with the dtype and the device.
        rows: Approximate size of the work; its power of two is part of the autotune key.
        repeatable: Whether the kernel can be run twice; kernels that add into their output are not timed.
        flags: One of the kernel's sets of flags.
    """
    sizes = kernel.sizes(dim)
    configs = kernel.configs(dim, vendor())
    # A missing tensor is passed as an unused pointer, so that the argument types are those that were checked.
    given = tuple(like if x is None else x for x in args)

    def run(config: LaunchConfig) -> None:
        chosen = dict(config.tiles)
        kernel.fn[grid(chosen)](*given, **flags, **sizes, **chosen, **options(config, vendor()))

    if not repeatable or like.device.type != "cuda":
        run(configs[0])
        return
    key = (
        f"{_device_name(like.device)} {triton.__version__} {kernel.name} {like.dtype} {dim} {rows.bit_length()} {flags}"
    )
    with torch.cuda.device(like.device):
        run(choose(configs, key, run))
