"""The request of one feature view in a retrieval: columns of its source, their names, and their maximal age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.utils import _get_requested_feature_views_to_features_dict, _get_requested_on_demand_feature_views

from tokenlake.errors import ConfigError

STRICT_TAG = "strict"


@dataclass(frozen=True, eq=False)
class RequestedView:
    """One feature view of a retrieval.

    Attributes:
        name: the view's name or alias, the prefix of its features' full names.
        source: the feature view's data source.
        keys: column of the entity dataframe -> column of the source.
        features: column of the result -> column of the source.
        timestamp: column of the source with the event time.
        created: column of the source with the created time, or None.
        ttl: maximal age of a row in nanoseconds; None: any age.
        strict: whether a row is visible only strictly after its time.
    """

    name: str
    source: DataSource
    keys: dict[str, str]
    features: dict[str, str]
    timestamp: str
    created: str | None
    ttl: int | None
    strict: bool

    @property
    def user(self) -> str:
        """The single join key of a view of token sequences.

        Raises:
            ConfigError: the view has no join key, or several.
        """
        if len(self.keys) != 1:
            raise ConfigError(
                f"feature view {self.name}: token sequences have one entity, the user; {list(self.keys)} given"
            )
        return next(iter(self.keys))

    @classmethod
    def of(cls, view: FeatureView, features: list[str], *, full_names: bool, strict: bool) -> RequestedView:
        """The request for some features of a feature view.

        Args:
            view: the feature view.
            features: their names.
            full_names: name them `view__feature`.
            strict: default for sources without the tag `strict`.

        Raises:
            ConfigError: the view has no batch source.
        """
        source = view.batch_source
        name: str = view.projection.name_to_use()  # type: ignore[no-untyped-call]  # Feast gives it no types
        if source is None:
            raise ConfigError(f"feature view {view.name} has no batch source; give it one to retrieve its history")
        back = {feature: column for column, feature in source.field_mapping.items()}
        renamed = view.projection.join_key_map
        entities = [e.name for e in view.entity_columns if e.name != DUMMY_ENTITY_ID]
        ttl = view.ttl.total_seconds() if view.ttl else 0
        return cls(
            name=name,
            source=source,
            keys={renamed.get(entity, entity): back.get(entity, entity) for entity in entities},
            features={f"{name}__{f}" if full_names else f: back.get(f, f) for f in features},
            timestamp=back.get(source.timestamp_field, source.timestamp_field),
            created=back.get(source.created_timestamp_column, source.created_timestamp_column) or None,
            ttl=round(ttl * 1_000_000) * 1000 or None,
            strict=is_strict(source, default=strict),
        )


def is_strict(source: DataSource, *, default: bool) -> bool:
    """Whether rows of a source are visible only strictly after their time: its tag `strict`, else the default.

    Raises:
        ConfigError: the tag is neither true nor false.
    """
    tag = source.tags.get(STRICT_TAG)
    if tag is None:
        return default
    if tag.lower() not in ("true", "false"):
        raise ConfigError(f"{source.name}: tag {STRICT_TAG}={tag!r}; expected 'true' or 'false'")
    return tag.lower() == "true"


def requested(
    refs: list[str], views: list[FeatureView], registry: BaseRegistry, project: str
) -> Mapping[FeatureView, list[str]]:
    """View -> names of its requested features."""
    on_demand = _get_requested_on_demand_feature_views(refs, project, registry)
    found, _ = _get_requested_feature_views_to_features_dict(refs, views, on_demand)
    return found


def on_demand_views(refs: list[str], registry: BaseRegistry, project: str) -> list[OnDemandFeatureView]:
    """The requested on-demand feature views."""
    return OnDemandFeatureView.get_requested_odfvs(refs, project, registry)


def strict_by_default(config: RepoConfig) -> bool:
    """The offline store's setting `strict`, for sources without the tag."""
    return bool(getattr(config.offline_store, "strict", False))
