"""`Lake`: the object that users work with; its methods delegate to the packages that do the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlake.lake.project import Project
from tokenlake.times import Day, DayLike, as_day

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from tokenlake.pipeline.backfill import Indexed, Report
    from tokenlake.pipeline.realtime_ranking import RankerScores
    from tokenlake.retrieval.candidates import Candidates
    from tokenlake.retrieval.graph import Graph
    from tokenlake.retrieval.index import Index


def open(folder_or_yaml: str | Path) -> Lake:  # the contract's name: tokenlake.open
    """Open a lake.

    Args:
        folder_or_yaml: a folder that holds `tokenlake.yaml`, or the file itself.

    Returns:
        The lake; its tables, catalog and stores are opened when they are asked for.

    Raises:
        ConfigError: there is no such file, or it is not valid.
    """
    return Lake.open(folder_or_yaml)


class Lake(Project):
    """A project with its daily jobs and their results: tokens of new events, indexes, graphs, candidates."""

    # The daily jobs.

    def run(self, day: DayLike) -> Report:
        """Run all daily jobs of one day, for every encoder and model; the DAGs call the same functions.

        Running a day again changes nothing.

        Args:
            day: a date or ISO string.

        Returns:
            What each job did.

        Raises:
            OrderError: an earlier day with events is not done yet.
        """
        from tokenlake.pipeline.backfill import run

        return run(self, as_day(day))

    def backfill(
        self,
        first: DayLike | None = None,
        last: DayLike | None = None,
        *,
        version: str | None = None,
        index: Indexed = "last",
    ) -> Report:
        """Run all daily jobs from one day to another, training once per chunk of days.

        Args:
            first: defaults to the first day with events.
            last: defaults to the last day with events.
            version: one encoder, model or version; defaults to everything in the config.
            index: which days' user embeddings get their indexes and graph: the "last" day's, or "all" days'.

        Returns:
            What each job did; days that were done already are left out.

        Raises:
            NotFoundError: no such version, encoder or model.
            OrderError: a model's turn has not come: what it reads is not there yet.
            ConfigError: another `index`.
        """
        from tokenlake.pipeline.backfill import backfill

        return backfill(self, *_range(first, last), version=version, index=index)

    def encode(self, events: pa.Table, *, version: str | None = None) -> NDArray[np.float32]:
        """Encode new events to the tokens that the daily job would write.

        Args:
            events: rows with the source's columns, ingested already or not. The past of each row is what the lake and
                the other rows of this call hold strictly before it.
            version: a version or encoder; defaults to the serving one.

        Returns:
            float32 `(rows, dim)`, rounded to the store's dtype, in the order of the rows.

        Raises:
            SchemaError: ingest would quarantine a row; the message has the reason.
            NotFoundError: there is no checkpoint yet.
        """
        from tokenlake.pipeline.realtime import encode

        return encode(self, events, self.resolve(version))

    def counts(self, rows: Any, at: Any = None, *, names: Sequence[str] | None = None) -> pa.Table:
        """Declared aggregations (docs/counts.md) of rows, each strictly before its own instant, as the lake knows it now.

        Args:
            rows: n rows, as an Arrow table, a pandas frame or a mapping of columns, with the columns of the keys, named
                as in the source or as in `events`.
            at: one instant, or one for each row; by default the rows' own timestamps.
            names: definitions of the block `counts`; all by default.

        Returns:
            float64 columns, a row for each row; null where there is nothing, such as the last of no values.

        Raises:
            SchemaError: a name that is not declared, a column that is missing, or a value that ingest would quarantine.
        """
        from tokenlake.features.aggregations.asked import counts

        return counts(self, rows, at, names)

    def rank(self, model: str, users: Any, items: Any, *, at: Any, context: Any = None) -> RankerScores:
        """Score candidates by a model of `models:` (docs/models.md): equal to what the daily job predicts for such events.

        Item and user features and counts are those known as of `at`; events and tokens are read strictly before it.

        Args:
            model: name of the model.
            users: one user, or q of them.
            items: the candidates: for one user a list of items, for q users a list of items each, or what
                `lake.candidates` gives; q items for q users are one candidate each.
            at: one instant, or one for each user.
            context: features of the events to come, such as where an item is shown: columns with a row for each user, or
                for each candidate. What stands there goes before what the lake knows of an item or user.

        Returns:
            Probabilities `values` (n, L), float32, in the order of the candidates, with `labels` and `offsets` (q + 1,).

        Raises:
            NotFoundError: no such model, or no checkpoint is kept of that day.
            SchemaError: arguments that do not fit; the message tells what was given and expected.
        """
        from tokenlake.pipeline.realtime_ranking import rank

        return rank(self, model, users, items, at, context)

    def drop(self, version: str) -> None:
        """Remove a version for good: its token store with its streams in Redis, checkpoints, table rows, and runs.

        Args:
            version: its whole name, as `versions` tells it.

        Raises:
            NotFoundError: there is no such version.
            VersionError: the version is serving, or an encoder of the config has this version.
            LockedError: one of its jobs is running.
        """
        from tokenlake.pipeline.dropping import drop

        drop(self, version)

    # Retrieval.

    def index(self, name: str = "users", day: DayLike | None = None) -> Index:
        """The published FAISS index of a day's `users` or `items`; defaults to the newest day.

        Args:
            name: `users` or `items`.
            day: a date or ISO string; defaults to the newest that was published.

        Returns:
            The index: `search(vectors or ids, k)` gives ids and scores.

        Raises:
            NotFoundError: no index of that day was published; the message names the command that builds it.
            MissingExtraError: faiss is not installed.
        """
        from tokenlake.retrieval.load import load_index

        return load_index(self, name, None if day is None else as_day(day))

    def graph(self, day: DayLike | None = None) -> Graph:
        """The graph of similar users at the end of a day, as the `graph` job published it; defaults to the newest.

        Args:
            day: a date or ISO string; defaults to the newest that was published.

        Returns:
            The graph: `neighbors(users, k)` gives jagged ids and weights.

        Raises:
            NotFoundError: none was published of that day; the message names the command that makes it.
        """
        from tokenlake.retrieval.load import load_graph

        return load_graph(self, None if day is None else as_day(day))

    def candidates(self, users: Any, at: Any, k: int = 100) -> Candidates:
        """Find items for users at query times, from the events of similar users (U2U2I, docs/retrieval.md).

        Args:
            users: q ids.
            at: one time, or one for each user; only earlier events are read, and only vectors, indexes and graphs that
                were available then.
            k: most candidates of a query.

        Returns:
            Jagged `items` and `scores`, best first, with `offsets` (q + 1,).

        Raises:
            NotFoundError: there are no embeddings yet, or the index or graph of a day was not published.
            MissingExtraError: faiss is not installed.
        """
        from tokenlake.retrieval.candidates import candidates

        return candidates(self, users, at, k)


def _range(first: DayLike | None, last: DayLike | None) -> tuple[Day | None, Day | None]:
    return None if first is None else as_day(first), None if last is None else as_day(last)
