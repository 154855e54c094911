"""What a feature repository defines, and its way into Feast's registry.

`feast apply` does the same for the repository of the current folder. It imports the files by name, which leaves them
behind for the next lake of the process, and it forgets what was materialized of a view; this does neither.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    OnDemandFeatureView,
    Project,
    StreamFeatureView,
)
from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY
from feast.labeling.label_view import LabelView
from feast.permissions.permission import Permission
from feast.repo_contents import RepoContents
from feast.repo_operations import extract_objects_for_apply_delete, get_repo_files

from tokenlake.errors import ConfigError, TokenlakeError
from tokenlake.feast.kinds import source_of


def register(store: FeatureStore, repo: Path) -> list[str]:
    """Bring the registry to what the repository's files define.

    What was materialized of a view stays known. A view whose source has changed its version loses its values in the
    online store, so that readers never get those of two versions.

    Args:
        store: the store of the repository.
        repo: its folder.

    Returns:
        Names of the views whose values were taken out.

    Raises:
        ConfigError: a file that Python or Feast refuses.
    """
    contents = load(repo)
    views = [*contents.feature_views, *contents.stream_feature_views, *contents.on_demand_feature_views]
    for view in views:
        _check(view, repo)
    standing = {view.name: view for view in store.list_all_feature_views()}
    emptied = []
    for view in views:
        old = standing.get(view.name)
        if old is None:
            continue
        if versions_of(old) != versions_of(view):
            _empty(store, old)
            emptied.append(view.name)
        elif isinstance(view, FeatureView) and isinstance(old, FeatureView):
            view.materialization_intervals = list(old.materialization_intervals)
            view.state = old.state
    sort: Any = extract_objects_for_apply_delete  # untyped
    wanted, gone, _, _ = sort(store.project, store.registry, contents)
    _forget(store, [view for view in gone if isinstance(view, OnDemandFeatureView)])
    try:
        store.apply(wanted, objects_to_delete=gone, partial=False)
    except Exception as error:
        failing = _failing(contents.on_demand_feature_views)
        if failing is not None:
            raise ConfigError(
                f"feature view {failing}: its transformation fails of what {repo} declares: {error}"
            ) from error
        if isinstance(error, ValueError):
            raise ConfigError(f"Feast refuses what {repo} defines: {error}") from error
        raise
    _renew(store, views)
    return emptied


def _renew(store: FeatureStore, views: Sequence[BaseFeatureView]) -> None:
    """Register what changed in a view and Feast took for the same."""
    registered = {view.name: view for view in store.list_all_feature_views()}
    for view in views:
        if _unseen(registered[view.name]) != _unseen(view):
            store.registry.delete_feature_view(view.name, store.project)
            store.registry.apply_feature_view(view, store.project)


def _failing(views: Sequence[OnDemandFeatureView]) -> str | None:
    """The view whose transformation fails of the made-up rows that Feast tries each with; Feast does not name it."""
    for view in views:
        try:
            view.infer_features()
        except Exception:  # what it raises was raised before
            return str(view.name)
    return None


def versions_of(view: BaseFeatureView) -> list[str | None]:
    """The versions of the lake's tables that a view reads, itself or by its sources; None where a source knows none."""
    if isinstance(view, OnDemandFeatureView):
        sources = [projection.batch_source for projection in view.source_feature_view_projections.values()]
    else:
        sources = [source_of(view)]
    return sorted((getattr(source, "version", None) for source in sources), key=str)


def _unseen(view: BaseFeatureView) -> tuple[Any, ...]:
    """What Feast's SQL registry does not compare, and so may keep as it was: whether a view is enabled, and its code."""
    udf: Any = getattr(getattr(view, "feature_transformation", None), "udf", None)
    code = getattr(udf, "__code__", None)
    settings = {
        name: udf.__globals__[name]
        for name in (code.co_names if code is not None else ())
        if isinstance(udf.__globals__.get(name), bool | int | float | str | tuple)
    }
    return getattr(view, "enabled", True), code, settings


def _check(view: BaseFeatureView, repo: Path) -> None:
    """Refuse a view that Feast would register and could not read back: all its calls would fail from then on.

    Raises:
        ConfigError: it is such a view.
    """
    if getattr(view, "feature_transformation", None) is None:
        return
    kind: Any = (
        type(view) if isinstance(view, StreamFeatureView | OnDemandFeatureView) else FeatureView
    )  # as Feast reads
    try:
        with warnings.catch_warnings():
            # Of columns that Feast infers only when it registers the view; what is wrong with them it says again there.
            warnings.simplefilter("ignore")
            kind.from_proto(view.to_proto())
    except Exception as error:
        raise ConfigError(
            f"feature view {view.name}: Feast cannot read back what it registers of it ({type(error).__name__}: {error}); "
            f"mend it in {repo}: give its transformation another mode, or import what it needs within the function"
        ) from error


def _empty(store: FeatureStore, view: BaseFeatureView) -> None:
    # The registry last: after a kill in between, the next run finds the old version there and does this again.
    _forget(store, [view])
    store.registry.delete_feature_view(view.name, store.project)


def _forget(store: FeatureStore, views: Sequence[Any]) -> None:
    """Take views' values out of the online store; Feast's own `apply` leaves those of on-demand views there."""
    if views:
        store.provider.online_store.update(
            config=store.config,
            tables_to_delete=views,
            tables_to_keep=[],
            entities_to_delete=[],
            entities_to_keep=[],
            partial=True,
        )


def load(repo: Path) -> RepoContents:
    """Read everything that a repository's files define.

    Raises:
        ConfigError: a file cannot be run; what Tokenlake itself says in one goes through.
    """
    contents = RepoContents([], [], [], [], [], [], [], [], [])
    contents.entities.append(DUMMY_ENTITY)  # of views without entities; Feast would else take it for one that is gone
    with _importable(repo):
        for file in get_repo_files(repo):
            for value in vars(_run(file)).values():
                _collect(contents, value)
    return contents


def _run(file: Path) -> ModuleType:
    known = sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known  # another of the files has imported it
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is no file that Python can run; a feature repository holds .py files")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except TokenlakeError:
        raise
    except Exception as error:
        raise ConfigError(f"{file} cannot be run ({type(error).__name__}: {error}); mend it") from error
    return module


def _collect(contents: RepoContents, value: object) -> None:
    kinds: dict[type, list[Any]] = {
        StreamFeatureView: contents.stream_feature_views,
        FeatureView: contents.feature_views,
        DataSource: contents.data_sources,
        OnDemandFeatureView: contents.on_demand_feature_views,
        LabelView: contents.label_views,
        Entity: contents.entities,
        FeatureService: contents.feature_services,
        Permission: contents.permissions,
        Project: contents.projects,
    }
    for kind, found in kinds.items():
        if isinstance(value, kind):
            if not any(value is other for other in found):
                found.append(value)
                for source in ("batch_source", "stream_source"):
                    _collect(contents, getattr(value, source, None))
            return


@contextmanager
def _importable(repo: Path) -> Iterator[None]:
    """Let a repository's files be imported, and forget them afterwards: the next lake's bear the same names."""
    names = {file.relative_to(repo.resolve()).parts[0].removesuffix(".py") for file in get_repo_files(repo)}
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    sys.path.insert(0, str(repo))
    try:
        yield
    finally:
        sys.path.remove(str(repo))
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(hidden)
