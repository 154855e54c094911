"""Materialization: writes the newest values of every view into Feast's online store.

`FeatureStore.materialize` is not used, for three reasons. It marks a view as being materialized, and readers get an
error until it is done, or for ever if it is killed. A rerun of an old day would overwrite newer values: it pulls only
the newest rows of the range, and Feast's SQLite store keeps what is written last. And a failure of one view stops all
views after it.

The views are the same as Feast's, in the same order. A plain view is copied column by column (`plain`). Any other view
is computed by Feast: by the repository's engine, or by the view's on-demand transformation (`on_demand`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from feast import FeatureStore, FeatureView, OnDemandFeatureView, StreamFeatureView
from tqdm import tqdm

from tokenlake.errors import TokenlakeError, TransientError
from tokenlake.feast import LakeSource, TokenSource, on_demand, plain
from tokenlake.feast.apply import register
from tokenlake.feast.failures import in_our_words
from tokenlake.feast.kinds import is_plain, source_of
from tokenlake.progress import Progress

_ONE_DAY = dt.timedelta(days=1)
_BEGINNING = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: `copied`: unchanged from its source; `computed`: by Feast's engine or a transformation; `pushed`: filled by pushes only.
Way: TypeAlias = Literal["copied", "computed", "pushed"]


@dataclass
class Outcome:
    """The results of a materialization.

    Attributes:
        rows: view -> rows written; None where Feast's engine wrote them, which does not count.
        ways: view -> how it got its values.
        failures: view that could not be materialized -> the error.
    """

    rows: dict[str, int | None] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    failures: dict[str, TokenlakeError] = field(default_factory=dict)

    def check(self) -> None:
        """Raise an error if a view failed.

        Raises:
            TokenlakeError: names every failed view and its error; transient if one of them may succeed later.
        """
        if not self.failures:
            return
        errors = list(self.failures.values())
        telling = next((error for error in errors if isinstance(error, TransientError)), errors[0])
        reasons = "; ".join(f"feature view {name}: {error}" for name, error in self.failures.items())
        raise type(telling)(f"{reasons} (the other {len(self.rows)} views are up to date)") from telling


def materialize(repo: Path, since: dt.datetime | None, until: dt.datetime, progress: Progress | None = None) -> Outcome:
    """Register a repository's definitions, and materialize its views up to a time.

    Args:
        repo: folder of the `feature_store.yaml`.
        since: rows that became available earlier have not changed since the last call; None: unknown, so everything
            is pulled.
        until: rows that became available later are left out. If the store holds newer values already, their time is
            used instead, so that no older value overwrites them.
        progress: called while views are copied portion by portion.

    Returns:
        The result of each view; a failure of one view does not stop the others.

    Raises:
        ConfigError: a file of the repository that Feast does not accept.
        ServiceError: the registry or the online store does not answer.
    """
    outcome = Outcome()
    with _opened(repo) as store:
        emptied = register(store, repo)
        for view in _views(store):
            try:
                with in_our_words(repo):
                    known = None if view.name in emptied else since
                    outcome.rows[view.name], outcome.ways[view.name] = _bring(store, view, known, until, progress)
            except TokenlakeError as error:
                outcome.failures[view.name] = error
    return outcome


def _views(store: FeatureStore) -> list[FeatureView | OnDemandFeatureView]:
    """The views that `FeatureStore.materialize` would write, in its order: on-demand, then plain and batch, then stream.

    Within a kind they are sorted by name; Feast takes them in the order of the registry.
    """
    views = store._get_feature_views_to_materialize(None)
    rank: dict[type, int] = {OnDemandFeatureView: 0, StreamFeatureView: 2}
    return sorted(views, key=lambda view: (rank.get(type(view), 1), view.name))


@contextmanager
def _opened(repo: Path) -> Iterator[FeatureStore]:
    """Yield a feature store; closes its connections afterwards, and translates its errors."""
    store = None
    try:
        with in_our_words(repo):
            store = FeatureStore(repo_path=str(repo))
            if hasattr(store.config.online_store, "skip_dedup"):
                # Feast's Redis store ignores a value whose time equals the stored one, and so all values of a rerun day.
                # Values written here are never older than the stored ones, so the comparison is not needed.
                store.config.online_store.skip_dedup = True
            yield store
    finally:
        if store is not None:
            close(store)


def close(store: FeatureStore) -> None:
    """Close the connections that a `FeatureStore` holds, which has no such method itself."""
    engine = getattr(store._registry, "write_engine", None)
    if engine is not None:
        engine.dispose()
    online = getattr(store._provider, "online_store", None) if store._provider is not None else None
    connection = getattr(online, "_conn", None)  # of Feast's SQLite store
    if connection is not None:
        connection.close()


def _bring(
    store: FeatureStore,
    view: FeatureView | OnDemandFeatureView,
    since: dt.datetime | None,
    until: dt.datetime,
    progress: Progress | None,
) -> tuple[int | None, Way]:
    if isinstance(view, OnDemandFeatureView):
        if on_demand.is_pushed_only(view):
            return 0, "pushed"
        return on_demand.compute(store, view, _BEGINNING, until), "computed"
    if is_plain(view):
        return _copied(store, view, since, until, progress), "copied"
    if source_of(view) is None and not view.source_views and not getattr(view, "feature_transformation", None):
        return 0, "pushed"
    _compute(store, view, until)
    return None, "computed"


def _copied(
    store: FeatureStore, view: FeatureView, since: dt.datetime | None, until: dt.datetime, progress: Progress | None
) -> int:
    held: dt.datetime | None = view.most_recent_end_time
    start, end = _BEGINNING, max(until, held or until)
    source = source_of(view)
    if held is not None and since is not None:
        # A lake's table shows which days have changed. In any other source only rows after the last run are new.
        start = since if isinstance(source, LakeSource) else min(since, held)
        if isinstance(source, TokenSource):
            start -= _ONE_DAY  # a day's tokens have times of that day, and may be published after its other rows
    rows = plain.copy(store, view, start, end, progress)
    if rows is None:
        return 0
    _note(store, view, start, end)
    return rows


def _compute(store: FeatureStore, view: FeatureView, until: dt.datetime) -> None:
    """Materialize a view with Feast's engine, without marking it as being materialized.

    Always from the first row: a transformation's value for an entity may depend on rows of any age.
    """
    held: dt.datetime | None = view.most_recent_end_time
    start, end = _BEGINNING, max(until, held or until)
    if not view.source_views:
        # `offline=True` would append the computed rows to the source that they were computed from, at every run.
        view.offline = False
    elif view.offline and held is not None:
        start = held  # likewise the rows that the sink holds already
    store.provider.materialize_single_feature_view(
        config=store.config,
        feature_view=view,
        start_date=start,
        end_date=end,
        registry=store.registry,
        project=store.project,
        tqdm_builder=_no_bar,
    )
    _note(store, view, start, end)


def _no_bar(total: int) -> Any:
    return tqdm(total=total, disable=True)


def _note(store: FeatureStore, view: FeatureView, start: dt.datetime, end: dt.datetime) -> None:
    """Record the materialized interval of a view in the registry."""
    if view.most_recent_end_time is None or end > view.most_recent_end_time:
        store.registry.apply_materialization(view, store.project, start, end)
