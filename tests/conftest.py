"""For the whole run, shapes and types of everything that takes tensors are checked (packages only, not the tests)."""

from __future__ import annotations

from hypothesis import settings
from jaxtyping import install_import_hook

# Before any test module imports them.
install_import_hook(["tokenlake_models", "tokenlake_kernels"], "beartype.beartype")

# The first example pays for imports, and machines are shared: a deadline would test the weather.
settings.register_profile("tokenlake", deadline=None)
settings.load_profile("tokenlake")
