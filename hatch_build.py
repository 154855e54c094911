"""Puts the compiled C and C++ into a wheel, for machines without a compiler.

Where the wheel is built without one, it comes without them: such a machine then does the work in NumPy and PyTorch, after
a warning.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_ROOT = Path(__file__).parent
sys.path.insert(0, str(_ROOT / "kernels"))

from tokenlake_kernels import native_build  # noqa: E402  (these very sources, wherever else some may be installed)


def sources(root: Path) -> list[Path]:
    """Everything that is compiled: the folder of the kernels' C++, and each C file of the platform."""
    return [root / "kernels/tokenlake_kernels/cpu/csrc", *sorted((root / "platform/tokenlake").rglob("*.c"))]


class NativeHook(BuildHookInterface[Any]):
    """Compiles them for what every CPU of this architecture can do."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is put together; an editable install compiles for its own machine later."""
        if version != "standard":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="tokenlake-wheel-")
        for number, source in enumerate(sources(_ROOT)):
            inside = native_build.prebuilt(source).relative_to(_ROOT)
            try:
                library = native_build.build_portable(source, Path(self._folder.name) / str(number) / inside.name)
            except native_build.BuildError as error:
                self.app.display_warning(f"the wheel comes without {inside.name}: {error}")
                continue
            # The packages lie one folder deep here (platform/tokenlake), and at the top of a wheel.
            build_data["force_include"][str(library)] = str(Path(*inside.parts[1:]))
            build_data["pure_python"] = False
            # Nothing in it depends on the version of Python.
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After it."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()
