"""The catalog's checks again, on a real Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import tokenlake
from tests.fixtures import catalog_checks
from tokenlake.catalog import Catalog
from tokenlake.errors import TerminalError, TransientError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))  # pgserver's locks, on any machine
        import pgserver

    with pgserver.get_server(tmp_path_factory.mktemp("pg")) as running:
        yield running.get_uri()


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A database of its own for each test."""
    name = "t" + "".join(c for c in request.node.name.lower() if c.isalnum())[-50:]
    engine = sa.create_engine(server.replace("postgresql://", "postgresql+psycopg2://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


@pytest.mark.parametrize("check", catalog_checks.ALL, ids=lambda check: check.__name__.removeprefix("check_"))
def test_on_postgres(url: str, check: Callable[[Catalog], None]) -> None:
    check(Catalog.open(url))


def test_concurrent_first_opens(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        catalogs = list(pool.map(Catalog.open, [url] * 4))
    assert [catalog.versions() for catalog in catalogs] == [[]] * 4


def test_errors_tell_no_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(TransientError) as refused:
        Catalog.open("postgresql://someone:hunter2@127.0.0.1:9/db")
    missing = sa.make_url(url).set(database="nowhere", password="hunter2").render_as_string(hide_password=False)
    with pytest.raises(TerminalError, match="does not exist") as absent:
        Catalog.open(missing)
    assert "hunter2" not in f"{refused.value!r} {absent.value!r}"


def test_a_lake_whose_catalog_is_postgres(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenlake.yaml").write_text("project: test\n")
    monkeypatch.setenv("TOKENLAKE_CATALOG", url)
    lake = tokenlake.open(tmp_path)
    for expected in (1, 2):
        with lake.catalog.run("ingest"):
            pass
        assert lake.sql("select count(*) from runs where status = 'done'").fetchall() == [(expected,)]
    assert not (tmp_path / "catalog.sqlite").exists()
