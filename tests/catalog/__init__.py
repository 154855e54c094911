import pytest

pytest.register_assert_rewrite("tests.fixtures.catalog_checks")
