"""The complete `tokenlake.yaml`, and the versions that are computed from it."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tokenlake.config.counts import Count, built_in, check, check_name
from tokenlake.config.embeddings import EMBEDDINGS, Embeddings, Retrieval
from tokenlake.config.events import Events
from tokenlake.config.models import Ensemble, Model, Ranker, check_models
from tokenlake.config.reading import explain, read
from tokenlake.config.sql import Sql
from tokenlake.config.tokens import Encoder, Tokens
from tokenlake.errors import ConfigError

#: Beginning of the environment variables that override settings.
PREFIX = "TOKENLAKE_"


class Config(BaseModel):
    """The complete `tokenlake.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = "tokenlake"
    #: Folder of the data, relative to the file's folder.
    data: Path = Path()
    #: SQLAlchemy URL; without it SQLite in the data folder.
    catalog: str | None = Field(None, repr=False)
    #: Raw files of one day, as a glob with `{ds}`, relative to the file's folder: what the daily ingest job reads.
    landing: str | None = None
    events: Events = Field(default_factory=Events)
    tokens: Tokens = Field(default_factory=Tokens)
    #: User and item embeddings; without the block there are none, `embeddings: {}` takes the defaults.
    embeddings: Embeddings | None = None

    retrieval: Retrieval = Field(default_factory=Retrieval)
    #: Declared aggregations by name; without the block the built-in ones of users, items and multi-valued features.
    counts: dict[str, Count] | None = None
    #: Rankers and ensembles by name; without the block there are none.
    models: dict[str, Model] = Field(default_factory=dict)
    sql: Sql = Field(default_factory=Sql)

    @model_validator(mode="after")
    def _filters_name_what_is_there(self) -> Self:
        for f in self.embeddings.filters() if self.embeddings else ():
            if f.label is not None and f.label not in self.events.labels:
                raise ValueError(f"embeddings: no label {f.label!r}; there are {sorted(self.events.labels)}")
            if f.feature is not None and f.feature not in self.events.of_kind("categorical"):
                raise ValueError(
                    f"embeddings: no categorical feature {f.feature!r}; there are "
                    f"{sorted(self.events.of_kind('categorical'))}"
                )
        return self

    @field_validator("counts")
    @classmethod
    def _count_names(cls, counts: dict[str, Count] | None) -> dict[str, Count] | None:
        for name in counts or ():
            check_name(name)
        return counts

    @model_validator(mode="after")
    def _counts_name_what_is_there(self) -> Self:
        check(self.counts or {}, self.events)
        for name, encoder in self.tokens.encoders.items():
            self._require_counts(f"tokens.encoders.{name}.counts", encoder)
        for name, ranker in self.rankers.items():
            self._require_counts(f"models.{name}.counts", ranker)
        return self

    @model_validator(mode="after")
    def _models_name_what_is_there(self) -> Self:
        check_models(self.models, self.events, self.tokens)
        return self

    def _require_counts(self, place: str, reader: Encoder | Ranker) -> None:
        if isinstance(reader.counts, tuple) and (unknown := set(reader.counts) - self.definitions.keys()):
            name = min(unknown)
            close = difflib.get_close_matches(name, self.definitions, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.definitions)}"
            raise ValueError(f"{place}: `counts:` declares no {name!r}; {hint}")

    @field_validator("events", "tokens", "models", "sql", mode="before")
    @classmethod
    def _all_commented_out(cls, section: Any) -> Any:
        return {} if section is None else section

    @field_validator("models", mode="before")
    @classmethod
    def _default_models(cls, models: Any) -> Any:
        return {k: {} if v is None else v for k, v in models.items()} if isinstance(models, dict) else models

    @field_validator("catalog")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            # It may hold a password, so the message does not repeat it.
            raise ValueError(
                "not a SQLAlchemy URL; write sqlite:////folder/file or postgresql://user:password@host/name"
            )
        return url

    @field_validator("landing")
    @classmethod
    def _landing(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            days = {pattern.format(ds=day) for day in ("2017-03-01", "2017-03-02")}
        except (LookupError, ValueError):
            days = set()
        if len(days) < 2 or Path(pattern).is_absolute():
            raise ValueError(
                f"{pattern!r} is no pattern of a day's files; write one relative to this file with {{ds}} where the day "
                "stands, such as landing/{ds}.parquet"
            )
        return pattern

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a YAML file; `TOKENLAKE_` variables of the environment override single settings.

        Raises:
            ConfigError: the file is missing, is not YAML, or is not valid; the message names every invalid field and
                the nearest valid name.
        """
        try:
            values = read(path)
            if not any(name.upper().startswith(PREFIX) for name in os.environ):
                return cls(**values)
            from tokenlake.config.environment import overridden  # slow to import

            return overridden(path, values)
        except ValidationError as error:
            raise ConfigError(explain(path, error, cls)) from error

    def version_of(self, encoder: str) -> str:
        """The version of one encoder: its name and a digest of all settings that change its tokens.

        Raises:
            ConfigError: there is no encoder of that name.
        """
        spec = self.tokens.encoders.get(encoder)
        if spec is None:
            raise ConfigError(f"no encoder {encoder!r}; tokenlake.yaml names {sorted(self.tokens.encoders)}")
        lineage: dict[str, Any] = {
            "encoder": spec.model_dump(mode="json"),
            "features": {k: v.kind for k, v in self.events.features.items()},
            "labels": sorted(self.events.labels),
            "dtype": self.tokens.dtype,
        }
        if declared := self.counts_of(spec):
            lineage["counts"] = _spelt(declared)
        return f"{encoder}-{_digest(lineage)}"

    @cached_property
    def definitions(self) -> dict[str, Count]:
        """The declared aggregations by name: the block `counts`, or without it the built-in ones."""
        return built_in(self.events) if self.counts is None else self.counts

    @property
    def rankers(self) -> dict[str, Ranker]:
        """The models that are rankers, by name."""
        return {name: model for name, model in self.models.items() if isinstance(model, Ranker)}

    def model_version(self, name: str) -> str:
        """The version of one model: its name and a digest of all settings that change its predictions.

        The versions of the encoders whose tokens it reads, and those of an ensemble's members, are part of it.

        Raises:
            ConfigError: there is no model of that name.
        """
        model = self.models.get(name)
        if model is None:
            there = f"tokenlake.yaml names {sorted(self.models)}" if self.models else "tokenlake.yaml names none"
            raise ConfigError(f"no model {name!r}; {there}")
        lineage: dict[str, Any] = {"model": model.model_dump(mode="json")}
        if isinstance(model, Ensemble):
            lineage["members"] = [self.model_version(member) for member in model.ensemble]
        else:
            lineage["features"] = {k: (v.kind, v.of) for k, v in self.events.features.items()}
            lineage["labels"] = sorted(self.events.labels)
            lineage["counts"] = _spelt(self.counts_of(model))
            lineage["tokens"] = [self.version_of(encoder) for encoder in model.encoders(self.tokens)]
        return f"{name}-{_digest(lineage)}"

    def counts_of(self, reader: Encoder | Ranker) -> dict[str, Count]:
        """The declared aggregations that an encoder or a ranker reads; none where it reads the built-in running counts."""
        if isinstance(reader.counts, bool):
            return {}
        names = self.definitions if reader.counts == "all" else reader.counts
        return {name: self.definitions[name] for name in names}

    @property
    def served_counts(self) -> dict[str, Count]:
        """The declared aggregations that Feast gets views of; none without a block `counts`."""
        return {name: count for name, count in (self.counts or {}).items() if count.is_served}

    def count_version(self, name: str) -> str:
        """The version of what Feast holds of a declared aggregation: a digest of all settings that change its numbers.

        Raises:
            ConfigError: Feast gets no view of that name.
        """
        count = self.served_counts.get(name)
        if count is None:
            raise ConfigError(f"`counts:` serves no {name!r}; it serves {sorted(self.served_counts) or 'nothing'}")
        kinds = {key: self.events.features[key].kind for key in count.by if key in self.events.features}
        return f"{name}-{_digest({'count': count.model_dump(mode='json', exclude={'serve'}), 'kinds': kinds})}"

    def require_embeddings(self) -> Embeddings:
        """The `embeddings` block.

        Raises:
            ConfigError: the file has no such block.
        """
        if self.embeddings is None:
            raise ConfigError("tokenlake.yaml has no `embeddings` block; `embeddings: {}` takes the defaults")
        return self.embeddings

    @property
    def embedding_version(self) -> str:
        """The version of the user and item embeddings: `alure-` and a digest of all settings that change them.

        Raises:
            ConfigError: the file has no `embeddings` block.
        """
        lineage = {
            "encoder": self.require_embeddings().model_dump(mode="json"),
            "features": {k: (v.kind, v.of) for k, v in self.events.features.items()},
            "labels": sorted(self.events.labels),
        }
        return f"{EMBEDDINGS}-{_digest(lineage)}"


def _spelt(counts: dict[str, Count]) -> dict[str, Any]:
    return {name: count.model_dump(mode="json", exclude={"serve"}) for name, count in counts.items()}


def _digest(lineage: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()[:8]
