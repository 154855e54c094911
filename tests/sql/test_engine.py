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
