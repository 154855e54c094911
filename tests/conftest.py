"""For the whole run, shapes and types of everything that takes tensors are checked (packages only, not the tests)."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests import cpu_seconds

# Before any test module imports them.
install_import_hook(["tokenlake_models", "tokenlake_kernels"], "beartype.beartype")

from tokenlake_kernels import native_build  # noqa: E402  (behind the hook, which it passes)

# The first example pays for imports, and machines are shared: a deadline would test the weather.
settings.register_profile("tokenlake", deadline=None)
settings.load_profile("tokenlake")

# Started in the background of a script, this process and all its children would ignore Ctrl-C, and so what tests it
# would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-seconds", action="store_true", help="measure each test's CPU time into tests/cpu_seconds.tsv"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cpu_seconds.arrange(items)


def pytest_runtest_setup() -> None:
    """How wide a table is, is not for what an earlier test left behind."""
    os.environ.pop("COLUMNS", None)


def pytest_configure(config: pytest.Config) -> None:
    """On a machine without a compiler the slower paths say so, which is right and no error there."""
    if config.getoption("--cpu-seconds"):
        config.pluginmanager.register(cpu_seconds.Meter())
    try:
        for language in (native_build.C, native_build.CPP):
            native_build.compiler(language)
    except native_build.BuildError:
        config.addinivalue_line("filterwarnings", "ignore::tokenlake_kernels.native_build.NativeBuildWarning")
