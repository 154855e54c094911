"""The block `tokens`: encoders of instance tokens, and their store."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tokenlake.config.embeddings import EMBEDDINGS
from tokenlake.config.values import Strict
from tokenlake.errors import ConfigError
from tokenlake.storage.redis.address import check_address

Scheme = Literal["user-order", "temporal-order"]


class Encoder(Strict):
    """Settings of one encoder of instance tokens (IAT stage one, docs/tokens.md)."""

    scheme: Scheme = "user-order"
    #: Width of the stored token.
    dim: int = Field(64, ge=4, le=1024)
    #: Width of the compressor's hidden layers.
    width: int = Field(256, ge=8)
    #: Width of one feature's embedding.
    embedding: int = Field(16, ge=2)
    #: Which counts are inputs: the built-in running counts (true), none (false), `all` that the block `counts` declares,
    #: or some of them by name.
    counts: bool | Literal["all"] | tuple[str, ...] = True
    #: Previous tokens of the user that SIT sees in training (T - 1).
    history: int = Field(127, ge=0)
    sit_layers: int = Field(2, ge=1)
    sit_heads: int = Field(4, ge=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    #: Passes over a chunk's days; more than one pass overfits on small logs.
    passes: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    batch: int = Field(512, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.sit_heads:
            raise ValueError(f"sit_heads ({self.sit_heads}) must divide dim ({self.dim})")
        return self


class Tokens(Strict):
    """The encoders of this lake, and settings of their stores."""

    encoders: dict[str, Encoder] = Field(default_factory=lambda: {"iat": Encoder()})
    #: The encoder that `lake.tokens()` serves until a version is promoted.
    serving: str | None = None
    dtype: Literal["float32", "float16", "int8"] = "float16"
    #: Sampled negatives per event, for logs without labels.
    negatives: int = Field(4, ge=1)
    #: Days of a back-fill that one training covers.
    chunk_days: int = Field(7, ge=1)
    #: Where new stores keep appended rows: the URL of a Redis (docs/store.md); without it their own folder.
    tail: str | None = None

    @field_validator("tail")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        try:
            return url if url is None else check_address(url)
        except ConfigError as error:
            raise ValueError(str(error)) from None

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
