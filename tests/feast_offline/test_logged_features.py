"""What a feature service served, logged through Feast and read back."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService
from feast.feature_logging import LoggingConfig, LoggingDestination
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from tests.feast_offline.repositories import FeatureStore, FileSource, Float32, Int64, entity, repository, view
from tokenlake.errors import ConfigError, SchemaError

NOON = dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def made(folder: Path, partition_by: list[str] | None) -> tuple[FeatureStore, FeatureService]:
    times = pa.array([NOON], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"driver": [1], "ts": times, "x": [1], "z": pa.array([0.5], pa.float32())}), folder / "s.parquet"
    )
    driver = entity("driver")
    plain = view(
        "plain", FileSource(path=str(folder / "s.parquet"), timestamp_field="ts"), [driver], {"x": Int64, "z": Float32}
    )
    config = LoggingConfig(FileLoggingDestination(path="logs", partition_by=partition_by))
    service = FeatureService(name="service", features=[plain], logging_config=config)
    store = repository(folder / "repo", [driver, plain, service])
    store.materialize(NOON - DAY, NOON + DAY)
    return store, service


def served(store: FeatureStore, service: FeatureService, at: dt.datetime) -> pa.Table:
    """What the service serves of two drivers, of whom one is unknown, as Feast's servers log it."""
    found = store.get_online_features(service, [{"driver": 1}, {"driver": 2}]).proto
    names = found.metadata.feature_names.val
    columns: dict[str, Any] = {"driver": pa.array([1, 2])}
    for name, vector in zip(names, found.results, strict=True):
        if name == "driver":
            continue
        kind = {"x": pa.int64(), "z": pa.float32()}[name]
        values = [
            getattr(value, str(value.WhichOneof("val"))) if value.WhichOneof("val") else None for value in vector.values
        ]
        columns[f"plain__{name}"] = pa.array(values, kind)
        stamps = [stamp.ToDatetime(dt.UTC) for stamp in vector.event_timestamps]
        columns[f"plain__{name}__timestamp"] = pa.array(stamps, pa.timestamp("s", "UTC"))
        columns[f"plain__{name}__status"] = pa.array(list(vector.statuses), pa.int32())
    columns["__log_timestamp"] = pa.array([at, at + DAY], pa.timestamp("us", "UTC"))
    columns["__log_date"] = pa.array([at.date(), (at + DAY).date()])
    columns["__request_id"] = pa.array(["a", "b"])
    return pa.table(columns)


@pytest.mark.parametrize("partition_by", [None, ["__log_date"]])
@pytest.mark.parametrize("through", ["table", "file"])
def test_what_is_logged_is_read_back(tmp_path: Path, partition_by: list[str] | None, through: str) -> None:
    store, service = made(tmp_path, partition_by)
    service = store.get_feature_service("service")
    batches = [served(store, service, NOON + i * 4 * DAY) for i in range(2)]
    for i, batch in enumerate(batches):
        (tmp_path / str(i)).mkdir()
        pq.write_table(batch, tmp_path / str(i) / "part.parquet")
        store.write_logged_features(batch if through == "table" else tmp_path / str(i), service)
    assert (tmp_path / "repo" / "logs").is_dir(), "relative to the repository"

    def read(start: dt.datetime, end: dt.datetime) -> pd.DataFrame:
        job = store.provider.retrieve_feature_service_logs(service, start, end, store.config, store.registry)
        return job.to_df().sort_values("__log_timestamp").reset_index(drop=True)

    whole = read(NOON - DAY, NOON + 9 * DAY)
    wanted = pa.concat_tables(batches).to_pandas()
    assert len(whole) == 4
    for name in ("driver", "plain__x", "plain__z", "plain__x__status", "__request_id"):
        pd.testing.assert_series_equal(whole[name], wanted[name], check_dtype=False)
    assert whole["plain__x__status"].tolist() == [FieldStatus.PRESENT, FieldStatus.NOT_FOUND] * 2
    assert pd.to_datetime(whole["__log_timestamp"]).tolist() == wanted["__log_timestamp"].tolist()
    assert whole["__log_date"].astype(str).tolist() == wanted["__log_date"].astype(str).tolist()
    assert pd.to_datetime(whole["plain__x__timestamp"])[0] == pd.Timestamp(NOON)
    assert read(NOON + DAY, NOON + 4 * DAY)["__log_timestamp"].tolist() == [NOON + DAY, NOON + 4 * DAY]


def test_what_cannot_be_logged_is_refused(tmp_path: Path) -> None:
    store, service = made(tmp_path, None)
    batch = served(store, service, NOON)
    with pytest.raises(SchemaError, match=r"no columns \['plain__z'\]"):
        store.write_logged_features(batch.drop_columns(["plain__z"]), service)
    other = batch.drop_columns(["plain__x"]).append_column("plain__x", pa.array(["one", "two"]))
    with pytest.raises(SchemaError, match="expected"):
        store.write_logged_features(other, service)

    class Elsewhere(LoggingDestination):
        pass

    service.logging_config = LoggingConfig(Elsewhere())
    with pytest.raises(ConfigError, match="Elsewhere given"):
        store.write_logged_features(batch, service)
    assert not (tmp_path / "repo" / "logs").exists()
