"""Puts the compiled CPU kernels into a wheel, for machines without a compiler.

Where the wheel is built without one, it comes without them: such a machine then uses the PyTorch path, after one warning.
"""

from __future__ import annotations

import importlib.util
import platform
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_INSIDE = "tokenlake_kernels/cpu"


class KernelsHook(BuildHookInterface[Any]):
    """Compiles the sources for what every CPU of this architecture can do."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is put together; an editable install compiles for its own machine later."""
        if version != "standard":
            return
        native = _native(Path(self.root) / "kernels" / _INSIDE / "native.py")
        self._folder = tempfile.TemporaryDirectory(prefix="tokenlake-wheel-")
        machine = platform.machine()
        try:
            library = native.build(Path(self._folder.name) / native.PREBUILT.name, native.BASELINE.get(machine, ()))
        except native.BuildError as error:
            self._folder.cleanup()
            self.app.display_warning(f"the wheel comes without compiled kernels: {error}")
            return
        build_data["force_include"][str(library)] = f"{_INSIDE}/{native.PREBUILT.name}"
        build_data["pure_python"] = False
        # Nothing in it depends on the version of Python.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After it."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _native(path: Path) -> ModuleType:
    """The module that compiles, alone: the package around it wants PyTorch."""
    spec = importlib.util.spec_from_file_location("tokenlake_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
