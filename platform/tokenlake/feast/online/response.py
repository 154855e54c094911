"""Feast's response to a read, put together from wire bytes: a `Value` object per feature would cost a thousand times more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from feast import FeatureView, metrics
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from tokenlake.feast.online import wire
from tokenlake.feast.online.table import KeyValues


def describe(response: Any, view: FeatureView, names: list[str], full: bool, versions: bool) -> None:  # noqa: FBT001
    """What Feast's own reading says of the features."""
    shown = view.projection.name_to_use()  # type: ignore[no-untyped-call]  # Feast's
    response.metadata.feature_names.val.extend([f"{shown}__{name}" if full else name for name in names])
    plain = view.projection.name_alias or view.projection.name
    if versions and plain not in [told.name for told in response.metadata.feature_view_metadata]:
        told = response.metadata.feature_view_metadata.add()
        told.name, told.version = plain, getattr(view, "current_version_number", 0) or 0


def respond(
    response: Any, names: list[str], found: Sequence[KeyValues | None], places: Iterable[list[int]], count: int
) -> None:
    """Add some features of a view, for `count` asked entities.

    Args:
        response: the response to fill.
        names: the features.
        found: what the store holds of each distinct entity.
        places: which of the asked entities each of these is.
        count: how many were asked for.
    """
    rows: list[KeyValues | None] = [None] * count
    for row, own in zip(found, places, strict=True):
        for place in own:
            rows[place] = row
    times = [None if row is None else row.event for row in rows]
    present, missing = FieldStatus.PRESENT, FieldStatus.NOT_FOUND  # each look-up goes through Python
    for name in names:
        values = [None if row is None else row.values.get(name) for row in rows]
        statuses = bytes([missing if value is None else present for value in values])
        vector = response.results.add()
        vector.MergeFromString(wire.feature_vector(statuses, times))
        for value in values:
            into = vector.values.add()
            if value:
                # One by one: a copy of all of them would be as large as the response, and as slow as parsing it.
                into.MergeFromString(wire.whole(value))


def count(view: FeatureView, found: Sequence[KeyValues | None], places: Iterable[list[int]], total: int) -> None:
    """Tell Feast's metrics."""
    there = sum(len(own) * len(row.values) for row, own in zip(found, places, strict=True) if row is not None)
    metrics.track_feature_statuses(view.name, there, total - there)
