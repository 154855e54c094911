"""Feast data sources of the lake: `LakeSource`, one version of a Delta table, and `TokenSource`, token sequences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from feast import type_map
from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from tokenlake.errors import ConfigError, NotFoundError, SchemaError
from tokenlake.tokens.batch import list_columns

if TYPE_CHECKING:
    from tokenlake.lake.project import Project
    from tokenlake.lake.tables import Table

#: Columns of every token source.
USER, TIMESTAMP, TOKENS, TIMESTAMPS = "user_id", "event_timestamp", "tokens", "timestamps"
OWN_COLUMNS = (USER, TIMESTAMP, TOKENS, TIMESTAMPS)


def open_lake(config: RepoConfig) -> Project:
    """Open the lake that `offline_store: {lake: ...}` names, relative to the feature repository; default its parent folder.

    Raises:
        ConfigError: there is no lake.
    """
    from tokenlake.lake.project import Project

    repository = Path(config.repo_path) if config.repo_path is not None else Path()
    given = getattr(config.offline_store, "lake", None)
    path = (repository / (given or "..")).resolve()
    if not (path / "tokenlake.yaml").exists() and path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(
            f"no tokenlake.yaml in {path}; write `lake: FOLDER` under offline_store in feature_store.yaml, relative to "
            "that file"
        )
    return Project.open(path)


def _value_type(name: str) -> ValueType:
    """Feast's value type of an Arrow type name, including dates, which Feast's own mapping lacks."""
    return ValueType.UNIX_TIMESTAMP if name.startswith("date") else type_map.pa_to_feast_value_type(name)


class _SettingsSource(DataSource):
    """Base of both sources: keeps their settings as JSON in Feast's proto."""

    def source_type(self) -> DataSourceProto.SourceType.ValueType:
        """Feast's type for custom sources."""
        return DataSourceProto.CUSTOM_SOURCE

    def _settings(self) -> dict[str, Any]:
        raise NotImplementedError

    def _to_proto_impl(self) -> DataSourceProto:
        settings = json.dumps(self._settings(), sort_keys=True).encode()
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"tokenlake.feast.{type(self).__name__}",
            field_mapping=self.field_mapping,
            custom_options=DataSourceProto.CustomSourceOptions(configuration=settings),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """Maps Arrow's type names to Feast's value types."""
        return _value_type

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)  # type: ignore[no-untyped-call]  # Feast gives it no types
        return bool(same and isinstance(other, type(self)) and self._settings() == other._settings())

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.name))

    def get_table_query_string(self) -> str:
        """Not supported: these sources are not SQL tables.

        Raises:
            SchemaError: always.
        """
        raise SchemaError(f"{self.name} is no SQL table; read it through offline_store: TokenlakeOfflineStore")


class LakeSource(_SettingsSource):
    """One version of a Delta table of the lake.

    Args:
        name: name of the source; defaults to the table's name with the version's.
        table: name of the table, such as `user_embeddings`.
        version: version in a table that has versions; defaults to the version in tokenlake.yaml for embeddings and
            counts, and to the serving version for tokens.
        timestamp_field: column of the time at which a row becomes visible.
        created_timestamp_column: of rows with equal times, the one created last is used.
        field_mapping: column -> feature.
        description: free text.
        tags: with `strict: "true"` a row is visible only strictly after its time.
        owner: free text.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        table: str,
        version: str | None = None,
        timestamp_field: str = "available_at",
        created_timestamp_column: str | None = None,
        field_mapping: dict[str, str] | None = None,
        description: str | None = "",
        tags: dict[str, str] | None = None,
        owner: str | None = "",
    ) -> None:
        self.table = table
        self.version = version
        super().__init__(
            name=name or (table if version is None else f"{table}@{version}"),
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping,
            description=description,
            tags=tags,
            owner=owner,
        )

    def _settings(self) -> dict[str, Any]:
        return {"table": self.table, "version": self.version}

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> LakeSource:
        """What `to_proto` made."""
        return LakeSource(
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
            **json.loads(data_source.custom_options.configuration),
        )

    def open(self, lake: Project) -> tuple[Table, str | None]:
        """Open the table, and resolve the version; None for a table without versions.

        Args:
            lake: whose table it is.

        Returns:
            The table, and a version or None.

        Raises:
            NotFoundError: there is no such table.
            ConfigError: a version was given for a table without versions.
        """
        try:
            table = lake.table(self.table)
        except NotFoundError as error:
            raise NotFoundError(f"{self.name}: {error}") from None
        if "version" not in table.partition_by:
            if self.version is not None:
                raise ConfigError(
                    f"{self.name}: the table {self.table} has no versions, version={self.version!r} given"
                )
            return table, None
        if self.version is not None:
            return table, self.version
        if self.table.startswith(("count_states_", "count_totals_")):
            return table, lake.config.count_version(self.table.split("_", 2)[2])
        return table, lake.config.embedding_version if self.table.endswith("_embeddings") else lake.resolve()

    def validate(self, config: RepoConfig) -> None:
        """Check that the table exists and has the columns that this source names."""
        table, _ = self.open(open_lake(config))
        back = {feature: column for column, feature in self.field_mapping.items()}
        named = [n for n in (self.timestamp_field, self.created_timestamp_column) if n]
        wanted = [*(back.get(n, n) for n in named), *self.field_mapping]
        if missing := [name for name in wanted if name not in table.schema.names]:
            raise SchemaError(f"{self.name}: no columns {missing} in {self.table}; it has {table.schema.names}")

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """The table's columns, in order, with Arrow's type names."""
        table, _ = self.open(open_lake(config))
        return [(field.name, str(field.type)) for field in table.schema]


class TokenSource(_SettingsSource):
    """Token sequences: for each query the last tokens of its user, always strictly before its time.

    The columns are `tokens`, one list of n * dim floats, oldest first; `timestamps`, a list of n times in microseconds
    UTC; and with `side` a list of n values for every side column, and for every label `NAME_known`, whether it was
    known before the query's time. Underscores are appended to a name that is taken already.

    Args:
        name: name of the source; defaults to the stream's name.
        stream: an encoder of tokenlake.yaml, or one of its versions.
        length: most tokens of a query.
        version: a version of the encoder; defaults to its present one.
        side: include side columns and labels.
        available: `realtime`: a token is visible after its event; `daily`: from the next day on.
        field_mapping: column -> feature.
        description: free text.
        tags: free text.
        owner: free text.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        stream: str = "iat",
        length: int = 256,
        version: str | None = None,
        side: bool = True,
        available: Literal["realtime", "daily"] = "realtime",
        field_mapping: dict[str, str] | None = None,
        description: str | None = "",
        tags: dict[str, str] | None = None,
        owner: str | None = "",
    ) -> None:
        if length < 1:
            raise SchemaError(f"length={length}; expected at least 1")
        if available not in ("realtime", "daily"):
            raise SchemaError(f"available={available!r}; expected 'realtime' or 'daily'")
        self.stream, self.length, self.version, self.side, self.available = stream, length, version, side, available
        super().__init__(
            name=name or f"{stream}_tokens",
            timestamp_field=TIMESTAMP,
            field_mapping=field_mapping,
            description=description,
            tags=tags,
            owner=owner,
        )

    def _settings(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("stream", "length", "version", "side", "available")}

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> TokenSource:
        """What `to_proto` made."""
        return TokenSource(
            name=data_source.name,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
            **json.loads(data_source.custom_options.configuration),
        )

    def validate(self, config: RepoConfig) -> None:
        """Check that the lake's config or catalog has the version; its tokens may be missing still."""
        open_lake(config).resolve(self.version or self.stream)

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """The columns of the sequences, with Arrow's type names."""
        lake = open_lake(config)
        labels = list(lake.config.events.labels) if self.side else []
        values, known = list_columns(labels, labels, OWN_COLUMNS)
        user = lake.instance_tokens.schema.field("user_id").type
        columns = [(USER, user), (TIMESTAMP, pa.timestamp("us", "UTC")), (TOKENS, pa.list_(pa.float32()))]
        columns += [(TIMESTAMPS, pa.list_(pa.int64()))]
        for label in labels:
            columns += [(values[label], pa.list_(pa.int32())), (known[label], pa.list_(pa.bool_()))]
        return [(name, str(kind)) for name, kind in columns]
