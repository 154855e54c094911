"""`Project`: config, folders, tables, catalog, token stores, versions and SQL, for jobs, plug-ins and retrieval."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tokenlake.config import FILE_NAME, Config
from tokenlake.errors import ConfigError, NotFoundError
from tokenlake.times import Day

if TYPE_CHECKING:
    import duckdb
    import sqlalchemy

    from tokenlake.catalog import Catalog, Version
    from tokenlake.lake.database import Database
    from tokenlake.lake.ingest import IngestReport
    from tokenlake.lake.tables import Table
    from tokenlake.progress import Progress
    from tokenlake.tokens.store import TokenStore

T = TypeVar("T")


class Project:
    """Config, tables, token stores and catalog of one project; `Lake` adds the daily jobs and what they publish.

    Attributes:
        file: the `tokenlake.yaml`.
        root: the folder of `file`.
        data: folder of the data, `root` unless the file says otherwise.
        config: the parsed content of `file`.
    """

    def __init__(self, file: Path, config: Config) -> None:
        self.file = file
        self.root = file.parent
        self.config = config
        self.data = (self.root / config.data).resolve()
        self._shared: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, project={self.config.project!r})"

    def __reduce__(self) -> tuple[Any, tuple[Path, Config]]:
        """Pickle the file and the config only; another process opens the tables and the catalog for itself."""
        return type(self), (self.file, self.config)

    @classmethod
    def open(cls, folder_or_yaml: str | Path) -> Self:
        """Open the project of a folder that holds `tokenlake.yaml`, or of the file itself.

        Args:
            folder_or_yaml: a folder that holds `tokenlake.yaml`, or the file itself.

        Returns:
            The project; its tables, catalog and stores are opened when they are asked for.

        Raises:
            ConfigError: there is no such file, or it is not valid.
        """
        from tokenlake.lake.schema import check_names

        path = Path(folder_or_yaml).expanduser()
        file = path / FILE_NAME if path.is_dir() or path.suffix not in {".yaml", ".yml"} else path
        config = Config.load(file)
        try:
            check_names(config)
        except ConfigError as error:
            raise ConfigError(f"{file} cannot be used:\n  {error}") from None
        return cls(file.resolve(), config)

    def shared(self, make: Callable[[Self], T]) -> T:
        """The result of `make` for this project, created at its first use and kept: for caches that several jobs share.

        Args:
            make: a class or function that takes the project; it is also the key.

        Returns:
            The same object at every call with the same `make`.
        """
        if make not in self._shared:
            self._shared[make] = make(self)
        made: T = self._shared[make]
        return made

    # Tables and catalog: what the jobs read and write.

    @cached_property
    def catalog(self) -> Catalog:
        """Runs, plans, versions, artefacts and metrics."""
        from tokenlake.catalog import Catalog

        return Catalog.open(self.config.catalog or self.data / "catalog.sqlite")

    @property
    def events(self) -> Table:
        """All accepted events, partitioned by day."""
        return self._tables["events"]

    @property
    def quarantine(self) -> Table:
        """Rejected rows with their reason."""
        return self._tables["quarantine"]

    @property
    def instance_tokens(self) -> Table:
        """Every token of every version, partitioned by version and day."""
        return self._tables["instance_tokens"]

    @property
    def predictions(self) -> Table:
        """Probabilities of the source models, partitioned by version and day."""
        return self._tables["predictions"]

    @property
    def user_embeddings(self) -> Table:
        """A vector per active user, day and version of the embeddings."""
        return self._tables["user_embeddings"]

    @property
    def item_embeddings(self) -> Table:
        """A vector per recently seen item, day and version of the embeddings."""
        return self._tables["item_embeddings"]

    @property
    def edges(self) -> Table:
        """The graph of similar users, an edge a row, partitioned by version and day."""
        return self._tables["edges"]

    @property
    def user_statistics(self) -> Table:
        """Recent activity of each user, as it was known at the end of each day."""
        return self._tables["user_statistics"]

    def table(self, name: str) -> Table:
        """A table by its name, such as `events` or `count_states_user`.

        Args:
            name: of the table.

        Returns:
            The table, which need not hold anything yet.

        Raises:
            NotFoundError: the lake has no such table.
        """
        if name not in self._tables:
            raise NotFoundError(f"the lake {self.root} has no table {name!r}; it has {sorted(self._tables)}")
        return self._tables[name]

    def watermark(self) -> int:
        """Newest `ingested_at` of all events, in microseconds; 0 where there are none."""
        return self.events.newest("ingested_at")

    @cached_property
    def _tables(self) -> dict[str, Table]:
        from tokenlake.lake.open_tables import open_tables

        return open_tables(self)

    # Ingest.

    def ingest(
        self,
        source: Any,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        quotes: bool | None = None,
        encoding: str | None = None,
    ) -> IngestReport:
        """Ingest events from a path, a folder, a glob, an Arrow table, a frame, or a list of these (docs/lake.md).

        Bad rows go to `quarantine` with their reason; the same rows again change nothing.

        Args:
            source: what to read.
            dry_run: report what would happen, and change nothing.
            progress: called as rows are read and written.
            quotes: whether values of text files may be in double quotes; None: yes for `.csv`, no for `.tsv`.
            encoding: Python's name of the encoding of text files; None: UTF-8, or what the byte order mark says.

        Returns:
            `IngestReport(accepted, duplicates, quarantined, days)`.

        Raises:
            SourceError: a file that cannot be read at all; nothing was changed.
            SchemaError: a missing column, or ids of another type than the lake's; nothing was changed.
        """
        from tokenlake.lake.ingest import ingest

        return ingest(self, source, dry_run=dry_run, progress=progress, quotes=quotes, encoding=encoding)

    # Versions.

    def versions(self) -> list[Version]:
        """All versions of encoders and models that were ever run, the serving one among them."""
        return self.catalog.versions()

    def promote(self, version: str) -> None:
        """Make a version the serving one; the old one stays readable.

        Args:
            version: a version, or an encoder's name.

        Raises:
            NotFoundError: neither a version nor an encoder.
            VersionError: it has nothing to serve yet.
        """
        self.catalog.promote(self.resolve(version))

    def rollback(self) -> str:
        """Make the previous serving version the serving one again; returns its name."""
        return self.catalog.rollback()

    def resolve(self, version: str | None = None) -> str:
        """Turn a version, an encoder's name or None (the serving version) into a version.

        Args:
            version: a version, an encoder's name, or None.

        Returns:
            The version's whole name.

        Raises:
            NotFoundError: no version or encoder has that name.
        """
        if version is None:
            return self.catalog.serving() or self.config.version_of(self.config.tokens.serving_name)
        if version in self.config.tokens.encoders:
            return self.config.version_of(version)
        known = [self.config.version_of(name) for name in self.config.tokens.encoders]
        known += [v.version for v in self.catalog.versions() if v.version not in known and not v.is_model]
        if version in known:
            return version
        raise NotFoundError(
            f"no version or encoder {version!r}; versions: {known}, encoders: {sorted(self.config.tokens.encoders)}"
        )

    def tokens(self, version: str | None = None) -> TokenStore:
        """The token store of a version or encoder; defaults to the serving version.

        Args:
            version: a version, an encoder's name, or None: the serving version.

        Returns:
            The store, as it is now.

        Raises:
            NotFoundError: nothing was published for it yet.
        """
        from tokenlake.tokens.store import TokenStore

        path = self.store_path(self.resolve(version))
        if not TokenStore.exists(path):
            raise NotFoundError(f"no tokens of {path.name} yet; `tokenlake backfill {self.root}` makes them")
        return TokenStore.open(path)

    def published(self, version: str) -> set[Day]:
        """Days that a version's publish job has finished and that its token store still holds: a store can be deleted.

        Args:
            version: its whole name.

        Returns:
            The days; empty where nothing was published.
        """
        from tokenlake.tokens import manifest

        path = self.store_path(version)
        stored = set(manifest.load(path).days) if (path / manifest.NAME).exists() else set()
        return self.catalog.done(version, "publish") & stored

    def store_path(self, version: str) -> Path:
        """Folder of a version's token store.

        Args:
            version: its whole name.

        Returns:
            The folder, which need not exist yet.
        """
        return self.data / "tokens" / version

    # Exploration.

    def sql(self, query: str, params: Any = None) -> duckdb.DuckDBPyRelation:
        """Run a read-only query in DuckDB's SQL.

        Args:
            query: one statement.
            params: values of its `?` or `$name`, a list or a dict.

        Returns:
            A relation of DuckDB: `.df()`, `.to_arrow_table()`, `.fetchall()`; of a statement without an answer, such as
            a temporary table, `done` alone.

        Raises:
            ForbiddenError: a statement that is not admitted (docs/sql.md).
        """
        answer = self._database.sql(query, params)
        return self._database.done() if answer is None else answer

    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine over the same views, read-only, for notebooks and BI tools."""
        return self._database.engine()

    @cached_property
    def _database(self) -> Database:
        from tokenlake.lake.database import Database

        return Database(self)
