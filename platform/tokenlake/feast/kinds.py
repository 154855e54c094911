"""Kinds of feature views: plain copies of a source, views that Feast computes, and views of token sequences."""

from __future__ import annotations

from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource

from tokenlake.feast.sources import TokenSource

#: Attributes of a view that make Feast compute its rows, instead of copying those of its source.
_COMPUTED = ("feature_transformation", "aggregations", "filter", "enable_validation", "source_views")


def source_of(view: BaseFeatureView) -> DataSource | None:
    """The batch source of a view; None for a view without one, such as an on-demand view."""
    return getattr(view, "batch_source", None)


def is_plain(view: BaseFeatureView) -> bool:
    """Whether the view's rows are unchanged rows of its batch source, whatever the view's class."""
    return source_of(view) is not None and not any(getattr(view, name, None) for name in _COMPUTED)


def tokens_of(view: BaseFeatureView) -> TokenSource | None:
    """The token source of a view that serves its sequences unchanged; None for any other view."""
    source = source_of(view)
    return source if isinstance(source, TokenSource) and is_plain(view) else None
