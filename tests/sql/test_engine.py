from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest
import sqlalchemy as sa

from tests.sql.events import DAY, an_event, rows_of
from tokenlake._lake import Lake
from tokenlake.errors import ForbiddenError


def test_select_with_parameters(lake: Lake) -> None:
    with lake.engine().connect() as connection:
        query = sa.text("select user_id, count(*) as n from events where ds >= :day group by 1 order by 1")
        assert connection.execute(query, {"day": DAY + dt.timedelta(1)}).all() == [(1, 6), (2, 6)]


def test_reflection_of_every_view(lake: Lake) -> None:
    engine = lake.engine()
    inspector = sa.inspect(engine)
    views = set(inspector.get_view_names())
    assert {"events", "instance_tokens", "predictions", "quarantine", "runs", "plans", "serving_tokens"} <= views
    for name in ("events", "instance_tokens", "predictions", "quarantine"):
        columns = [column["name"] for column in inspector.get_columns(name)]
        assert columns == getattr(lake, name).schema.names
    metadata = sa.MetaData()
    metadata.reflect(engine, views=True, only=["events", "instance_tokens"])
    tokens = metadata.tables["instance_tokens"]
    assert isinstance(metadata.tables["events"].c.timestamp.type, sa.TIMESTAMP)
    assert isinstance(tokens.c.user_id.type, sa.BigInteger)
    with engine.connect() as connection:
        query = sa.select(tokens.c.token, tokens.c.clicked).where(
            tokens.c.event_id == 3, tokens.c.version == lake.resolve()
        )
        assert connection.execute(query).all() == [([1.0, 3.0], 1)]


def test_list_columns_reflect_as_lists(lake: Lake) -> None:
    columns = {column["name"]: column["type"] for column in sa.inspect(lake.engine()).get_columns("events")}
    tags, image = columns["tags"], columns["image"]
    assert isinstance(tags, sa.ARRAY)
    assert isinstance(tags.item_type, sa.String)
    assert isinstance(image, sa.ARRAY)
    assert isinstance(image.item_type, sa.Float)


def test_pandas_reads_it(lake: Lake) -> None:
    frame = pd.read_sql("select ds, count(*) as n from events group by 1 order by 1", lake.engine())
    assert frame["n"].tolist() == [6, 6, 6]


def test_it_sees_the_newest_commit(lake: Lake) -> None:
    with lake.engine().connect() as connection:
        assert connection.execute(sa.text("select count(*) from events")).scalar() == 18
        lake.events.append(rows_of(lake.events.schema, [an_event(9, 900, DAY, 0)]))
        assert connection.execute(sa.text("select count(*) from events")).scalar() == 19


def test_two_results_at_once(lake: Lake) -> None:
    with lake.engine().connect() as connection:
        first = connection.execute(sa.text("from range(5)"))
        assert first.fetchone() == (0,)
        assert connection.execute(sa.text("select 7")).scalar() == 7
        assert [row[0] for row in first] == [1, 2, 3, 4]


def test_orm_writes_are_forbidden(lake: Lake) -> None:
    table = sa.table("runs", sa.column("id"))
    with lake.engine().connect() as connection:
        for statement in (table.insert().values(id=1), table.update().values(id=1), table.delete()):
            with pytest.raises(ForbiddenError):
                connection.execute(statement)
        with pytest.raises(ForbiddenError, match="register is not part"):
            connection.exec_driver_sql("register", ("x", pd.DataFrame({"a": [1]})))
    with pytest.raises(ForbiddenError):
        sa.MetaData().create_all(lake.engine(), tables=[sa.Table("x", sa.MetaData(), sa.Column("a", sa.Integer))])


def test_what_a_bi_tool_asks(lake: Lake) -> None:
    """The calls with which such tools draw up their lists, and the forms that they put a question in."""
    engine = lake.engine()
    inspector = sa.inspect(engine)
    assert "memory.main" in inspector.get_schema_names()
    assert inspector.get_table_names() == []
    assert inspector.get_view_names(schema="main") == inspector.get_view_names()
    assert (inspector.has_table("events"), inspector.has_table("nowhere")) == (True, False)
    assert inspector.get_pk_constraint("events")["constrained_columns"] == []
    assert inspector.get_indexes("events") == inspector.get_foreign_keys("events") == []
    assert "CREATE VIEW events" in (inspector.get_view_definition("events") or "")
    raw = engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute(
        "SELECT * FROM (SELECT ds, count(*) AS n FROM events GROUP BY 1) AS virtual_table ORDER BY 1 LIMIT 2"
    )
    assert [column[0] for column in cursor.description or ()] == ["ds", "n"]
    assert cursor.fetchall() == [(DAY, 6), (DAY + dt.timedelta(1), 6)]
    raw.close()
    events = sa.Table("events", sa.MetaData(), autoload_with=engine)
    week = sa.func.date_trunc("week", events.c.timestamp).label("week")
    with engine.connect() as connection:
        query = sa.select(week, sa.func.count().label("n")).group_by(sa.text("week")).order_by(sa.desc("n")).limit(10)
        assert [n for _, n in connection.execute(query)] == [18]
        assert connection.execute(sa.text("from range(5)")).fetchmany(2) == [(0,), (1,)]


def test_a_connection_keeps_what_it_made(lake: Lake) -> None:
    engine = lake.engine()
    with engine.connect() as one, engine.connect() as other:
        one.execute(sa.text("create temp table mine as select count(*) as n from events"))
        one.execute(sa.text("set timezone = 'Europe/Berlin'"))
        assert one.execute(sa.text("from mine")).all() == [(18,)]
        assert other.execute(sa.text("select current_setting('TimeZone')")).scalar() == "UTC"
        with pytest.raises(sa.exc.DBAPIError, match="mine does not exist"):
            other.execute(sa.text("from mine"))


def test_every_view_is_reflected_and_read_by_pandas(lake: Lake) -> None:
    engine, metadata = lake.engine(), sa.MetaData()
    metadata.reflect(engine, views=True)
    for name in ("events", "runs", "serving_tokens", "labels", "user_statistics"):
        frame = pd.read_sql_table(name, engine)
        assert list(frame.columns) == [column.name for column in metadata.tables[name].columns]
    asked = sa.text("select event_id from events where user_id = :user and ds = :day order by 1")
    frame = pd.read_sql(asked, engine, params={"user": 1, "day": DAY})
    assert frame["event_id"].tolist() == [0, 2, 4]
