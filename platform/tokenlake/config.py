"""`tokenlake.yaml`: what the events are called and how tokens are made of them.

A file or folder is read by `Config.load`; environment variables such as `TOKENLAKE_CATALOG` or
`TOKENLAKE_TOKENS__SERVING` override single fields.
"""

from __future__ import annotations

import datetime as dt
import difflib
import hashlib
import json
import re
import zoneinfo
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tokenlake.errors import ConfigError

FILE_NAME = "tokenlake.yaml"
#: Name of the lineage of user and item embeddings.
EMBEDDINGS = "alure"
FeatureKind = Literal["categorical", "multi", "numeric", "vector"]
Scheme = Literal["user-order", "temporal-order"]

#: Columns that the lake itself names; a feature or label may not take one.
RESERVED = frozenset(
    {"event_id", "user_id", "item_id", "timestamp", "ds", "ingested_at", "token", "version", "checkpoint"}
)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(value: object) -> object:
    if isinstance(value, str):
        if match := re.fullmatch(r"(\d+)\s*([mhdw])", value.strip()):
            return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})
        if not value.strip().startswith("P"):
            raise ValueError(f"{value!r} is no duration; write 30m, 12h, 7d or 2w, or ISO 8601 such as P7D")
    return value


#: `7d`, `12h`, `30m`, `2w`, or ISO 8601.
Duration = Annotated[dt.timedelta, BeforeValidator(_duration)]


def _several(value: object) -> object:
    """One of something, or a list of it."""
    if value is None or value == "all":
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Strict):
    """When a label of an event may be seen (docs/point-in-time.md).

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


class Feature(_Strict):
    """One input of the encoder: `{kind: numeric, column: price, of: item}`, or just its kind."""

    kind: FeatureKind
    #: The source's name of the column, when it is not the feature's own.
    column: str | None = None
    #: What the feature describes: an item's (or user's) features go with the item when negatives are sampled.
    of: Literal["event", "item", "user"] = "event"


class Events(_Strict):
    """Names of the source's columns, and what the rest of them mean."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"
    #: Source column of a unique event id; without it, an id is derived from the row's whole content.
    id: str | None = None
    #: Unit of integer timestamps; without it integers are refused when their size leaves the unit in doubt.
    unit: Literal["s", "ms", "us", "ns"] | None = None
    #: Time zone of naive timestamps; without it they are taken as UTC, and a column may not mix naive and aware.
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
        told = {column for name, label in self.labels.items() for column in (name, label.known_at) if column}
        if leaks := [
            name
            for name, feature in self.features.items()
            if (feature.column or name) in told and name not in self.labels
        ]:
            raise ValueError(f"the features {leaks} read a label's columns; a label is never an input")
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in (*self.features, *self.labels):
            if name.lower() in RESERVED or name.lower().endswith("_known_at"):
                raise ValueError(
                    f"{name!r} is a column that the lake itself names; call the feature or label something else"
                )
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(
                    f"{name!r} is no plain name; use letters, digits and underscores, and `column:` for the source's own name"
                )
        if both := self.features.keys() & self.labels.keys():
            raise ValueError(f"{sorted(both)} are both features and labels; a label is never an input")
        for name, count in Counter(name.lower() for name in (*self.features, *self.labels)).items():
            if count > 1:
                raise ValueError(f"{name!r} stands there {count} times but for capitals, which SQL does not tell apart")
        return self

    def of_kind(self, kind: FeatureKind) -> tuple[str, ...]:
        """Names of the features of one kind, in the file's order."""
        return tuple(name for name, feature in self.features.items() if feature.kind == kind)


class Encoder(_Strict):
    """How one lineage of instance tokens is made (IAT stage one, docs/tokens.md)."""

    scheme: Scheme = "user-order"
    #: Width of the stored token.
    dim: int = Field(64, ge=4, le=1024)
    #: Width of the compressor's hidden layers.
    width: int = Field(256, ge=8)
    #: Width of one feature's embedding.
    embedding: int = Field(16, ge=2)
    #: Built-in running counts among the inputs.
    counts: bool = True
    #: Previous tokens of the user that SIT sees in training (T - 1).
    history: int = Field(127, ge=0)
    sit_layers: int = Field(2, ge=1)
    sit_heads: int = Field(4, ge=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    #: Passes over a chunk's days; more than one replays, which overfits on small logs.
    passes: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    batch: int = Field(512, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.sit_heads:
            raise ValueError(f"sit_heads ({self.sit_heads}) must divide dim ({self.dim})")
        return self


class Tokens(_Strict):
    """The token lineages of this lake, and how their store keeps them."""

    encoders: dict[str, Encoder] = Field(default_factory=lambda: {"iat": Encoder()})
    #: The lineage that `lake.tokens()` serves until another is promoted.
    serving: str | None = None
    dtype: Literal["float32", "float16", "int8"] = "float16"
    #: Sampled negatives per event, for logs without labels.
    negatives: int = Field(4, ge=1)
    #: Days of a back-fill that one training covers.
    chunk_days: int = Field(7, ge=1)

    @field_validator("encoders", mode="before")
    @classmethod
    def _defaults(cls, encoders: Any) -> Any:
        return {k: {} if v is None else v for k, v in encoders.items()} if isinstance(encoders, dict) else encoders

    @field_validator("encoders")
    @classmethod
    def _folder_names(cls, encoders: dict[str, Encoder]) -> dict[str, Encoder]:
        for name in encoders:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"{name!r} becomes a folder's name; use letters, digits, _ and -")
        return encoders

    @model_validator(mode="after")
    def _serving_exists(self) -> Self:
        if not self.encoders:
            raise ValueError("`encoders` is empty; name at least one, such as `iat: {scheme: user-order}`")
        if taken := [name for name in self.encoders if name.startswith(EMBEDDINGS)]:
            raise ValueError(f"{taken[0]!r} is what the user embeddings are called; name the encoder differently")
        if self.serving is not None and self.serving not in self.encoders:
            raise ValueError(f"serving: {self.serving!r} is none of the encoders {sorted(self.encoders)}")
        return self

    @property
    def serving_name(self) -> str:
        """The encoder that serves by default: the named one, or the first."""
        return self.serving or next(iter(self.encoders))


class Filter(_Strict):
    """Which events: `{label: bought}`, those whose label is 1, or `{feature: kind, is: promo}`, those of a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    label: str | None = None
    feature: str | None = None
    #: The value of a categorical feature, or several of them.
    among: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field((), alias="is")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.label is None) == (self.feature is None) or bool(self.feature) != bool(self.among):
            raise ValueError("a filter is {label: NAME} or {feature: NAME, is: VALUE}")
        return self


#: Events that pass any one of them; none at all stands for every event.
Filters = Annotated[tuple[Filter, ...], BeforeValidator(_several)]


class Embeddings(_Strict):
    """How user and item embeddings are made (ALURE, docs/retrieval.md)."""

    #: Activity sources, each read by an encoder of its own.
    sources: dict[str, Filters] = Field({"events": ()}, min_length=1)
    #: What the encoder learns to foresee, and what candidates are made of; without it the first label, or every event.
    positive: Filters | None = None
    #: Width of the embeddings.
    dim: int = Field(64, ge=4, le=1024)
    #: Width of the encoder's hidden layers.
    width: int = Field(64, ge=8)
    layers: int = Field(1, ge=1)
    heads: int = Field(2, ge=1)
    #: Learned queries that pool a source.
    queries: int = Field(4, ge=1)
    #: Events that a source reads at most.
    history: int = Field(64, ge=1)
    #: Days that a history reaches back; who did nothing in them gets no embedding.
    retention_days: int = Field(90, ge=1)
    #: Ages, gaps and hours of events among the inputs.
    time: bool = True
    #: Next positives of a day that one training question asks for.
    group: int = Field(8, ge=1)
    #: Questions a step.
    batch: int = Field(64, ge=1)
    #: Items a step, beside the batch's own; a catalog no larger is taken whole.
    negatives: int = Field(2000, ge=1)
    passes: int = Field(2, ge=1)
    #: Earlier days that each training repeats.
    replay_days: int = Field(0, ge=0)
    learning_rate: float = Field(2e-3, gt=0)
    temperature: float = Field(0.1, gt=0)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} must divide width: {self.width}")
        return self

    def filters(self) -> list[Filter]:
        """Every filter of the block."""
        return [f for group in (*self.sources.values(), self.positive or ()) for f in group]


class Retrieval(_Strict):
    """How candidates are found: who is alike, and what they did lately (U2U2I, docs/retrieval.md)."""

    #: Similar users that are asked.
    neighbors: int = Field(50, ge=1)
    #: How far back their events count; without it all of them.
    window: Duration | None = None
    #: Age at which an event counts half; without it age does not matter.
    half_life: Duration | None = None
    #: Leave out what the user met before; off for what is consumed again, such as groceries.
    exclude_seen: bool = True
    #: Edge weights fitted to what neighbours foretold, or plain cosines.
    weights: Literal["learned", "cosine"] = "learned"
    #: Days of outcomes that the weights are fitted to.
    edge_days: int = Field(7, ge=1)
    #: Vectors up to which an index is exact; above, HNSW, and from a million on IVF.
    exact_below: int = Field(20_000, ge=0)


class Config(BaseSettings):
    """The whole of `tokenlake.yaml`."""

    model_config = SettingsConfigDict(env_prefix="TOKENLAKE_", env_nested_delimiter="__", extra="forbid", frozen=True)

    project: str = "tokenlake"
    #: Where the data lies, relative to the file's folder.
    data: Path = Path()
    #: SQLAlchemy URL; without it SQLite in the data folder.
    catalog: str | None = Field(None, repr=False)
    #: Raw files of one day, as a glob with `{ds}`, relative to the file's folder: what the daily ingest job reads.
    landing: str | None = None
    events: Events = Field(default_factory=Events)
    tokens: Tokens = Field(default_factory=Tokens)
    #: User and item embeddings; without the block none are made, `embeddings: {}` takes the defaults.
    embeddings: Embeddings | None = None

    retrieval: Retrieval = Field(default_factory=Retrieval)

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

    @field_validator("events", "tokens", mode="before")
    @classmethod
    def _all_commented_out(cls, section: Any) -> Any:
        return {} if section is None else section

    @field_validator("catalog")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            # It may hold a password all the same: it is not repeated.
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
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override the file."""
        return env_settings, init_settings

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a YAML file.

        Raises:
            ConfigError: the file is missing, is not YAML, or says something that cannot be; the message names
                every offending field and the nearest valid name.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.strerror}); `tokenlake init {path.parent}` writes one"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
        try:
            data = yaml.load(text, _OnceEach) or {}  # noqa: S506  # a SafeLoader
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: a mapping was expected, got {type(data).__name__}")
        try:
            return cls(**data)
        except ValidationError as error:
            raise ConfigError(_explain(path, error)) from error
        except SettingsError as error:
            raise ConfigError(f"{path}: a TOKENLAKE_ variable of the environment cannot be read: {error}") from error

    def version_of(self, encoder: str) -> str:
        """The version of one encoder: its name and a digest of all that makes its lineage.

        Raises:
            ConfigError: no encoder of that name.
        """
        spec = self.tokens.encoders.get(encoder)
        if spec is None:
            raise ConfigError(f"no encoder {encoder!r}; tokenlake.yaml names {sorted(self.tokens.encoders)}")
        lineage = {
            "encoder": spec.model_dump(mode="json"),
            "features": {k: v.kind for k, v in self.events.features.items()},
            "labels": sorted(self.events.labels),
            "dtype": self.tokens.dtype,
        }
        return f"{encoder}-{_digest(lineage)}"

    @property
    def embedding_version(self) -> str:
        """The version of the user and item embeddings: `alure-` and a digest of all that makes their lineage.

        Raises:
            ConfigError: the file has no `embeddings` block.
        """
        if self.embeddings is None:
            raise ConfigError("tokenlake.yaml has no `embeddings` block; `embeddings: {}` takes the defaults")
        lineage = {
            "encoder": self.embeddings.model_dump(mode="json"),
            "features": {k: (v.kind, v.of) for k, v in self.events.features.items()},
            "labels": sorted(self.events.labels),
        }
        return f"{EMBEDDINGS}-{_digest(lineage)}"


def _digest(lineage: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()[:8]


def is_zone(name: str) -> bool:
    """Whether a time zone of that name is known."""
    try:
        zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True


class _OnceEach(yaml.SafeLoader):
    """YAML lets the last of two equal keys win in silence; here the second is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # the base's own signature
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        "while reading a mapping", node.start_mark, f"{key.value!r} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for e in error.errors():
        place = ".".join(str(part) for part in e["loc"])
        lines.append(f"  {place or '(whole file)'}: {_told(e)}")
    return f"{path} cannot be used:\n" + "\n".join(lines)


def _told(error: ErrorDetails) -> str:
    """One error in words for somebody who reads YAML, not Python."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"no such setting{_nearest(name)}"
    if error["type"] in {"dict_type", "model_type"}:
        return f"a mapping (`name: value`) was expected, got {error['input']!r}"
    if name == "[key]":
        return f"{error['input']!r} is no name; YAML reads on, off, yes and no as true and false: put it in quotes"
    return error["msg"].removeprefix("Value error, ")


def _nearest(name: str) -> str:
    known = {
        field
        for model in (Config, Events, Tokens, Encoder, Embeddings, Filter, Retrieval, Label, Feature)
        for field in model.model_fields
    }
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
