"""How a Python process of a test is started: every warning is an error, as in the tests themselves."""

from __future__ import annotations

#: Arguments of the interpreter. Doing without a compiler, which warns, is no error (`tests/conftest.py`).
STRICT = ["-W", "error", "-W", "ignore:NumPy does the work of", "-W", "ignore:PyTorch does the work of"]
