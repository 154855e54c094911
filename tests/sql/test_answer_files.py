"""Where `-o` writes, and where not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.sql.events import YAML
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.errors import ForbiddenError


def ask_to(lake: Lake, file: str | Path, *more: str) -> str:
    told = CliRunner().invoke(
        app, ["sql", str(lake.root), "-c", "select 1 as a", "--format", "csv", "-o", str(file), *more]
    )
    if isinstance(told.exception, ForbiddenError):
        raise told.exception
    return told.output


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


INSIDE = [
    "x.csv",
    "tokenlake.yaml",
    "catalog.sqlite",
    "tables/x.csv",
    "tables/events/x.csv",
    "new/folder/x.csv",
    "../lake/x.csv",
    "./tables/../x.csv",
    "queries/x.sql",
    ".hidden.csv",
]


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("flags", [[], ["--yes"]], ids=["asked", "yes"])
def test_never_inside_the_lake(lake: Lake, name: str, flags: list[str]) -> None:
    before = tree(lake.root)
    with pytest.raises(ForbiddenError, match="lies inside the lake"):
        ask_to(lake, lake.root / name, *flags)
    assert tree(lake.root) == before


def test_not_through_links(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "folder").symlink_to(lake.root / "tables")
    (tmp_path / "file.csv").symlink_to(lake.root / "tokenlake.yaml")
    (tmp_path / "missing.csv").symlink_to(lake.root / "new.csv")
    (lake.root / "out.csv").symlink_to(tmp_path / "target.csv")
    (lake.root / "out").symlink_to(tmp_path)
    before = tree(lake.root)
    names = [
        "folder/x.csv",
        "file.csv",
        "missing.csv",
        "folder/../x.csv",
        lake.root / "out.csv",
        "folder/../tables/../x.csv",
    ]
    for name in names:
        with pytest.raises(ForbiddenError, match="lies inside the lake"):
            ask_to(lake, tmp_path / name, "--yes")
    assert tree(lake.root) == before
    assert not (tmp_path / "target.csv").exists()


def test_not_by_the_working_folder(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lake.root / "tables")
    for name in ("x.csv", "../x.csv", "/proc/self/cwd/x.csv"):
        with pytest.raises(ForbiddenError, match="lies inside the lake"):
            ask_to(lake, name)


def test_not_into_data_elsewhere_nor_into_another_lake(tmp_path: Path) -> None:
    root, data, other = tmp_path / "lake", tmp_path / "far" / "data", tmp_path / "other"
    for folder in (root, data, other / "sub"):
        folder.mkdir(parents=True)
    (root / "tokenlake.yaml").write_text(YAML + f"data: {data}\n")
    (other / "tokenlake.yaml").write_text(YAML)
    lake = Lake.open(root)
    for file in (data / "x.csv", data / "tables" / "x.csv", other / "x.csv", other / "sub" / "x.csv"):
        with pytest.raises(ForbiddenError, match="lies inside the lake"):
            ask_to(lake, file)
    ask_to(lake, tmp_path / "far" / "x.csv")
    assert (tmp_path / "far" / "x.csv").read_text() == "a\n1\n"


def test_not_over_a_catalog_elsewhere(tmp_path: Path) -> None:
    root, catalog = tmp_path / "lake", tmp_path / "elsewhere" / "shop.sqlite"
    root.mkdir()
    catalog.parent.mkdir()
    (root / "tokenlake.yaml").write_text(YAML + f"catalog: sqlite:///{catalog}\n")
    lake = Lake.open(root)
    for name in ("shop.sqlite", "shop.sqlite-wal", "../elsewhere/shop.sqlite.lock"):
        with pytest.raises(ForbiddenError, match="belongs to the lake's catalog"):
            ask_to(lake, catalog.parent / name, "--yes")


def test_an_existing_file_is_kept_unless_told(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("old")
    assert "replace it by --yes" in ask_to(lake, file)
    assert file.read_text() == "old"
    ask_to(lake, file, "--yes")
    assert file.read_text() == "a\n1\n"


def test_what_is_no_plain_file(lake: Lake, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for file in (tmp_path / "pipe.csv", Path("/dev/null")):
        with pytest.raises(ForbiddenError, match="no plain file"):
            ask_to(lake, file, "--yes")
    assert Path("/dev/null").is_char_device()
