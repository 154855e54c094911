"""The daily job over every kind of view: what `feast materialize` brings online, each view failing for itself."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, RepoConfig
from feast.infra.registry.sql import SqlRegistry
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import tokenlake
from tests.fixtures.feast_lakes import setting, store_of
from tests.fixtures.lakes import day, make_lake
from tokenlake._lake import Lake
from tokenlake.errors import ConfigError, ServiceError
from tokenlake.feast import repository
from tokenlake.feast.apply import load
from tokenlake.feast.materialize import close
from tokenlake.pipeline import jobs
from tokenlake.pipeline.materialization import is_current, materialized_until
from tokenlake.times import available_at

pytestmark = [
    # Feast says so of most of these kinds.
    pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*experimental.*:UserWarning"),
]
OURS = '{type: tokenlake.feast.TokenlakeOnlineStore, lake: .., path: "../feature_store/online"}'
START = dt.datetime.combine(day(0), dt.time(), dt.UTC)
US = pa.timestamp("us", "UTC")

HEAD = """
import datetime as dt
import pandas as pd
from feast import (BatchFeatureView, Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView, PushSource,
    StreamFeatureView, ValueType)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
place = "{rows}"
file = FileSource(name="file", path=place, timestamp_field="at")
made = FileSource(name="made", path=place, timestamp_field="at", created_timestamp_column="made")
mapped = FileSource(name="mapped", path=place, timestamp_field="moment", field_mapping={{"x": "z", "at": "moment"}})
push = PushSource(name="push", batch_source=file)
key, x, z = Field(name="buyer_id", dtype=Int64), Field(name="x", dtype=Float64), Field(name="z", dtype=Float64)
twice = Field(name="twice", dtype=Float64)
plain = FeatureView(name="plain", entities=[buyer], schema=[key, x], source=file)
"""
#: Views that Feast's engine materializes.
VIEWS = """
expiring = FeatureView(name="expiring", entities=[buyer], schema=[key, x], source=made, ttl=dt.timedelta(hours=1))
renamed = FeatureView(name="renamed", entities=[buyer], schema=[key, z], source=mapped)
everyone = FeatureView(name="everyone", entities=[], schema=[x], source=file)
pushed = FeatureView(name="pushed", entities=[buyer], schema=[key, x], source=push)
kept = FeatureView(name="kept", entities=[buyer], schema=[key, x], source=file, online=False)
disabled = FeatureView(name="disabled", entities=[buyer], schema=[key, x], source=file, enabled=False)
checked = FeatureView(name="checked", entities=[buyer], schema=[key, x], source=file, enable_validation=True)
same = BatchFeatureView(name="same", entities=[buyer], schema=[key, x], source=file, online=True)
streamed = StreamFeatureView(name="streamed", entities=[buyer], schema=[key, x], timestamp_field="at", source=push)
all_streamed = StreamFeatureView(name="all_streamed", entities=[], schema=[x], timestamp_field="at", source=push)
tenfold = BatchFeatureView(name="tenfold", entities=[buyer], schema=[key, x], source=made, mode="pandas", online=True,
    udf=lambda rows: rows.assign(x=rows.x * 10), udf_string="tenfold")
new = BatchFeatureView(name="new", entities=[buyer], schema=[key, z], source=file, mode="python", online=True,
    udf=lambda rows: rows.assign(z=rows.x - 1), udf_string="new")
changed = BatchFeatureView(name="changed", entities=[buyer], schema=[key, z], source=mapped, mode="pandas", online=True,
    udf=lambda rows: rows.assign(z=rows.z + 1), udf_string="changed")
all_tenfold = BatchFeatureView(name="all_tenfold", entities=[], schema=[x], source=file, mode="pandas", online=True,
    udf=lambda rows: rows.assign(x=rows.x * 10), udf_string="tenfold")
stream_tenfold = StreamFeatureView(name="stream_tenfold", entities=[buyer], schema=[key, x], source=push, mode="pandas",
    udf=lambda rows: rows.assign(x=rows.x * 10), udf_string="tenfold")
derived = BatchFeatureView(name="derived", entities=[buyer], schema=[key, x], source=[same], sink_source=file,
    mode="pandas", online=True, udf=lambda rows: rows.assign(x=rows.x * 3), udf_string="derived")


@on_demand_feature_view(sources=[plain], schema=[twice], mode="pandas", entities=[buyer], write_to_online_store=True)
def doubled(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({{"twice": rows.x * 2}})


by_python = OnDemandFeatureView(name="by_python", sources=[kept], schema=[twice], mode="python", entities=[buyer],
    write_to_online_store=True, udf_string="twice",
    udf=lambda rows: {{"twice": [None if value is None else value * 2 for value in rows["x"]]}})
of_batch = OnDemandFeatureView(name="of_batch", sources=[tenfold], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="twice", udf=lambda rows: pd.DataFrame({{"twice": rows.x * 2}}))
at_read = OnDemandFeatureView(name="at_read", sources=[plain], schema=[twice], mode="pandas", udf_string="twice",
    udf=lambda rows: pd.DataFrame({{"twice": rows.x * 2}}))
service = FeatureService(name="service", features=[tenfold, doubled])
"""
NAMES = dict.fromkeys(("renamed", "new", "changed"), "z") | dict.fromkeys(
    ("doubled", "by_python", "of_batch", "at_read"), "twice"
)
ALL = ["plain", *(line.partition(" ")[0] for line in VIEWS.splitlines() if " = " in line[:20] and line[0] != " ")]
READ = [name for name in [*ALL, "doubled"] if name not in ("service", "kept", "disabled")]
BUYERS = [1, 2, 3]
#: buyer, hour, hour of creation, x.
Row = tuple[int, int, int, float | None]


def write(path: Path, rows: list[Row]) -> None:
    table = pa.table(
        {
            "buyer_id": pa.array([r[0] for r in rows], pa.int64()),
            "at": pa.array([START + dt.timedelta(hours=r[1]) for r in rows], US),
            "made": pa.array([START + dt.timedelta(hours=r[2]) for r in rows], US),
            "x": pa.array([r[3] for r in rows], pa.float64()),
        }
    )
    pq.write_table(table, path, row_group_size=3)


def lake_of(folder: Path, rows: list[Row], views: str, online: str | None = None) -> Lake:
    """A lake without events, and a repository of views over one file."""
    lake = make_lake(folder)
    write(folder / "rows.parquet", rows)
    repository.write(folder)
    define(lake, views)
    if online:
        setting(folder, "online_store", online)
    return tokenlake.open(folder)


def define(lake: Lake, views: str) -> None:
    text = (HEAD + views).format(rows=lake.root / "rows.parquet")
    (lake.root / "feature_repo" / "definitions.py").write_text(text)


def values(store: FeatureStore, names: Iterable[str]) -> dict[str, Any]:
    """What is served of each view, given by its name or as `view:feature`."""
    asked = [{"buyer_id": buyer} for buyer in BUYERS]
    found = {}
    for name in names:
        view, _, feature = name.partition(":")
        feature = feature or NAMES.get(view, "x")
        found[name] = store.get_online_features([f"{view}:{feature}"], asked).to_dict()[feature]
    return found


def served(lake: Lake, names: Iterable[str] = READ) -> dict[str, Any]:
    store = store_of(lake)
    try:
        return values(store, names)
    finally:
        close(store)


def by_feast(lake: Lake, folder: Path, end: dt.datetime) -> FeatureStore:
    """The same definitions, materialized by Feast alone: its stores, its registry, its engine."""
    config = RepoConfig(
        project="reference",
        provider="local",
        repo_path=str(folder),
        registry=str(folder / "registry.db"),
        offline_store={"type": "dask"},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        materialization={"pull_latest_features": True},
        entity_key_serialization_version=3,
    )
    store, own = FeatureStore(config=config), load(lake.root / "feature_repo")
    views = [*own.feature_views, *own.stream_feature_views, *own.on_demand_feature_views]
    store.apply([*own.entities, *views, *own.feature_services])
    store.materialize(START - dt.timedelta(days=1), end)
    return store


def feasts_answer(lake: Lake, folder: Path) -> dict[str, Any]:
    """What Feast alone serves of all views after three days."""
    folder.mkdir()
    reference = by_feast(lake, folder, START + dt.timedelta(days=3))
    try:
        return values(reference, READ)
    finally:
        close(reference)


_values = st.one_of(st.none(), st.integers(-5, 5).map(float))
_rows = st.lists(
    st.tuples(st.sampled_from(BUYERS), st.integers(0, 60), st.integers(0, 3), _values),
    min_size=1,
    max_size=9,
    unique_by=(lambda row: row[:2], lambda row: row[1]),
)


# An example takes ten seconds: few are made, and none is spent on shrinking.
@pytest.mark.slow
@settings(max_examples=1, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(_rows, st.sampled_from([None, OURS]))
@example([(1, 0, 0, 1.5), (2, 30, 0, 2.0), (1, 30, 0, 3.0), (2, 49, 0, None), (1, 70, 0, 9.0)][:1], None)
@example([(1, 0, 0, 1.5), (2, 30, 0, 2.0), (1, 31, 1, 3.0), (3, 49, 0, 4.0), (1, 71, 0, 9.0), (1, 80, 0, 99.0)], OURS)
@example([(1, 0, 0, 1.5), (2, 30, 0, 2.0), (1, 31, 1, 3.0), (3, 49, 0, 4.0), (1, 71, 0, 9.0), (1, 80, 0, 99.0)], None)
def test_the_job_leaves_what_feast_would(rows: list[Row], online: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = lake_of(folder / "lake", rows, VIEWS, online)
        for i in (0, 2, 1):  # by days, one of them again
            done = jobs.materialize(lake, day(i))
        ours = served(lake)
        # Feast's own answer was once seen to lack one view's value, and had it in every run after: it is asked again.
        assert any(ours == feasts_answer(lake, folder / f"feast {i}") for i in range(2))
        told = set(done.summary) - {"rows", "computed"}
        assert told == {*READ} - {"at_read"}, "neither those that are kept back, nor those computed at each read"
        computed = "changed, checked, derived, doubled, by_python, of_batch, new, tenfold, all_tenfold, stream_tenfold"
        assert set(str(done.summary["computed"]).split(", ")) == set(computed.split(", "))
        metrics = lake.catalog.metrics("materialized", job="materialize")
        ways = {metric.labels["view"]: metric.labels["way"] for metric in metrics}
        assert {view for view, way in ways.items() if way == "computed"} == set(computed.split(", "))
        assert {view for view, way in ways.items() if way == "copied"} == told - set(computed.split(", "))


def test_a_feature_called_as_its_input_is_the_feature(tmp_path: Path) -> None:
    """Where Feast serves the input, or cannot materialize at all."""
    views = """
doubled = OnDemandFeatureView(name="doubled", sources=[plain], schema=[x], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="twice", udf=lambda rows: pd.DataFrame({{"x": rows.x * 2}}))
streamed = StreamFeatureView(name="streamed", entities=[buyer], schema=[key, x], timestamp_field="at", source=push)
of_stream = OnDemandFeatureView(name="of_stream", sources=[streamed], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="twice", udf=lambda rows: pd.DataFrame({{"twice": rows.x * 2}}))
renamed = FeatureView(name="renamed", entities=[buyer], schema=[key, z], source=mapped)
of_renamed = OnDemandFeatureView(name="of_renamed", sources=[renamed], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="twice", udf=lambda rows: pd.DataFrame({{"twice": rows.z * 2}}))
one_by_one = OnDemandFeatureView(name="one_by_one", sources=[plain], schema=[twice], mode="python", singleton=True,
    entities=[buyer], write_to_online_store=True, udf_string="twice", udf=lambda row: {{"twice": [row["x"] * 2]}})
everyone = FeatureView(name="everyone", entities=[], schema=[x], source=file)
all_twice = OnDemandFeatureView(name="all_twice", sources=[everyone], schema=[twice], mode="pandas",
    write_to_online_store=True, udf_string="twice", udf=lambda rows: pd.DataFrame({{"twice": rows.x * 2}}))
mapped_push = FeatureView(name="mapped_push", entities=[buyer], schema=[key, z],
    source=PushSource(name="mapped_push", batch_source=mapped))
grown = BatchFeatureView(name="grown", entities=[buyer], schema=[key, x], source=file, mode="pandas", online=True,
    offline=True, udf=lambda rows: rows.assign(x=rows.x * 10), udf_string="tenfold")
"""
    rows: list[Row] = [(1, 0, 0, 1.5), (2, 3, 0, 2.5)]
    for online in (None, OURS):
        lake = lake_of(tmp_path / f"{online is None}", rows, views, online)
        before = (lake.root / "rows.parquet").read_bytes()
        for i in (0, 1, 0):
            jobs.materialize(lake, day(i))
        want = {
            "doubled:x": [3.0, 5.0, None],
            "of_stream:twice": [3.0, 5.0, None],
            "of_renamed:twice": [3.0, 5.0, None],
            "one_by_one:twice": [3.0, 5.0, None],
            "all_twice:twice": [5.0] * 3,
            "mapped_push:z": [1.5, 2.5, None],
            "grown:x": [15.0, 25.0, None],
        }
        assert served(lake, want) == want
        assert (lake.root / "rows.parquet").read_bytes() == before, "a source is not fed what was computed of it"


def test_of_several_sources_the_newest_of_each_is_taken(tmp_path: Path) -> None:
    views = """
other = FeatureView(name="other", entities=[buyer], schema=[key, x],
    source=FileSource(name="other", path=place.replace("rows", "others"), timestamp_field="at", tags={{"strict": "true"}}))
both = OnDemandFeatureView(name="both", sources=[plain, other], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="sum", udf=lambda rows: pd.DataFrame({{"twice": rows.plain__x + rows.other__x}}))
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.0), (1, 5, 0, 2.0), (2, 9, 0, 3.0)], views)
    write(tmp_path / "others.parquet", [(1, 3, 0, 10.0), (1, 7, 0, 20.0), (2, 1, 0, 30.0), (3, 1, 0, 40.0)])
    jobs.materialize(lake, day(0))
    assert served(lake, ["both:twice"]) == {"both:twice": [22.0, 33.0, None]}


def test_one_views_failure_is_its_own(tmp_path: Path) -> None:
    views = """
a_bad = BatchFeatureView(name="a_bad", entities=[buyer], schema=[key, x], source=file, mode="pandas", online=True,
    udf=lambda rows: rows.assign(x=rows.nosuch), udf_string="bad")
asking = OnDemandFeatureView(name="asking", sources=[plain], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="bad", udf=lambda rows: pd.DataFrame({{"twice": rows.x if "event_timestamp" not in
    rows else rows.nosuch}}))
tenfold = BatchFeatureView(name="tenfold", entities=[buyer], schema=[key, x], source=file, mode="pandas", online=True,
    udf=lambda rows: rows.assign(x=rows.x * 10), udf_string="tenfold")
z_last = FeatureView(name="z_last", entities=[buyer], schema=[key, x], source=file)
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5)], views)
    with pytest.raises(ConfigError) as caught:
        jobs.materialize(lake, day(0))
    for name in ("a_bad", "asking"):
        assert f"feature view {name}: " in str(caught.value)
    assert "nosuch" in str(caught.value)
    assert "the other 3 views are up to date" in str(caught.value)
    assert served(lake, ["plain", "tenfold", "z_last"]) == {
        "plain": [1.5, None, None],
        "tenfold": [15.0, None, None],
        "z_last": [1.5, None, None],
    }
    (run,) = lake.catalog.runs(job="materialize")
    assert (run.status, run.error_kind) == ("failed", "terminal")
    told = lake.catalog.arrow()["metrics"].to_pylist()
    failed = [metric["labels"] for metric in told if metric["name"] == "failed"]
    assert [json.loads(labels) for labels in failed] == [{"view": "asking"}, {"view": "a_bad"}]
    assert materialized_until(lake) is None
    assert not is_current(lake, day(0))
    define(lake, views.replace("rows.nosuch", "rows.x"))
    assert jobs.materialize(lake, day(0)).status == "done"
    want = {"a_bad:x": [1.5, None, None], "asking:twice": [1.5, None, None]}
    assert served(lake, want) == want
    assert materialized_until(lake) == day(0)


def test_an_on_demand_view_that_feast_refuses_is_named(tmp_path: Path) -> None:
    views = """
asking = OnDemandFeatureView(name="asking", sources=[plain], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="bad", udf=lambda rows: pd.DataFrame({{"twice": rows.nosuch}}))
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5)], views)
    with pytest.raises(ConfigError, match=r"feature view asking: .*nosuch"):
        jobs.materialize(lake, day(0))


def test_what_may_come_back_is_tried_again(tmp_path: Path) -> None:
    """Of several failures one that may pass decides: a scheduler tries again, and what was missed is caught up with."""
    views = """
def away(rows):
    import pathlib
    if pathlib.Path(place.replace("rows", "away")).exists():
        raise ConnectionError("the service is away")
    return rows
flaky = BatchFeatureView(name="flaky", entities=[buyer], schema=[key, x], source=file, mode="pandas", online=True,
    udf=away, udf_string="away")
bad = BatchFeatureView(name="bad", entities=[buyer], schema=[key, x], source=file, mode="pandas", online=True,
    udf=lambda rows: rows.assign(x=rows.nosuch), udf_string="bad")
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5)], views, OURS)
    (tmp_path / "away.parquet").touch()
    with pytest.raises(ServiceError, match=r"(?s)feature view flaky.*") as caught:
        jobs.materialize(lake, day(0))
    assert "feature view bad: " in str(caught.value)
    (run,) = lake.catalog.runs(job="materialize")
    assert run.error_kind == "transient"
    (tmp_path / "away.parquet").unlink()
    with pytest.raises(ConfigError, match="feature view bad: "):
        jobs.materialize(lake, day(0))
    assert served(lake, ["flaky"]) == {"flaky": [1.5, None, None]}


def test_what_feast_could_not_read_back_is_not_registered(tmp_path: Path) -> None:
    """Feast registers such a view, and from then on no call that lists views goes through."""
    views = """
asked = BatchFeatureView(name="asked", entities=[buyer], schema=[key, x], source=file, mode="{mode}", online=True,
    udf=lambda rows: rows, udf_string="asked")
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5)], views.replace("{mode}", "pandas"))
    jobs.materialize(lake, day(0))
    define(lake, views.replace("{mode}", "sql"))
    with pytest.raises(ConfigError, match="feature view asked: Feast cannot read back"):
        jobs.materialize(lake, day(0))
    assert served(lake, ["asked", "plain"]) == {"asked": [1.5, None, None], "plain": [1.5, None, None]}


def test_what_changed_is_registered_also_where_feast_sees_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = """
batch = BatchFeatureView(name="batch", entities=[buyer], schema=[key, x], source=file, mode="pandas", online=True,
    udf=lambda rows: rows.assign(x=rows.x * 2), udf_string="times")
stream = StreamFeatureView(name="stream", entities=[buyer], schema=[key, x], source=push, mode="pandas",
    udf=lambda rows: rows.assign(x=rows.x * 2), udf_string="times")
times = 2
asked = OnDemandFeatureView(name="asked", sources=[plain], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="times", udf=lambda rows: pd.DataFrame({{"twice": rows.x * times}}))
shown = FeatureView(name="shown", entities=[buyer], schema=[key, x], source=file, enabled=True)
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5)], views)
    jobs.materialize(lake, day(0))
    want = {"batch:x": [3.0, None, None], "stream:x": [3.0, None, None], "asked:twice": [3.0, None, None]}
    assert served(lake, want) == want
    gone: list[str] = []
    delete = SqlRegistry.delete_feature_view

    def counted(self: Any, name: str, *more: Any, **named: Any) -> None:
        gone.append(name)
        delete(self, name, *more, **named)

    monkeypatch.setattr(SqlRegistry, "delete_feature_view", counted)
    jobs.materialize(lake, day(0))
    assert gone == [], "nothing changed"
    define(
        lake, views.replace("* 2)", "* 4)").replace("times = 2", "times = 4").replace("enabled=True", "enabled=False")
    )
    done = jobs.materialize(lake, day(0))
    want = {name: [6.0, None, None] for name in want}
    assert served(lake, want) == want
    assert set(gone) <= {"asked", "shown"}, "Feast saw the others"
    assert "shown" not in done.summary
    with pytest.raises(ValueError, match="disabled"):
        served(lake, ["shown"])
    define(lake, views)
    assert "shown" in jobs.materialize(lake, day(0)).summary
    assert served(lake, ["shown"]) == {"shown": [1.5, None, None]}


def test_views_that_only_pushes_fill_are_told_so(tmp_path: Path) -> None:
    views = """
from feast.data_source import RequestSource
request = RequestSource(name="request", schema=[Field(name="extra", dtype=Float64)])
asking = OnDemandFeatureView(name="asking", sources=[plain, request], schema=[twice], mode="pandas", entities=[buyer],
    write_to_online_store=True, udf_string="sum", udf=lambda rows: pd.DataFrame({{"twice": rows.x + rows.extra}}))
"""
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5)], views, OURS)
    done = jobs.materialize(lake, day(0))
    assert done.summary["asking"] == 0
    ways = {m.labels["view"]: m.labels["way"] for m in lake.catalog.metrics("materialized", job="materialize")}
    assert ways == {"plain": "copied", "asking": "pushed"}
    store = store_of(lake)
    row = pd.DataFrame({"buyer_id": [1], "x": [1.0], "extra": [2.0], "at": [START]})
    store.write_to_online_store("asking", df=row)
    close(store)
    jobs.materialize(lake, day(0))
    assert served(lake, ["asking:twice"]) == {"asking:twice": [3.0, None, None]}


def test_a_stream_views_progress_is_kept_and_a_gone_views_values_go(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [(1, 0, 0, 1.5), (2, 26, 0, 2.5)], VIEWS, OURS)
    jobs.materialize(lake, day(0))
    jobs.materialize(lake, day(1))
    store = store_of(lake)
    ends = {view.name: view.most_recent_end_time for view in store.list_stream_feature_views()}
    spans = {view.name: len(view.materialization_intervals) for view in store.list_stream_feature_views()}
    close(store)
    end = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=available_at(day(1)))
    assert ends == dict.fromkeys(["streamed", "all_streamed", "stream_tenfold"], end)
    assert spans == dict.fromkeys(ends, 2)
    (tmp_path / "rows.parquet").unlink()
    write(tmp_path / "rows.parquet", [(3, 50, 0, 3.5)])
    text = VIEWS.partition("by_python = ")
    define(lake, text[0].replace("def doubled", "def renewed"))
    jobs.materialize(lake, day(2))
    define(lake, VIEWS)
    jobs.materialize(lake, day(2))
    found = served(lake, ["doubled", "streamed", "tenfold"])
    assert found["doubled"] == [None, None, 7.0], "what an on-demand view of this name held before is gone"
    assert found["streamed"] == [1.5, 2.5, 3.5]
