"""Feast's response to a read, built from wire bytes: a `Value` object per feature would take a thousand times longer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from feast import FeatureView, metrics
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from tokenlake.feast.online import wire
from tokenlake.feast.online.table import KeyValues


def describe(response: Any, view: FeatureView, names: list[str], full: bool, versions: bool) -> None:  # noqa: FBT001
    """Add the metadata of the features, as Feast's own reads do."""
    shown = view.projection.name_to_use()  # type: ignore[no-untyped-call]  # Feast's
    response.metadata.feature_names.val.extend([f"{shown}__{name}" if full else name for name in names])
    plain = view.projection.name_alias or view.projection.name
    if versions and plain not in [told.name for told in response.metadata.feature_view_metadata]:
        told = response.metadata.feature_view_metadata.add()
        told.name, told.version = plain, getattr(view, "current_version_number", 0) or 0


def respond(
    response: Any, names: list[str], entities: Sequence[KeyValues | None], places: Iterable[list[int]], count: int
) -> None:
    """Add some features of a view, for `count` requested entities.

    Args:
        response: the response to fill.
        names: the features.
        entities: the values of each distinct entity.
        places: for each distinct entity its positions among the requested ones.
        count: number of requested entities.
    """
    rows: list[KeyValues | None] = [None] * count
    for row, own in zip(entities, places, strict=True):
        for place in own:
            rows[place] = row
    times = [None if row is None else row.event for row in rows]
    present, missing = FieldStatus.PRESENT, FieldStatus.NOT_FOUND  # each attribute access of the enum is slow
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


def count(view: FeatureView, entities: Sequence[KeyValues | None], places: Iterable[list[int]], total: int) -> None:
    """Count present and missing features in Feast's metrics."""
    there = sum(len(own) * len(row.values) for row, own in zip(entities, places, strict=True) if row is not None)
    metrics.track_feature_statuses(view.name, there, total - there)
