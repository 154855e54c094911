from __future__ import annotations

from pathlib import Path

import pytest

from tokenlake.catalog import Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.open(tmp_path / "catalog.sqlite")
