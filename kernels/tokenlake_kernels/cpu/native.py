"""The compiled CPU kernels: found, or built once per machine, and loaded through ctypes.

The sources beside this file are plain C++17 behind a C interface of pointers and sizes, so they depend on no ABI of
PyTorch. The first op that wants them compiles them with the system's compiler (a few seconds) for exactly this CPU and
keeps the library under the user's cache folder, named by a hash of sources, flags, compiler and CPU. Processes that
race build twice and publish once: each writes its own file, then renames it.

Looked for in this order: the cache, the compiler (`CXX`, then c++, g++, clang++), a library that a wheel brought
(`prebuilt.so`, for any CPU of its architecture). With none of them the pure-PyTorch path serves, after one warning.

Environment:
    TOKENLAKE_CPU=torch      never use the compiled kernels.
    TOKENLAKE_CACHE          the cache folder; else `XDG_CACHE_HOME/tokenlake` or `~/.cache/tokenlake`.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
PREBUILT = Path(__file__).parent / "prebuilt.so"
UNITS = ("attention.cpp", "hstu.cpp", "interaction.cpp", "prefix.cpp")
FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fvisibility=default",
)
# What every machine of an architecture has had for ten years: for wheels.
BASELINE = {"x86_64": ("-march=x86-64-v3",), "aarch64": ("-march=armv8-a",)}


class BuildError(Exception):
    """The compiler is missing or refused; the message holds what it said."""


def cache_folder() -> Path:
    """Where compiled libraries and autotune results are kept."""
    chosen = os.environ.get("TOKENLAKE_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tokenlake"


def compiler() -> str:
    """The path of the C++ compiler; raises `BuildError` where there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise BuildError("no C++ compiler found: looked for CXX, c++, g++, clang++")


def _cpu() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    seen = {
        line
        for line in info.read_text().splitlines()
        if line.startswith(("flags", "Features", "model name", "CPU part"))
    }
    return "\n".join(sorted(seen))


def _run(command: list[str]) -> str:
    try:
        # The compiler is the user's own and the arguments are ours.
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{' '.join(command)} failed:\n{error.stderr}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{' '.join(command)} failed: {error}") from error
    return done.stdout


def build(target: Path, machine: tuple[str, ...] = ("-march=native",), *, openmp: bool = True) -> Path:
    """Compile the kernels into `target`, atomically.

    OpenMP is compiled in but not linked: its calls find the runtime that PyTorch has loaded (`parallel.h` says why).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    cxx = compiler()
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for unit in UNITS:
            objects.append(f"{folder}/{unit}.o")
            parallel = ("-fopenmp",) if openmp else ("-pthread",)
            _run([cxx, *FLAGS, *machine, *parallel, "-c", str(SOURCE / unit), "-o", objects[-1]])
        library = Path(folder) / "library.so"
        _run([cxx, "-shared", "-pthread", *objects, "-o", str(library)])
        library.replace(target)
    return target


def _identity(openmp: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.read_bytes())
    for text in (*FLAGS, openmp, _run([compiler(), "--version"]), _cpu()):
        digest.update(text.encode())
    return digest.hexdigest()[:20]


def _compiled(*, openmp: bool) -> ctypes.CDLL:
    target = cache_folder() / "kernels" / f"{_identity('openmp' if openmp else 'threads')}.so"
    if not target.exists():
        build(target, openmp=openmp)
    return ctypes.CDLL(str(target))


def _find() -> ctypes.CDLL:
    try:
        try:
            return _compiled(openmp=True)
        except (OSError, BuildError):
            # A PyTorch without GOMP's symbols, or a compiler without OpenMP: threads of our own.
            return _compiled(openmp=False)
    except (OSError, BuildError):
        if PREBUILT.exists():
            return ctypes.CDLL(str(PREBUILT))
        raise


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (with one warning) where the pure-PyTorch path must serve."""
    if os.environ.get("TOKENLAKE_CPU") == "torch":
        return None
    try:
        return _find()
    except (OSError, BuildError) as error:
        warnings.warn(
            f"the compiled CPU kernels are not to be had, a slower PyTorch path serves: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
