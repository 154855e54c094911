"""The one builder of C and C++: which compiler, which cache, which warning; on sources of a few lines."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.patience import HANG_S
from tokenlake_kernels import native_build
from tokenlake_kernels.native_build import CPP, BuildError, C, Language, NativeBuildWarning, compiler, load

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("of", [C, CPP], ids=lambda of: of.name)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TOKENLAKE_NATIVE", raising=False)


@pytest.fixture
def compilers() -> None:
    """For what needs both compilers themselves."""
    for of in (C, CPP):
        try:
            compiler(of)
        except BuildError as error:
            pytest.skip(str(error))


def source_of(of: Language, folder: Path, answer: int = 42) -> Path:
    """A library whose `answer()` is that."""
    if of is C:
        source = folder / "small.c"
        source.write_text(f"int answer(void) {{ return {answer}; }}\n")
        return source
    source = folder / "many"
    source.mkdir(exist_ok=True)
    (source / "number.h").write_text(f"#pragma once\nconst int number = {answer};\nint half();\n")
    (source / "one.cpp").write_text('#include "number.h"\nint half() { return number / 2; }\n')
    (source / "two.cpp").write_text('#include "number.h"\nextern "C" int answer() { return half() + half(); }\n')
    return source


def ask(library: ctypes.CDLL | None) -> int:
    assert library is not None
    found: int = library.answer()
    return found


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.so"))


@BOTH
@pytest.mark.usefixtures("compilers")
def test_compiled_once_and_found_again(of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(of, tmp_path)
    assert ask(load(source, "NumPy")) == 42
    (library,) = kept(tmp_path)
    assert library.parent == tmp_path / "cache" / "native"
    assert [p.name for p in library.parent.iterdir()] == [library.name]  # nothing half made
    monkeypatch.setattr(native_build, "build", lambda *_, **__: pytest.fail("built although it was there"))
    monkeypatch.setenv("PATH", str(tmp_path))  # the compiler went, what it made did not
    assert ask(load(source, "NumPy")) == 42


@BOTH
@pytest.mark.usefixtures("compilers")
def test_another_source_is_another_library(of: Language, tmp_path: Path) -> None:
    assert ask(load(source_of(of, tmp_path, 42), "NumPy")) == 42
    assert ask(load(source_of(of, tmp_path, 44), "NumPy")) == 44
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TOKENLAKE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"TOKENLAKE_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/tokenlake"),
        ({"TOKENLAKE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/tokenlake"),
    ],
)
def test_cache_folder(variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert native_build.cache_folder() == Path(folder)


@BOTH
def test_a_named_compiler_that_is_not_there_is_no_compiler(
    of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another in its place would hide the mistake."""
    monkeypatch.setenv(of.variable, "/nowhere/cc -m64")
    with pytest.raises(BuildError, match=f"{of.variable} names /nowhere/cc, which is no program here"):
        compiler(of)
    source = source_of(of, tmp_path)
    wanted = rf"NumPy does the work of .*/{source.name}, .* install a {of.name} compiler or set {of.variable}"
    with pytest.warns(NativeBuildWarning, match=wanted.replace("+", r"\+")):
        assert load(source, "NumPy") is None
    assert kept(tmp_path) == []


@BOTH
def test_without_any_compiler(of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(of.variable, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=f"looked for {', '.join(of.compilers)}".replace("+", r"\+")):
        compiler(of)


@BOTH
def test_a_compiler_may_have_arguments(of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "my compiler"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv(of.variable, f"'{program}' -m64")
    assert compiler(of) == [str(program), "-m64"]


@BOTH
def test_a_compiler_that_fails_says_what_it_said(of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'no room today' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv(of.variable, str(broken))
    with pytest.warns(NativeBuildWarning, match="no room today"):
        assert load(source_of(of, tmp_path), "NumPy") is None
    assert kept(tmp_path) == []


@pytest.mark.usefixtures("compilers")
def test_a_compiler_without_openmp_makes_threads_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "plain"
    plain.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec {compiler(CPP)[0]} "$@"\n')
    plain.chmod(0o755)
    monkeypatch.setenv("CXX", str(plain))
    assert ask(load(source_of(CPP, tmp_path), "PyTorch")) == 42


@BOTH
@pytest.mark.usefixtures("compilers")
def test_a_cache_that_cannot_be_written_to_is_said(
    of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOKENLAKE_CACHE", str(tmp_path / "file"))
    with pytest.warns(NativeBuildWarning, match=str(tmp_path / "file")):
        assert load(source_of(of, tmp_path), "NumPy") is None


@BOTH
def test_who_wants_no_compiled_code_gets_none_and_no_warning(
    of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENLAKE_NATIVE", "0")
    assert load(source_of(of, tmp_path), "NumPy") is None
    assert kept(tmp_path) == []


@BOTH
@pytest.mark.usefixtures("compilers")
def test_a_wheel_may_bring_the_library(of: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(of, tmp_path)
    native_build.build_portable(source, native_build.prebuilt(source))
    monkeypatch.setenv(of.variable, "/nowhere")
    assert ask(load(source, "NumPy")) == 42
    assert kept(tmp_path) == []


@BOTH
@pytest.mark.usefixtures("compilers")
def test_processes_that_race_agree(of: Language, tmp_path: Path) -> None:
    source = source_of(of, tmp_path)
    program = (
        f"import pathlib; from tokenlake_kernels.native_build import load; "
        f"print(load(pathlib.Path({str(source)!r}), 'NumPy').answer())"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [racer.communicate(timeout=HANG_S)[0].strip() for racer in racers] == ["42"] * 3
    assert len(list((tmp_path / "cache" / "native").iterdir())) == 1


def test_nothing_heavy_is_imported() -> None:
    """The token store and the wheel's builder ask for libraries without PyTorch or NumPy."""
    program = "import sys, tokenlake_kernels.native_build; assert not {'torch', 'numpy', 'triton', 'jaxtyping'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
