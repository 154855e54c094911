"""`TokenlakeOnlineStore`: an online store for Feast on memory-mapped files.

Each feature view has a table with its newest values (`table`); views over a `TokenSource` are served from the lake's
token store (`tokens`). `docs/feast-online-store.md` describes the semantics.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig, utils
from feast.filter_models import ComparisonFilter, CompoundFilter
from feast.infra.infra_object import InfraObject
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel
from pydantic import StrictStr

from tokenlake.config import FILE_NAME
from tokenlake.errors import ConfigError, SchemaError
from tokenlake.feast.kinds import source_of, tokens_of
from tokenlake.feast.online import encode, response, wire
from tokenlake.feast.online.files import OnlineRows
from tokenlake.feast.online.keys import of_columns, of_entity
from tokenlake.feast.online.search import LakeIndex, Vectors, distances, metric_of, nearest, vector_field
from tokenlake.feast.online.table import KeyValues, OnlineTable
from tokenlake.feast.online.tokens import TokenStores, user_ids
from tokenlake.feast.sources import LakeSource
from tokenlake.times import EARLIEST, as_micros

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)
#: Entity key, feature values, event time, created time.
Row = tuple[EntityKeyProto, dict[str, ValueProto], dt.datetime, dt.datetime | None]
Progress = Callable[[int], Any]


class TokenlakeOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store:` of a `feature_store.yaml`.

    Attributes:
        type: `tokenlake.feast.TokenlakeOnlineStore`.
        path: folder of the store's files, relative to the repo's.
        lake: folder or `tokenlake.yaml` of the lake, relative to the repo's folder; for views over tokens, and for
            its FAISS index. Defaults to the parent folder of the repo, if that is a lake.
    """

    type: Literal["tokenlake.feast.TokenlakeOnlineStore", "tokenlake.feast.online.TokenlakeOnlineStore"] = (
        "tokenlake.feast.TokenlakeOnlineStore"
    )
    path: StrictStr = "data/online"
    lake: StrictStr | None = None


class TokenlakeOnlineStore(OnlineStore):
    """The newest values, in memory-mapped files, for many readers and writers in any number of processes."""

    def __init__(self) -> None:
        self._tables: dict[Path, OnlineTable] = {}
        self._lakes: dict[Path, TokenStores] = {}
        self._indexes: dict[Path, LakeIndex] = {}
        self._vectors: dict[Path, Vectors] = {}

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes are asynchronous: they run in a thread, so the event loop never waits for a disk."""
        return SupportedAsyncMethods(read=True, write=True)

    def _is_versioned_read_supported(self) -> bool:
        return True  # a version of a view is a table of its own

    # Writing.

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Progress | None
    ) -> None:
        """Keep the newest value of each entity and feature; durable when it returns.

        Args:
            config: the feature store's configuration.
            table: the feature view.
            data: entity key, values, event time and created time of each row; naive times are UTC.
            progress: called once with the number of rows written.

        Raises:
            LockedError: other processes kept the view locked for too long.
            StorageError: the disk is full or not writable; nothing was written.
            SchemaError: a row without an event time; nothing was written.
        """
        if not data:
            return
        if (source := tokens_of(table)) is not None:
            users = user_ids([dict(zip(k.join_keys, k.entity_values, strict=True)) for k, _, _, _ in data])
            self._tokens(config, table).push(
                source, table, [(user, row[1]) for user, row in zip(users, data, strict=True)]
            )
            if progress is not None:
                progress(len(data))
            return
        names = list(dict.fromkeys(name for _, values, _, _ in data for name in values))
        version = config.entity_key_serialization_version
        entities = [dict(zip(key.join_keys, key.entity_values, strict=True)) for key, _, _, _ in data]
        keys = [of_entity(entity, version) for entity in entities]
        columns = {
            name: pa.array(
                [v[name].SerializeToString() if name in v else None for _, v, _, _ in data], pa.large_binary()
            )
            for name in names
        }
        event = [_micros(time) for _, _, time, _ in data]
        if EARLIEST in event:
            raise SchemaError(f"{table.name}: {event.count(EARLIEST)} rows without an event time; every row needs one")
        created = [_micros(time) for _, _, _, time in data]
        rows = OnlineRows(pa.array(keys, pa.large_binary()), as_micros(event), as_micros(created), columns)
        self._table(config, table).write(rows)
        if progress is not None:
            progress(len(data))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Progress | None
    ) -> None:
        """`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def write_arrow(self, config: RepoConfig, view: FeatureView, data: pa.Table | pa.RecordBatch) -> int:
        """Write columns without a Python object per row; a fast `online_write_batch`.

        Args:
            config: the feature store's configuration.
            view: the feature view.
            data: a column for each join key and feature, by their names in the view, and the source's event and
                created timestamps.

        Returns:
            Number of rows written; 0 for a view over token sequences, which is served from the token store.

        Raises:
            SchemaError: a column is missing, has a wrong type, or has a null that is not allowed.
            ConfigError: the repo's serialization of entity keys is not version 3.
        """
        if tokens_of(view) is not None:
            return 0
        if config.entity_key_serialization_version != 3:
            raise ConfigError(
                f"entity_key_serialization_version: {config.entity_key_serialization_version} given; expected 3"
            )
        source = source_of(view)
        if source is None:
            raise SchemaError(f"feature view {view.name!r} has no batch source, and so no event time column")
        types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
        keys = encode.columns_of(data, list(types))
        values = encode.columns_of(data, [field.name for field in view.features])
        times = encode.columns_of(data, [t for t in (source.timestamp_field, source.created_timestamp_column) if t])
        event = encode.micros(times[source.timestamp_field], source.timestamp_field)
        created = as_micros([EARLIEST]).repeat(len(event))
        if source.created_timestamp_column:
            name = source.created_timestamp_column
            created = encode.micros(times[name], name, nulls=EARLIEST)
        encoded: dict[str, pa.LargeBinaryArray] = {}
        rows = OnlineRows(of_columns(keys, types), event, created, encoded)
        with ThreadPoolExecutor(1) as pool:
            indexed = pool.submit(lambda: rows.order)  # takes as long as encoding the values
            for field in view.features:
                encoded[field.name] = encode.encode_values(values[field.name], field.dtype.to_value_type())
            indexed.result()
        self._table(config, view).write(rows)
        return len(rows)

    # Reading.

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[dt.datetime | None, dict[str, ValueProto] | None]]:
        """The newest values of each entity, and their event time; (None, None) for an entity without values.

        Raises:
            CorruptionError: a checksum does not match.
        """
        names = requested_features if requested_features is not None else [field.name for field in table.features]
        entities = [dict(zip(key.join_keys, key.entity_values, strict=True)) for key in entity_keys]
        found = self._found(config, table, entities, names)
        return [
            (None, None)
            if row is None
            else (_instant(row.event), {name: ValueProto.FromString(wire.whole(v)) for name, v in row.values.items()})
            for row in found
        ]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[dt.datetime | None, dict[str, ValueProto] | None]]:
        """`online_read`, in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, list[ValueProto]],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,  # noqa: FBT001  # Feast's signature
        include_feature_view_version_metadata: bool,  # noqa: FBT001  # Feast's signature
    ) -> None:
        """Feast's hook for bulk reads: builds the response from wire bytes."""
        for view, names in grouped_refs:
            entities, places, count = utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            found = self._found(config, view, entities, names)
            response.describe(
                online_features_response, view, names, full_feature_names, include_feature_view_version_metadata
            )
            response.respond(online_features_response, names, found, places, count)
            response.count(view, found, places, len(names) * count)

    async def _read_features_per_fv_async(self, *given: Any, **named: Any) -> None:
        await asyncio.to_thread(self._read_features_per_fv, *given, **named)

    def _found(
        self, config: RepoConfig, view: FeatureView, entities: Sequence[Mapping[str, ValueProto]], names: Sequence[str]
    ) -> Sequence[KeyValues | None]:
        if (source := tokens_of(view)) is not None:
            return self._tokens(config, view).read(source, view, user_ids(entities), names)
        keys = [of_entity(entity, config.entity_key_serialization_version) for entity in entities]
        return self._table(config, view).read(keys, names)

    # Search.

    def retrieve_online_documents_v2(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],
        embedding: list[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: ComparisonFilter | CompoundFilter | None = None,
        include_feature_view_version_metadata: bool = False,  # noqa: FBT001, FBT002  # Feast's signature
    ) -> list[tuple[dt.datetime | None, EntityKeyProto | None, dict[str, ValueProto] | None]]:
        """The entities with the nearest vectors, with `distance` as an additional feature.

        They are sorted by key, not by distance, since Feast pairs entities and features in that order.

        Raises:
            SchemaError: a text query or a filter, which are not supported; a vector of another width than the view's;
                or a view with no or several vector features.
        """
        if embedding is None or query_string is not None or filters is not None:
            raise SchemaError(
                "text queries and filters were given, or no vector; this store finds the nearest vectors only"
            )
        metric = metric_of(distance_metric)
        query = np.asarray(embedding, np.float32)
        found = dict(self._nearest(config, table, query, top_k, metric))
        keys = [deserialize_entity_key(key) for key in found]
        places = sorted(range(len(keys)), key=lambda i: tuple(entity_value(keys[i]).values()))
        names = requested_features or []
        rows = self.online_read(config, table, [keys[i] for i in places], names)
        near = list(found.values())
        return [
            (event, keys[i], {**(values or {}), "distance": ValueProto(float_val=near[i])})
            for i, (event, values) in zip(places, rows, strict=True)
        ]

    def retrieve_online_documents(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str] | None,
        embedding: list[float],
        top_k: int,
        distance_metric: str | None = None,
    ) -> list[
        tuple[dt.datetime | None, EntityKeyProto | None, ValueProto | None, ValueProto | None, ValueProto | None]
    ]:
        """The entities with the nearest vectors, nearest first: event time, key, vector twice, distance.

        Raises:
            SchemaError: a vector of another width than the view's, or a view with no or several vector features.
        """
        name, metric = vector_field(table).name, metric_of(distance_metric)
        near = self._nearest(config, table, np.asarray(embedding, np.float32), top_k, metric)
        keys = [deserialize_entity_key(key) for key, _ in near]
        rows = self.online_read(config, table, keys, [name])
        vectors = [(values or {}).get(name, ValueProto()) for _, values in rows]
        told = [ValueProto(float_val=distance) for _, distance in near]
        events = [event for event, _ in rows]
        return list(zip(events, keys, vectors, vectors, told, strict=True))

    def _nearest(
        self, config: RepoConfig, view: FeatureView, query: np.ndarray[Any, Any], count: int, metric: str
    ) -> list[tuple[bytes, float]]:
        field, table = vector_field(view), self._table(config, view)
        source, lake = source_of(view), _lake_of(config)
        if lake is not None and isinstance(source, LakeSource) and len(view.entity_columns) == 1:
            near = self._indexes.setdefault(lake, LakeIndex(lake)).near(source, query, count)
            if near is not None:
                (column,) = view.entity_columns
                ids, vectors = near
                keys = of_columns({column.name: ids}, {column.name: column.dtype.to_value_type()})
                held = table.read(keys.to_pylist(), [field.name])
                told = encode.encode_values(_lists(vectors), field.dtype.to_value_type()).to_pylist()
                # The index holds one day's vectors; if the table holds another day's, the table is searched.
                if all(h is not None and h.values.get(field.name) == (t,) for h, t in zip(held, told, strict=True)):
                    return nearest(keys, distances(vectors, query, metric), count)
        keys, vectors = self._vectors.setdefault(table.folder, Vectors()).of(table, field.name)
        if len(keys) and vectors.shape[1] != len(query):
            raise SchemaError(f"a vector of {len(query)} numbers given; those of {view.name!r} have {vectors.shape[1]}")
        return nearest(keys, distances(vectors, query, metric), count) if len(keys) else []

    # Tables.

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,  # noqa: FBT001  # Feast's signature
    ) -> None:
        """Remove the data of deleted views; a new view's table is created at its first write."""
        for view in tables_to_delete:
            self._table(config, view).drop()

    def plan(self, config: RepoConfig, desired_registry_proto: RegistryProto) -> list[InfraObject]:
        """An empty list: files need no infrastructure, and `update` removes tables."""
        return []

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the data of these views."""
        for view in tables:
            self._table(config, view).drop()

    def _tokens(self, config: RepoConfig, view: FeatureView) -> TokenStores:
        if (lake := _lake_of(config)) is None:
            raise ConfigError(f"view {view.name!r} reads token sequences; set `lake:` of online_store to their lake")
        return self._lakes.get(lake) or self._lakes.setdefault(lake, TokenStores(lake))

    def _table(self, config: RepoConfig, view: FeatureView) -> OnlineTable:
        name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        root = Path(config.online_store.path)
        if config.repo_path is not None:
            root = Path(config.repo_path) / root
        folder = root / quote(config.project, safe="") / quote(name, safe="")
        return self._tables.setdefault(folder, OnlineTable(folder))


def _lake_of(config: RepoConfig) -> Path | None:
    """The lake of the config, else the repo's parent folder if it is a lake; else None."""
    root, lake = Path(config.repo_path or "."), config.online_store.lake
    if lake is not None:
        return (root / str(lake)).resolve()
    return root.resolve().parent if (root / ".." / FILE_NAME).exists() else None


def _lists(vectors: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _micros(time: Any) -> int:
    if time is None or time is pd.NaT:  # Feast passes pandas' missing times
        return EARLIEST
    return int(((time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICRO)


def _instant(micros: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=micros)


def entity_value(key: EntityKeyProto) -> Mapping[str, Any]:
    """Join key -> plain value."""
    return {
        name: getattr(value, value.WhichOneof("val"))
        for name, value in zip(key.join_keys, key.entity_values, strict=True)
    }
