"""`Lake`: the one object that users hold; every method hands on to the room that does the work."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlake.config import FILE_NAME, Config
from tokenlake.errors import NotFoundError
from tokenlake.times import Day, DayLike, as_day

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pyarrow as pa
    import sqlalchemy
    from numpy.typing import NDArray

    from tokenlake.catalog import Catalog, Version
    from tokenlake.features.activity import Days
    from tokenlake.features.day_features import Frames
    from tokenlake.lake.database import Database
    from tokenlake.lake.ingest import IngestReport, Progress
    from tokenlake.lake.tables import Table
    from tokenlake.pipeline.backfill import Report
    from tokenlake.pipeline.statistics import Summaries
    from tokenlake.retrieval.candidates import Candidates
    from tokenlake.retrieval.graph import Graph
    from tokenlake.retrieval.index import Index
    from tokenlake.tokens.store import TokenStore


def open(folder_or_yaml: str | Path) -> Lake:  # the contract's name: tokenlake.open
    """Open a lake.

    Args:
        folder_or_yaml: a folder that holds `tokenlake.yaml`, or the file itself.

    Raises:
        ConfigError: there is no such file, or it says something that cannot be.
    """
    path = Path(folder_or_yaml).expanduser()
    file = path / FILE_NAME if path.is_dir() or path.suffix not in {".yaml", ".yml"} else path
    return Lake(file.resolve(), Config.load(file))


class Lake:
    """Tables, token stores, catalog and jobs of one project.

    Attributes:
        file: the `tokenlake.yaml`.
        root: its folder.
        data: folder of the data, `root` unless the file says otherwise.
        config: the file's content.
    """

    def __init__(self, file: Path, config: Config) -> None:
        self.file = file
        self.root = file.parent
        self.config = config
        self.data = (self.root / config.data).resolve()

    def __repr__(self) -> str:
        return f"Lake({str(self.root)!r}, project={self.config.project!r})"

    def __reduce__(self) -> tuple[Any, tuple[Path, Config]]:
        """Another process gets the same lake, and opens its tables and catalog for itself."""
        return Lake, (self.file, self.config)

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
        """A vector per item met lately, day and version of the embeddings."""
        return self._tables["item_embeddings"]

    @property
    def edges(self) -> Table:
        """The graph of similar users, an edge a row, partitioned by version and day."""
        return self._tables["edges"]

    @property
    def user_statistics(self) -> Table:
        """What each user did lately, as it was known at the end of each day."""
        return self._tables["user_statistics"]

    def watermark(self) -> int:
        """Newest `ingested_at` of all events, in microseconds; 0 where there are none."""
        return self.events.newest("ingested_at")

    @cached_property
    def frames(self) -> Frames:
        """Days of events with their running counts."""
        from tokenlake.features.day_features import Frames

        return Frames(self)

    @cached_property
    def activity(self) -> Days:
        """Days of events as the user encoder reads them."""
        from tokenlake.features.activity import Days

        return Days(self)

    @cached_property
    def summaries(self) -> Summaries:
        """Days of events as user statistics read them."""
        from tokenlake.pipeline.statistics import Summaries

        return Summaries(self)

    @cached_property
    def _tables(self) -> dict[str, Table]:
        from tokenlake.lake.tables import open_tables

        return open_tables(self)

    # Events in.

    def ingest(self, source: Any, *, dry_run: bool = False, progress: Progress | None = None) -> IngestReport:
        """Bring events in: an Arrow table, a path, a glob, or a list of these.

        Bad rows go to `quarantine` with their reason; the same rows again change nothing.

        Returns:
            `IngestReport(accepted, duplicates, quarantined, days)`.

        Raises:
            SourceError: a file that cannot be read at all; nothing was changed.
            SchemaError: a missing column, or ids of another type than the lake's; nothing was changed.
        """
        from tokenlake.lake.ingest import ingest

        return ingest(self, source, dry_run=dry_run, progress=progress)

    # The daily jobs.

    def run(self, day: DayLike) -> Report:
        """Run all daily jobs of one day, for every encoder: the functions that the DAGs call.

        Running a day again changes nothing.

        Raises:
            OrderError: an earlier day with events is not done.
        """
        from tokenlake.pipeline.backfill import run

        return run(self, as_day(day))

    def backfill(
        self, first: DayLike | None = None, last: DayLike | None = None, *, version: str | None = None
    ) -> Report:
        """Run all daily jobs from one day to another, training once per chunk of days.

        Args:
            first: defaults to the first day with events.
            last: defaults to the last day with events.
            version: one encoder or version; defaults to every encoder of the config.
        """
        from tokenlake.pipeline.backfill import backfill

        return backfill(self, *_range(first, last), version=version)

    def encode(self, events: pa.Table, *, version: str | None = None) -> NDArray[np.float32]:
        """Tokens of new events, as the nightly job would write them.

        Args:
            events: rows with the source's columns, ingested already or not. What the lake holds strictly before
                each row, and the other rows of this call, are its past.
            version: a version or encoder; defaults to the serving one.

        Returns:
            float32 `(rows, dim)`, rounded to the store's dtype, in the order of the rows.

        Raises:
            SchemaError: a row that ingest would quarantine; the message gives its reason.
            NotFoundError: no checkpoint yet.
        """
        from tokenlake.pipeline.realtime import encode

        return encode(self, events, self.resolve(version))

    # Versions.

    def versions(self) -> list[Version]:
        """All encoder versions that were ever run, the serving one among them."""
        return self.catalog.versions()

    def promote(self, version: str) -> None:
        """Let a version serve; the old one stays readable."""
        self.catalog.promote(self.resolve(version))

    def rollback(self) -> str:
        """Let the version that served before serve again; returns its name."""
        return self.catalog.rollback()

    def drop(self, version: str) -> None:
        """Remove a version for good: its store with what it has in Redis, checkpoints, rows, and its runs.

        Raises:
            NotFoundError: no such version.
            VersionError: it serves, or an encoder of the config would make it again.
            LockedError: one of its jobs runs.
        """
        from tokenlake.pipeline.dropping import drop

        drop(self, version)

    def resolve(self, version: str | None = None) -> str:
        """Turn a version, an encoder's name or None (the serving version) into a version.

        Raises:
            NotFoundError: neither a version nor an encoder.
        """
        if version is None:
            return self.catalog.serving() or self.config.version_of(self.config.tokens.serving_name)
        if version in self.config.tokens.encoders:
            return self.config.version_of(version)
        known = [self.config.version_of(name) for name in self.config.tokens.encoders]
        known += [v.version for v in self.catalog.versions() if v.version not in known]
        if version in known:
            return version
        raise NotFoundError(
            f"no version or encoder {version!r}; versions: {known}, encoders: {sorted(self.config.tokens.encoders)}"
        )

    def tokens(self, version: str | None = None) -> TokenStore:
        """The token store of a version or encoder; defaults to the serving version.

        Raises:
            NotFoundError: nothing was published for it yet.
        """
        from tokenlake.tokens.store import TokenStore

        path = self.store_path(self.resolve(version))
        if not TokenStore.exists(path):
            raise NotFoundError(f"no tokens of {path.name} yet; `tokenlake backfill {self.root}` makes them")
        return TokenStore.open(path)

    def published(self, version: str) -> set[Day]:
        """Days that a version's publish job has done, and that its token store holds: a store can be deleted."""
        from tokenlake.tokens import manifest

        path = self.store_path(version)
        stored = set(manifest.load(path).days) if (path / manifest.NAME).exists() else set()
        return self.catalog.done(version, "publish") & stored

    def store_path(self, version: str) -> Path:
        """Folder of a version's token store."""
        return self.data / "tokens" / version

    # Retrieval.

    def index(self, name: str = "users", day: DayLike | None = None) -> Index:
        """The FAISS index of a day's `users` or `items`; defaults to the newest day.

        Raises:
            NotFoundError: no embeddings of that day.
            MissingExtraError: faiss is not installed.
        """
        from tokenlake.retrieval.build import load_index

        return load_index(self, name, None if day is None else as_day(day))

    def graph(self, day: DayLike | None = None) -> Graph:
        """The graph of similar users at the end of a day; defaults to the newest; else as `index`."""
        from tokenlake.retrieval.build import load_graph

        return load_graph(self, None if day is None else as_day(day))

    def candidates(self, users: Any, at: Any, k: int = 100) -> Candidates:
        """Items for users at times, by what similar users did before (U2U2I, docs/retrieval.md).

        Args:
            users: q ids.
            at: one time, or one for each; nothing from then on is read, and of vectors, index and graph only what was
                available then.
            k: candidates a query, at most.

        Returns:
            Jagged `items` and `scores`, best first, with `offsets` (q + 1,).

        Raises:
            NotFoundError: no embeddings yet.
            MissingExtraError: faiss is not installed.
        """
        from tokenlake.retrieval.candidates import candidates

        return candidates(self, users, at, k)

    # Exploration.

    def sql(self, query: str, params: Any = None) -> duckdb.DuckDBPyRelation:
        """Ask a question in DuckDB's SQL, read-only.

        Raises:
            ForbiddenError: anything but a question, or a file outside the lake.
        """
        return self._database.sql(query, params)

    def engine(self) -> sqlalchemy.Engine:
        """A SQLAlchemy engine over the same views, read-only, for notebooks and BI tools."""
        return self._database.engine()

    @cached_property
    def _database(self) -> Database:
        from tokenlake.lake.database import Database

        return Database(self)


def _range(first: DayLike | None, last: DayLike | None) -> tuple[Day | None, Day | None]:
    return None if first is None else as_day(first), None if last is None else as_day(last)
