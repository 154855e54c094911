"""Kinds of feature views: those that are copied as they lie, those that Feast computes, and those of token sequences."""

from __future__ import annotations

from feast.base_feature_view import BaseFeatureView
from feast.data_source import DataSource

from tokenlake.feast.sources import TokenSource

#: What makes Feast compute a view's rows, rather than take those of its source.
_COMPUTED = ("feature_transformation", "aggregations", "filter", "enable_validation", "source_views")


def source_of(view: BaseFeatureView) -> DataSource | None:
    """The batch source of a view; None for one that has none, as on-demand views."""
    return getattr(view, "batch_source", None)


def is_plain(view: BaseFeatureView) -> bool:
    """Whether the view's rows are those of its batch source, as they are, whatever class it is of."""
    return source_of(view) is not None and not any(getattr(view, name, None) for name in _COMPUTED)


def tokens_of(view: BaseFeatureView) -> TokenSource | None:
    """The token sequences that a view serves as they are; None for any other view, and for one that changes them."""
    source = source_of(view)
    return source if isinstance(source, TokenSource) and is_plain(view) else None
