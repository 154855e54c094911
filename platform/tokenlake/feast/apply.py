"""Registers the definitions of a feature repository in Feast's registry.

`feast apply` does the same for the repository in the current folder. But it leaves the repository's modules imported,
where the next lake in the process would get them, and it deletes the materialized intervals of a view.
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
    """Update the registry to the definitions in the repository's files.

    Materialized intervals of a view are kept. If the version of a view's source has changed, the view's values are
    removed from the online store, so that readers never see values of two versions.

    Args:
        store: the repository's feature store.
        repo: the repository's folder.

    Returns:
        Names of the views whose values were removed.

    Raises:
        ConfigError: a file that Python cannot run or Feast does not accept.
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
    """Register views that changed in ways that Feast does not compare."""
    registered = {view.name: view for view in store.list_all_feature_views()}
    for view in views:
        if _unseen(registered[view.name]) != _unseen(view):
            store.registry.delete_feature_view(view.name, store.project)
            store.registry.apply_feature_view(view, store.project)


def _failing(views: Sequence[OnDemandFeatureView]) -> str | None:
    """The view whose transformation fails on Feast's sample rows; Feast's error does not name it."""
    for view in views:
        try:
            view.infer_features()
        except Exception:  # the caller has caught the same error from Feast
            return str(view.name)
    return None


def versions_of(view: BaseFeatureView) -> list[str | None]:
    """Versions of the lake's tables that a view reads, directly or through its sources; None for a source without one."""
    if isinstance(view, OnDemandFeatureView):
        sources = [projection.batch_source for projection in view.source_feature_view_projections.values()]
    else:
        sources = [source_of(view)]
    return sorted((getattr(source, "version", None) for source in sources), key=str)


def _unseen(view: BaseFeatureView) -> tuple[Any, ...]:
    """What Feast's SQL registry does not compare, and so may not update: whether a view is enabled, and its code."""
    udf: Any = getattr(getattr(view, "feature_transformation", None), "udf", None)
    code = getattr(udf, "__code__", None)
    settings = {
        name: udf.__globals__[name]
        for name in (code.co_names if code is not None else ())
        if isinstance(udf.__globals__.get(name), bool | int | float | str | tuple)
    }
    return getattr(view, "enabled", True), code, settings


def _check(view: BaseFeatureView, repo: Path) -> None:
    """Refuse a view that Feast can register but not read back, since every later call of Feast would fail.

    Raises:
        ConfigError: the view cannot be read back.
    """
    if getattr(view, "feature_transformation", None) is None:
        return
    kind: Any = (
        type(view) if isinstance(view, StreamFeatureView | OnDemandFeatureView) else FeatureView
    )  # as Feast reads
    try:
        with warnings.catch_warnings():
            # An error about columns that Feast infers only at registration; Feast reports it again there.
            warnings.simplefilter("ignore")
            kind.from_proto(view.to_proto())
    except Exception as error:
        raise ConfigError(
            f"feature view {view.name}: Feast cannot read back what it registers of it ({type(error).__name__}: {error}); "
            f"correct it in {repo}: give its transformation another mode, or import what it needs within the function"
        ) from error


def _empty(store: FeatureStore, view: BaseFeatureView) -> None:
    # The registry last: after a kill in between, the next run sees the old version in it and repeats this.
    _forget(store, [view])
    store.registry.delete_feature_view(view.name, store.project)


def _forget(store: FeatureStore, views: Sequence[Any]) -> None:
    """Remove the values of views from the online store; Feast's own `apply` keeps those of on-demand views."""
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
    """Read all definitions in a repository's files.

    Raises:
        ConfigError: a file cannot be run; a Tokenlake error that a file raises is passed on.
    """
    contents = RepoContents([], [], [], [], [], [], [], [], [])
    contents.entities.append(
        DUMMY_ENTITY
    )  # of views without entities; without it Feast would delete it from the registry
    with _importable(repo):
        for file in get_repo_files(repo):
            for value in vars(_run(file)).values():
                _collect(contents, value)
    return contents


def _run(file: Path) -> ModuleType:
    known = sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known  # imported by another of the files
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
        raise ConfigError(f"{file} cannot be run ({type(error).__name__}: {error}); correct it") from error
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
    """Make a repository's files importable, and unload them afterwards: the next lake's files have the same names."""
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
