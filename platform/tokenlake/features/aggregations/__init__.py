"""Declared aggregations: what was known of any keys strictly before an instant (docs/counts.md)."""

from tokenlake.features.aggregations.engine import Aggregations, StreamUse

__all__ = ["Aggregations", "StreamUse"]
