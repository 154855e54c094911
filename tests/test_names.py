"""A feature or label may have any name that SQL can quote: it works, or is refused when the lake is opened."""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenlake
import tokenlake_sql
from tokenlake._lake import Lake
from tokenlake.cli import app
from tokenlake.config import Config
from tokenlake.errors import ConfigError, SchemaError
from tokenlake.lake.schema import events_schema
from tokenlake.names import folded

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
MICROS = pa.timestamp("us", "UTC")
KINDS = ("categorical", "multi", "numeric", "vector", "label")
#: Whatever our own SQL calls anything.
IN_SQL = sorted(
    {
        word
        for path in Path(tokenlake_sql.__file__).parent.rglob("*.sql")
        for word in re.findall(r"[a-z_]+", path.read_text())
    }
)
IN_TORCH = sorted({*dir(torch.nn.ModuleDict()), *dir(torch.nn.ParameterDict()), *dir(torch.nn.Linear(1, 1))})
IN_SCHEMAS = sorted({*events_schema(Config()).names, "token", "version", "checkpoint", "position", "events"})
KEYWORDS = [word for (word,) in duckdb.sql("select keyword_name from duckdb_keywords()").fetchall()]
STRANGE = [
    " ",
    "a b",
    'a"b',
    "a'b",
    "a.b",
    ".",
    "a;b",
    "a\nb",
    "a\tb",
    "é",
    "[x]",
    "{x}",
    "/",
    "\\",
    "%41",
    "*",
    "**",
    "#0",
]
STRANGE += [
    "/*{own}*/",
    "--",
    "😀",
    "$x",
    "?",
    ":",
    "",
    "a\0b",
    "asked t",
    "asked user",
    "clicked_known_at",
    "CLICKED",
    "x" * 300,
]
NAMES = st.one_of(
    *map(st.sampled_from, (IN_SQL, IN_TORCH, IN_SCHEMAS, KEYWORDS, STRANGE)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


def value_of(kind: str, k: int) -> Any:
    return {
        "categorical": f"c{k % 3}",
        "multi": [f"m{k % 2}", f"m{k % 3}"],
        "numeric": k / 2,
        "vector": [1.0, float(k % 3)],
        "label": k % 2,
    }[kind]


def opened(folder: Path, columns: dict[str, str], more: dict[str, Any] | None = None) -> Lake:
    features = {
        name: {"kind": kind, "column": f"source {i}"}
        for i, (name, kind) in enumerate(columns.items())
        if kind != "label"
    }
    labels = {name: {} for name, kind in columns.items() if kind == "label"}
    events = {"user": "uid", "item": "iid", "timestamp": "at", "id": "eid", "features": features, "labels": labels}
    config = {"project": "p", "events": events, **(more or {})}
    (folder / "tokenlake.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return tokenlake.open(folder)


def rows_of(columns: dict[str, str], count: int, step: dt.timedelta) -> pa.Table:
    table = {
        "eid": list(range(count)),
        "uid": [k % 4 for k in range(count)],
        "iid": [k % 5 for k in range(count)],
        "at": pa.array([START + k * step for k in range(count)], MICROS),
    }
    table |= {
        name if kind == "label" else f"source {i}": [value_of(kind, k) for k in range(count)]
        for i, (name, kind) in enumerate(columns.items())
    }
    return pa.table(table)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@given(st.dictionaries(NAMES, st.sampled_from(KINDS), min_size=1, max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_name_works_or_is_refused_at_once(columns: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            lake = opened(Path(folder), columns)
        except ConfigError:
            assert must_be_refused(columns)
            return
        assert not must_be_refused(columns)
        table = rows_of(columns, 12, dt.timedelta(hours=5))
        assert lake.ingest(table).accepted == 12
        assert lake.ingest(table).duplicates == 12
        for name, kind in columns.items():
            found = lake.sql(f"select {quoted(name)} from events order by event_id").fetchall()
            assert [value for (value,) in found] == [value_of(kind, k) for k in range(12)]
        # The user's rows are 1, 5, 9 at 5, 25 and 45 hours.
        before = lake.sql("select event_id, * from events_before(1, '2024-01-02 12:00:00', n := 2)")
        assert [row[0] for row in before.fetchall()] == [1, 5]
        for name, kind in columns.items():
            found = lake.sql(f"select {quoted(name)} from events_before($user, '2025-01-01')", {"user": 1}).fetchall()
            assert [value for (value,) in found] == [value_of(kind, k) for k in (1, 5, 9)]
        assert lake.sql("from tokens_before(1, now())").fetchall() == []
        labels = sum(kind == "label" for kind in columns.values())
        assert lake.sql("select count(value) from labels").fetchall() == [(12 * labels,)]


@pytest.mark.slow
def test_our_own_sql_stays_right_beside_columns_called_as_its_words(tmp_path: Path) -> None:
    """Every saved query gives what it gives in a lake with plain names."""
    answers = []
    for i, prefix in enumerate(("", "plain_")):
        (folder := tmp_path / str(i)).mkdir()
        words = [prefix + word for word in IN_SQL if not must_be_refused({word: "numeric", "clicked": "label"})]
        columns = dict.fromkeys(words, "numeric") | {"clicked": "label"}
        lake = opened(folder, columns)
        lake.ingest(rows_of(columns, 12, dt.timedelta(hours=5)))
        found = {name: lake.sql(query.sql, query.bind()).fetchall() for name, query in tokenlake_sql.queries().items()}
        found |= {macro: lake.sql(f"from {macro}()").fetchall() for macro in ("by_day", "freshness", "index_versions")}
        found["known"] = lake.sql(
            "select known(clicked, clicked_known_at, '2024-01-02') from events order by event_id"
        ).fetchall()
        answers.append(found)
    assert answers[0] == answers[1]


def must_be_refused(columns: dict[str, str]) -> bool:
    """Whether a table would have two columns of one name, or one that SQL cannot quote."""
    own = {"event_id", "user_id", "item_id", "timestamp", "ds", "ingested_at"}
    of_tokens = {"token", "version", "checkpoint"}
    names = [folded(name) for name in columns]
    labels = [folded(name) for name, kind in columns.items() if kind == "label"]
    names += [f"{label}_known_at" for label in labels]
    return (
        any(not name or "\0" in name for name in columns)
        or len(set(names)) < len(names)
        or not own.isdisjoint(names)
        or not of_tokens.isdisjoint(labels)
    )


TOKENS = {
    "chunk_days": 2,
    "encoders": {"iat": {"dim": 8, "width": 16, "embedding": 4, "sit_layers": 1, "sit_heads": 1, "batch": 32}},
}
EMBEDDINGS = {"dim": 8, "width": 8, "heads": 1, "queries": 2, "batch": 16, "passes": 1, "code_levels": 2, "codes": 4}
NASTY = {
    "items": "vector", "values": "vector", "training": "vector", "a.b": "vector", "a": "vector", "v": "vector", "v#0": "categorical",
    "*": "multi", "**": "multi", "b.keys": "multi", "b": "multi", "forward": "categorical", "user": "categorical", "t": "numeric",
    "n": "numeric", "events": "numeric", "events_": "categorical", "position": "numeric", "version": "categorical",
    "scale": "label", "tokens": "label", "timestamps": "label", "x": "label", "x_known": "label", "user_id_known": "label",
    "it's \"q\" [/b]": "label",
}  # fmt: skip


def trained(folder: Path, names: dict[str, str], *, of_item: bool = True) -> Lake:
    folder.mkdir()
    rows = rows_of(names, 72, dt.timedelta(hours=2))
    lake = opened(folder, names, {"tokens": TOKENS, "embeddings": EMBEDDINGS})
    if of_item:
        text = lake.file.read_text(encoding="utf-8")
        lake.file.write_text(text.replace("kind:", "of: item\n      kind:"), encoding="utf-8")
        lake = tokenlake.open(folder)
    assert lake.ingest(rows).accepted == 72
    lake.backfill()
    return lake


def test_training_takes_any_names_and_makes_the_same_tokens(tmp_path: Path) -> None:
    """Names change nothing but names: tokens, embeddings and answers are those of a lake with plain ones."""
    plain_names = {f"plain_{i:02d}": kind for i, kind in enumerate(NASTY.values())}
    nasty, plain = trained(tmp_path / "nasty", NASTY), trained(tmp_path / "plain", plain_names)
    columns = ["event_id", "user_id", "timestamp", "token"]
    assert nasty.instance_tokens.read(columns=columns).equals(plain.instance_tokens.read(columns=columns))
    for table in ("user_embeddings", "item_embeddings"):
        left, right = (getattr(lake, table).read(columns=["embedding", "ds"]) for lake in (nasty, plain))
        assert left.equals(right)
    labels = [(name, other) for name, other in zip(NASTY, plain_names, strict=True) if NASTY[name] == "label"]
    ours, theirs = (lake.tokens().fetch([0, 1], before="2024-02-01") for lake in (nasty, plain))
    assert ours.values.tobytes() == theirs.values.tobytes()
    for name, other in labels:
        assert ours.side[name].tolist() == theirs.side[other].tolist()
        assert ours.known[name].tolist() == theirs.known[other].tolist()
        asked = [
            lake.sql(f"select {quoted(column)} from tokens_before(1, '2024-01-03 12:00')").fetchall()
            for lake, column in ((nasty, name), (plain, other))
        ]
        assert asked[0] == asked[1]
    assert {name for (name,) in nasty.sql("select distinct label from predictions").fetchall()} == {
        n for n, _ in labels
    }
    for command in (["fetch", "1", "--before", "2024-02-01"], ["evaluate", "--no-controls"], ["status"]):
        done = CliRunner().invoke(app, [command[0], str(nasty.root), *command[1:]], catch_exceptions=False)
        assert done.exit_code == 0, done.output


def test_a_log_without_labels_may_call_a_feature_as_its_own_label(tmp_path: Path) -> None:
    names = {"observed": "categorical", "observed__known_at": "numeric", "events": "numeric", "items": "vector"}
    nasty = trained(tmp_path / "nasty", names)
    plain = trained(tmp_path / "plain", {f"plain_{i}": kind for i, kind in enumerate(names.values())})
    columns = ["event_id", "token"]
    assert nasty.instance_tokens.read(columns=columns).equals(plain.instance_tokens.read(columns=columns))
    assert nasty.sql("select distinct label from predictions").fetchall() == [("observed__",)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Timestamp": "numeric"}, "the table events would have the columns 'timestamp' and 'Timestamp'"),
        ({"Token": "label"}, "the table instance_tokens would have the columns 'token' and 'Token'"),
        (
            {"a_known_at": "numeric", "A": "label"},
            "the table events would have the columns 'a_known_at' and 'A_known_at'",
        ),
        ({"": "numeric"}, "'' cannot be the name of a column"),
        ({"a\0": "label"}, "cannot be the name of a column"),
    ],
)
def test_what_is_impossible_is_refused_with_the_reason(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        opened(tmp_path, columns)
    assert str(tmp_path / "tokenlake.yaml") in str(caught.value)


def test_capitals_are_those_that_the_lake_began_with(tmp_path: Path) -> None:
    lake = opened(tmp_path, {"Price": "numeric"})
    lake.ingest(rows_of({"Price": "numeric"}, 4, dt.timedelta(hours=1)))
    lake = opened(tmp_path, {"price": "numeric"})
    with pytest.raises(SchemaError, match="events holds a column 'Price', and the config now calls it 'price'"):
        lake.ingest(rows_of({"price": "numeric"}, 8, dt.timedelta(hours=1)))


def test_folders_above_the_lake_are_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "price=3" / "ds=2020-01-01" / "user_id=7" / "version=x"
    folder.mkdir(parents=True)
    columns = {"price": "numeric", "FileName": "categorical", "c": "label"}
    lake = opened(folder, columns)
    assert lake.ingest(rows_of(columns, 8, dt.timedelta(hours=12))).accepted == 8
    found = lake.sql('select event_id, user_id, ds, price, "FileName", c from events order by event_id').fetchall()
    expected = [(k, k % 4, (START + k * dt.timedelta(hours=12)).date(), k / 2, f"c{k % 3}", k % 2) for k in range(8)]
    assert found == expected
    assert lake.sql("select count(*) from events where ds = '2024-01-02'").fetchall() == [(2,)]
    assert lake.sql("select count(*) from events_before(1, '2024-01-03')").fetchall() == [(1,)]


def test_init_guesses_a_config_that_opens(tmp_path: Path) -> None:
    """Of two columns that are one to SQL, and of those called as the lake's own, one is left out."""
    count = 9
    strange = ["unit price", "Unit Price", "a: b", "y", "two\nlines", "#", "{x}", "é\u2028", "ds", "clicked_known_at"]
    table = {"user_id": list(range(count)), "item_id": list(range(count)), "clicked": [k % 2 for k in range(count)]}
    table |= {"time": pa.array([START + k * dt.timedelta(hours=1) for k in range(count)], MICROS)}
    table |= {name: [k + 0.25 for k in range(count)] for name in strange}
    pq.write_table(pa.table(table), tmp_path / "sample.parquet")
    done = CliRunner().invoke(app, ["init", str(tmp_path / "lake"), "--from", str(tmp_path / "sample.parquet")])
    assert done.exit_code == 0, done.output
    lake = tokenlake.open(tmp_path / "lake")
    assert list(lake.config.events.features) == ["unit price", "a: b", "y", "two\nlines", "#", "{x}", "é\u2028"]
    assert list(lake.config.events.labels) == ["clicked"]
    assert lake.ingest(tmp_path / "sample.parquet").accepted == count
