"""Compiles C and C++ sources once per machine, with the installed compiler; they are called through ctypes.

A library is one `.c` file, or one folder of `.cpp` files, with a plain C interface of pointers and sizes; so it does not
depend on an ABI of Python, NumPy or PyTorch. The kernels' C++ and the C loops of the platform are built here. The first
use of a library compiles it (in a few seconds) into the cache folder, under a name with a hash of its sources, flags,
compiler and machine. Concurrent processes may both build it: each writes its own file, then renames it.

The order of lookup is: the cache, the compiler, a library from a wheel (beside the source, for any CPU of its
architecture). Without any of them slower Python code is used, after one `NativeBuildWarning` per library.

This module needs neither PyTorch nor NumPy, which the token store and `hatch_build.py` may lack when they import it.

Environment:
    CC, CXX             the C and the C++ compiler, with optional arguments; else cc, gcc, clang and c++, g++, clang++.
                        If the named compiler does not exist, no other one is used.
    TOKENLAKE_CACHE     the cache folder; else `XDG_CACHE_HOME/tokenlake` or `~/.cache/tokenlake`.
    TOKENLAKE_NATIVE=0  never use compiled code.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple


class BuildError(Exception):
    """The compiler is missing or failed; the message contains its output."""


class NativeBuildWarning(RuntimeWarning):
    """Compiled code is not available; slower Python code is used."""


class Language(NamedTuple):
    """Compiler settings of one language.

    Attributes:
        name: Of the language.
        variable: The environment variable that names the compiler.
        compilers: Compilers to look for if the variable is not set, best first.
        flags: Flags of every build.
        machine: Additional flags for the present CPU.
        portable: Flags in their place for a wheel, by architecture: for any CPU of the last ten years.
        threads: Kinds of threads, best first; the next is tried if one cannot be compiled or loaded.
    """

    name: str
    variable: str
    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    machine: tuple[str, ...]
    portable: dict[str, tuple[str, ...]]
    threads: tuple[str, ...]


#: The platform's loops are limited by memory bandwidth: they gain nothing from flags for a newer CPU.
C = Language("C", "CC", ("cc", "gcc", "clang"), ("-O3", "-fPIC"), (), {}, ("-pthread",))
#: OpenMP is compiled in but not linked: its calls use the runtime that PyTorch has loaded (`parallel.h` explains it).
CPP = Language(
    "C++",
    "CXX",
    ("c++", "g++", "clang++"),
    (
        *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
        *("-fPIC", "-fvisibility=default"),
    ),
    ("-march=native",),
    {"x86_64": ("-march=x86-64-v3",), "aarch64": ("-march=armv8-a",)},
    ("-fopenmp", "-pthread"),
)


def language(source: Path) -> Language:
    """C for a file, C++ for a folder."""
    return C if source.suffix == ".c" else CPP


def prebuilt(source: Path) -> Path:
    """Path of a source's library in a wheel; not `native.so`, which Python would import as the module `native`."""
    return source.with_name(f"{source.stem}.prebuilt.so")


def cache_folder() -> Path:
    """Folder of compiled libraries, autotune results and downloads: `TOKENLAKE_CACHE`, else in the XDG cache folder."""
    if chosen := os.environ.get("TOKENLAKE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tokenlake"


def compiler(of: Language) -> list[str]:
    """The compiler's path, and the arguments in its environment variable.

    Raises:
        BuildError: there is no compiler.
    """
    if named := shlex.split(os.environ.get(of.variable, "")):
        if found := shutil.which(named[0]):
            return [found, *named[1:]]
        raise BuildError(f"{of.variable} names {named[0]}, which is no program here")
    for name in of.compilers:
        if found := shutil.which(name):
            return [found]
    raise BuildError(f"no {of.name} compiler found: looked for {', '.join(of.compilers)}")


def load(source: Path, instead: str) -> ctypes.CDLL | None:
    """Load the library of a `.c` file or of a folder of `.cpp` files, without declared argument types.

    Args:
        source: The file or folder.
        instead: What is used without the library, for the warning; such as "NumPy".

    Returns:
        The library; None, after a warning, if it is not available, and None without a warning for `TOKENLAKE_NATIVE=0`.
    """
    if os.environ.get("TOKENLAKE_NATIVE") == "0":
        return None
    try:
        return _find(source)
    except (BuildError, OSError) as error:
        of, name = language(source), f"{source.parent.name}/{source.name}"
        warnings.warn(
            f"{instead} does the work of {name}, several times slower, as it could not be compiled ({error}); "
            f"install a {of.name} compiler or set {of.variable} to one, or set TOKENLAKE_NATIVE=0 to be content",
            NativeBuildWarning,
            stacklevel=3,
        )
        return None


def build(source: Path, target: Path, *, threads: str, machine: tuple[str, ...]) -> Path:
    """Compile a library into `target`, atomically.

    Args:
        source: The file or folder.
        target: Path of the library.
        threads: One of the language's kinds of threads.
        machine: Flags for the CPU.

    Raises:
        BuildError: there is no compiler, or it failed.
        OSError: the folder is not writable.
    """
    of = language(source)
    command = compiler(of)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for unit in _units(source):
            objects.append(f"{folder}/{unit.stem}.o")
            _run([*command, *of.flags, *machine, threads, "-c", str(unit), "-o", objects[-1]])
        library = Path(folder) / target.name
        _run([*command, "-shared", "-pthread", *objects, "-o", str(library)])
        library.replace(target)
    return target


def build_portable(source: Path, target: Path) -> Path:
    """Compile a library for any CPU of this architecture; raises as `build`."""
    of = language(source)
    return build(source, target, threads=of.threads[0], machine=of.portable.get(platform.machine(), ()))


def _find(source: Path) -> ctypes.CDLL:
    """Find or build a library; raises the BuildError or OSError of the last attempt."""
    *better, last = language(source).threads
    for threads in better:
        try:
            return _compiled(source, threads)
        except (BuildError, OSError):  # a compiler without OpenMP, or a PyTorch without GOMP's symbols
            continue
    try:
        return _compiled(source, last)
    except (BuildError, OSError):
        if prebuilt(source).exists():
            return ctypes.CDLL(str(prebuilt(source)))
        raise


def _compiled(source: Path, threads: str) -> ctypes.CDLL:
    try:
        folder = cache_folder() / "native"
    except RuntimeError as error:
        raise BuildError(f"there is no cache folder: {error}; set TOKENLAKE_CACHE to one") from error
    target = folder / f"{source.stem}-{_identity(source, threads)}.so"
    if not target.exists():
        build(source, target, threads=threads, machine=language(source).machine)
    return ctypes.CDLL(str(target))


def _units(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(source.glob("*.cpp"))


def _identity(source: Path, threads: str) -> str:
    """A hash of a library's sources, flags, compiler and machine."""
    of = language(source)
    digest = hashlib.sha256()
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        digest.update(path.read_bytes())
    asked = os.environ.get(of.variable, "")
    for part in (*of.flags, *of.machine, threads, asked, platform.machine(), *platform.libc_ver()):
        digest.update(f"{part}\n".encode())
    if of.machine:
        digest.update(_cpu().encode())
    return digest.hexdigest()[:20]


def _cpu() -> str:
    """The properties of the CPU on which `-march=native` depends."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    said = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in info.read_text().splitlines() if line.startswith(said)}))


def _run(command: list[str]) -> None:
    try:
        # The user's own compiler, with arguments of this module.
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{shlex.join(command)} failed:\n{error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(command)} failed: {error}") from error
