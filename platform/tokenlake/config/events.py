"""The block `events`: names and meaning of the source's columns."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tokenlake.config.values import Duration, Strict, is_zone
from tokenlake.names import folded, quotable

FeatureKind = Literal["categorical", "multi", "numeric", "vector"]


class Label(Strict):
    """When a label of an event becomes known (docs/point-in-time.md).

    Without `known_at` it is known at its event's time. With it, a positive is known at that source column's time,
    a negative at timestamp + `window`; without a `window` a negative is never known.
    """

    known_at: str | None = None
    window: Duration | None = None

    @model_validator(mode="after")
    def _window_needs_known_at(self) -> Self:
        if self.window is not None and self.known_at is None:
            raise ValueError(
                "`window` says when a negative is known, so it needs `known_at`, the column of a positive's time"
            )
        if self.window is not None and self.window < dt.timedelta():
            raise ValueError("`window` is negative; a label is known at its event's time or later")
        return self


class Feature(Strict):
    """One input of the encoder: `{kind: numeric, column: price, of: item}`, or just its kind."""

    kind: FeatureKind
    #: Name of the source's column, if it differs from the feature's name.
    column: str | None = None
    #: What the feature describes; a sampled negative gets the features of its item and its user.
    of: Literal["event", "item", "user"] = "event"


class Events(Strict):
    """Names of the source's columns, and the features and labels."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"
    #: Source column of a unique event id; without it, an id is derived from the row's whole content.
    id: str | None = None
    #: Unit of integer timestamps; without it integers are rejected if their size fits several units.
    unit: Literal["s", "ms", "us", "ns"] | None = None
    #: Time zone of naive timestamps; without it they are UTC, and a column may not mix naive and aware ones.
    timezone: str = "UTC"
    #: Rows outside are quarantined.
    earliest: dt.date = dt.date(1990, 1, 1)
    latest: dt.date = dt.date(2100, 1, 1)
    features: dict[str, Feature] = Field(default_factory=dict)
    labels: dict[str, Label] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, dict):
            data = dict(data)
            features = data.get("features") or {}
            if isinstance(features, dict):
                data["features"] = {k: {"kind": v} if isinstance(v, str) else v for k, v in features.items()}
            labels = data.get("labels") or {}
            if isinstance(labels, list):
                labels = dict.fromkeys(labels)
            if isinstance(labels, dict):
                data["labels"] = {k: v or {} for k, v in labels.items()}
        return data

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        if not is_zone(name):
            raise ValueError(f"{name!r} is no time zone; write a name of the IANA list, such as Europe/Berlin")
        return name

    @model_validator(mode="after")
    def _span(self) -> Self:
        if self.latest < self.earliest:
            raise ValueError(f"latest ({self.latest}) lies before earliest ({self.earliest}): no event could be let in")
        return self

    @model_validator(mode="after")
    def _columns(self) -> Self:
        named = [self.user, self.item, self.timestamp]
        if len(set(named)) < len(named):
            raise ValueError(f"user, item and timestamp are {named}; each needs a column of its own")
        label_columns = {column for name, label in self.labels.items() for column in (name, label.known_at) if column}
        if leaks := [
            name
            for name, feature in self.features.items()
            if (feature.column or name) in label_columns and name not in self.labels
        ]:
            raise ValueError(f"the features {leaks} read a label's columns; a label is never an input")
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = (*self.features, *self.labels)
        if strange := [name for name in names if not quotable(name)]:
            raise ValueError(
                f"{strange[0]!r} cannot be the name of a column; SQL quotes any text but the empty one and one with NUL"
            )
        if both := self.features.keys() & self.labels.keys():
            raise ValueError(f"{sorted(both)} are both features and labels; a label is never an input")
        for name, count in Counter(map(folded, names)).items():
            if count > 1:
                raise ValueError(f"{name!r} stands there {count} times but for capitals, which SQL does not tell apart")
        return self

    def of_kind(self, kind: FeatureKind) -> tuple[str, ...]:
        """Names of the features of one kind, in the file's order."""
        return tuple(name for name, feature in self.features.items() if feature.kind == kind)
