"""Downloads: files are fetched once into a cache, and used only if their SHA-256 is the expected one."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tokenlake.errors import CorruptionError, SourceError, TransientError
from tokenlake.storage import disk
from tokenlake_kernels.native_build import cache_folder

PIP_SECONDS = 600


@dataclass(frozen=True)
class Wheel:
    """One pinned file of a package registry."""

    requirement: str
    file: str
    sha256: str


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, sha256: str) -> None:
    """Compare a file with its pinned digest.

    Raises:
        CorruptionError: they differ.
    """
    if (found := digest(path)) != sha256:
        raise CorruptionError(
            f"{path} has sha256 {found}, expected was {sha256}: it is damaged or not the release that this version "
            "of tokenlake knows; delete it and try again"
        )


def fetch_wheel(wheel: Wheel) -> Path:
    """Download a wheel with pip, without installing or importing it; a cached file with the right digest is used.

    Raises:
        TransientError: pip could not download it.
        CorruptionError: the file has another digest.
    """
    cached = cache_folder() / wheel.file
    if cached.is_file() and digest(cached) == wheel.sha256:
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix="pip-") as folder:
        _pip_download(wheel.requirement, Path(folder))
        fresh = Path(folder) / wheel.file
        if not fresh.is_file():
            found = sorted(path.name for path in Path(folder).iterdir())
            raise SourceError(f"pip downloaded {found} for {wheel.requirement}; expected was {wheel.file}")
        check(fresh, wheel.sha256)
        disk.rename(fresh, cached)
    return cached


def _pip_download(requirement: str, folder: Path) -> None:
    # Wheels only: a source distribution would run its own code.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    by_hand = f"download {requirement} on a connected machine and pass its path as --source"
    try:
        # Our own interpreter and a pinned requirement; no argument comes from user input.
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise TransientError(
            f"pip gave no answer for {requirement} in {PIP_SECONDS} s; try again, or {by_hand}"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no message"]
        raise TransientError(f"pip could not download {requirement} ({reason[0]}); try again, or {by_hand}")


def fetch_url(url: str, file: str, sha256: str, *, seconds: float) -> Path | None:
    """Download a file from a URL into the cache.

    None if the site cannot be reached in time, or the content is another one, such as a proxy's login page.
    """
    cached = cache_folder() / file
    if cached.is_file() and digest(cached) == sha256:
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix="url-") as folder:
        fresh = Path(folder) / file
        try:
            # Called only with https URLs of this package.
            with urllib.request.urlopen(url, timeout=seconds) as answer, fresh.open("wb") as out:  # noqa: S310
                shutil.copyfileobj(answer, out)
        except OSError:  # URLError and timeouts are subclasses
            return None
        if digest(fresh) != sha256:
            return None
        disk.rename(fresh, cached)
    return cached
