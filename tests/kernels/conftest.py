"""What the tests of the CPU paths share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tokenlake_kernels.cpu import native


@pytest.fixture(params=["compiled", "torch"], scope="module")
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test runs on the compiled kernels and on the PyTorch path."""
    if request.param == "compiled" and native.library() is None:
        pytest.skip("no C++ compiler here")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setenv("TOKENLAKE_CPU", "torch")
        native.library.cache_clear()
        yield request.param
    native.library.cache_clear()
