"""C and C++ sources: compiled once per machine by the compiler at hand, and called through ctypes.

A library is one `.c` file, or one folder of `.cpp` files, with a plain C interface of pointers and sizes; so it depends
on no ABI of Python, NumPy or PyTorch. The kernels' C++ is built here, and so are the C loops of the platform. Who asks
for a library first compiles it (a second, or a few) and keeps it in the cache folder, named by a hash of all that it is
made from. Processes that race build twice and publish once: each writes its own file, then renames it.

Looked for in this order: the cache, the compiler, a library that a wheel brought (beside the source, and for any CPU of
its architecture). With none of them a slower path in Python serves, after one `NativeBuildWarning` per library.

Nothing here needs PyTorch or NumPy: the token store and `hatch_build.py` have neither when they import it.

Environment:
    CC, CXX             the C and the C++ compiler, with arguments if need be; else cc, gcc, clang and c++, g++, clang++.
                        A compiler that is named here and not there is no compiler: no other is taken in its place.
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
    """The compiler is missing or refused; the message holds what it said."""


class NativeBuildWarning(RuntimeWarning):
    """Compiled code is not to be had; a slower path in Python does its work."""


class Language(NamedTuple):
    """How sources of one language are compiled.

    Attributes:
        name: Of the language.
        variable: The environment variable that names the compiler.
        compilers: Those looked for where it names none, the best first.
        flags: For every build.
        machine: Further ones for this very CPU.
        portable: In their place, by architecture, for any CPU of the last ten years: a wheel's.
        threads: How threads come to be, the best first: the next is tried where one can't be compiled or loaded.
    """

    name: str
    variable: str
    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    machine: tuple[str, ...]
    portable: dict[str, tuple[str, ...]]
    threads: tuple[str, ...]


#: The platform's loops are bound by memory: they gain nothing from a newer CPU.
C = Language("C", "CC", ("cc", "gcc", "clang"), ("-O3", "-fPIC"), (), {}, ("-pthread",))
#: OpenMP is compiled in but not linked: its calls find the runtime that PyTorch has loaded (`parallel.h` says why).
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
    """Where a wheel brings the library of a source; `native.so` would be taken for the module `native`."""
    return source.with_name(f"{source.stem}.prebuilt.so")


def cache_folder() -> Path:
    """Where compiled libraries, autotune results and downloads are kept: `TOKENLAKE_CACHE`, else in the XDG cache folder."""
    if chosen := os.environ.get("TOKENLAKE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tokenlake"


def compiler(of: Language) -> list[str]:
    """The compiler's path, and arguments that its variable gave.

    Raises:
        BuildError: there is none.
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
    """The library of a `.c` file or of a folder of `.cpp` files, its functions not yet declared.

    Args:
        source: The file or folder.
        instead: What does the work without it, for the warning: such as "NumPy".

    Returns:
        None, after a warning, where it is not to be had; without one where `TOKENLAKE_NATIVE=0` wants none.
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
    """Compile a library into `target`, whole or not at all.

    Args:
        source: The file or folder.
        target: The library.
        threads: One of the language's ways.
        machine: Flags that say for which CPU.

    Raises:
        BuildError: there is no compiler, or it refused.
        OSError: the folder can't be written to.
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
    """Raises BuildError or OSError of the last attempt."""
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
    """A hash of what a library is made from: sources, flags, the compiler that was asked for, and the machine."""
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
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    said = ("flags", "Features", "model name", "CPU part")
    return "\n".join(sorted({line for line in info.read_text().splitlines() if line.startswith(said)}))


def _run(command: list[str]) -> None:
    try:
        # The compiler is the user's own and the arguments are ours.
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{shlex.join(command)} failed:\n{error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(command)} failed: {error}") from error
