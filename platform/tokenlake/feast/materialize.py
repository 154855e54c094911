"""Materializing: the newest values of every view into Feast's online store.

`FeatureStore.materialize` is not what runs here, for three reasons. It marks a view as being materialized, and readers
are refused until it is done, or for good when it was killed. A rerun of an old day would write that day's values over
newer ones: only the range's newest are pulled, and Feast's SQLite store takes what comes last. And one view's failure
keeps all views after it from being brought up to date.

The views are Feast's, in its order. A plain one is copied column by column (`plain`); of any other Feast computes what
goes online, by the engine that the repository names, or by its on-demand transformation (`on_demand`).
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
#: `copied`: as its source has it; `computed`: by Feast's engine or a transformation; `pushed`: only pushes fill it.
Way: TypeAlias = Literal["copied", "computed", "pushed"]


@dataclass
class Outcome:
    """What came of the views.

    Attributes:
        rows: rows written, by view; None where Feast's engine, which does not tell, wrote them.
        ways: how each of these views came by its values.
        failures: the other views, and why they could not be brought up to date.
    """

    rows: dict[str, int | None] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    failures: dict[str, TokenlakeError] = field(default_factory=dict)

    def check(self) -> None:
        """Raise what failed, if anything did.

        Raises:
            TokenlakeError: names every view that failed, and why; transient if one of them may succeed when tried again.
        """
        if not self.failures:
            return
        errors = list(self.failures.values())
        telling = next((error for error in errors if isinstance(error, TransientError)), errors[0])
        reasons = "; ".join(f"feature view {name}: {error}" for name, error in self.failures.items())
        raise type(telling)(f"{reasons} (the other {len(self.rows)} views are up to date)") from telling


def materialize(repo: Path, since: dt.datetime | None, until: dt.datetime, progress: Progress | None = None) -> Outcome:
    """Register what a repository defines, and bring its online store up to a time.

    Args:
        repo: folder of the `feature_store.yaml`.
        since: nothing that became available earlier has changed since the last time; None where that is not known,
            and everything is pulled.
        until: what became available later is left out, unless the store holds newer values already: then it is
            brought up to those, so that nothing old is written over them.
        progress: told of views that are copied portion by portion.

    Returns:
        What came of each view; a failure of one is no failure of the others.

    Raises:
        ConfigError: a file of the repository that Feast refuses.
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
    """What `FeatureStore.materialize` would bring online, in its order: on-demand views, plain and batch ones, stream views.

    Within a kind they come by name; there, as the registry happens to list them.
    """
    views = store._get_feature_views_to_materialize(None)
    rank: dict[type, int] = {OnDemandFeatureView: 0, StreamFeatureView: 2}
    return sorted(views, key=lambda view: (rank.get(type(view), 1), view.name))


@contextmanager
def _opened(repo: Path) -> Iterator[FeatureStore]:
    """A store whose connections are closed afterwards, and whose errors are ours."""
    store = None
    try:
        with in_our_words(repo):
            store = FeatureStore(repo_path=str(repo))
            if hasattr(store.config.online_store, "skip_dedup"):
                # Feast's Redis store takes no value of the time that it holds, and so none of a day that was run again.
                # What is written here is never older than what is there, so it need not look.
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
        # A lake's table tells which days have changed. Of any other source only what came after the last time is new.
        start = since if isinstance(source, LakeSource) else min(since, held)
        if isinstance(source, TokenSource):
            start -= _ONE_DAY  # a day's tokens bear times of that day, and may be published after its other rows
    rows = plain.copy(store, view, start, end, progress)
    if rows is None:
        return 0
    _note(store, view, start, end)
    return rows


def _compute(store: FeatureStore, view: FeatureView, until: dt.datetime) -> None:
    """Let Feast's engine do what it does for a view, without marking it as being materialized.

    Always from the beginning: what a transformation says of an entity may rest on rows of any age.
    """
    held: dt.datetime | None = view.most_recent_end_time
    start, end = _BEGINNING, max(until, held or until)
    if not view.source_views:
        # `offline=True` would add what was computed to the very source that it was computed from, at each run again.
        view.offline = False
    elif view.offline and held is not None:
        start = held  # likewise, what the sink holds already
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
    """Let the registry know up to when a view is materialized."""
    if view.most_recent_end_time is None or end > view.most_recent_end_time:
        store.registry.apply_materialization(view, store.project, start, end)
