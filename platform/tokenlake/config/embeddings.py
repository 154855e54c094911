"""The blocks `embeddings` and `retrieval`: user and item embeddings, and candidates based on them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from tokenlake.config.values import Duration, Strict, several

#: Name under which jobs address the user and item embeddings.
EMBEDDINGS = "alure"


class Filter(Strict):
    """A selection of events: `{label: bought}` (label is 1), or `{feature: kind, is: promo}` (feature has a value)."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    label: str | None = None
    feature: str | None = None
    #: The value of a categorical feature, or several of them.
    among: Annotated[tuple[str, ...], BeforeValidator(several)] = Field((), alias="is")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.label is None) == (self.feature is None) or bool(self.feature) != bool(self.among):
            raise ValueError("a filter is {label: NAME} or {feature: NAME, is: VALUE}")
        return self


#: Events that pass at least one filter; no filter at all selects every event.
Filters = Annotated[tuple[Filter, ...], BeforeValidator(several)]


class Embeddings(Strict):
    """Settings of user and item embeddings (ALURE, docs/retrieval.md)."""

    #: Activity sources; each has its own encoder.
    sources: dict[str, Filters] = Field({"events": ()}, min_length=1)
    #: Positive events, which the encoder learns to predict and candidates come from; default: the first label, or every event.
    positive: Filters | None = None
    #: Width of the embeddings.
    dim: int = Field(64, ge=4, le=1024)
    #: Width of the encoder's hidden layers.
    width: int = Field(64, ge=8)
    layers: int = Field(1, ge=1)
    heads: int = Field(2, ge=1)
    #: Learned queries that pool a source.
    queries: int = Field(4, ge=1)
    #: Most events that a source reads.
    history: int = Field(64, ge=1)
    #: Days that a history reaches back; a user without events in them gets no embedding.
    retention_days: int = Field(90, ge=1)
    #: Whether ages, gaps and hours of events are inputs.
    time: bool = True
    #: Codes of an item's content vector: number of levels, and codes per level.
    code_levels: int = Field(3, ge=1, le=8)
    codes: int = Field(64, ge=2)
    #: Next positives of a day that one training query predicts.
    group: int = Field(8, ge=1)
    #: Queries per training step.
    batch: int = Field(64, ge=1)
    #: Sampled items per step, besides the batch's own; a smaller catalog is used completely.
    negatives: int = Field(2000, ge=1)
    passes: int = Field(2, ge=1)
    #: Earlier days that each training repeats.
    replay_days: int = Field(0, ge=0)
    learning_rate: float = Field(2e-3, gt=0)
    temperature: float = Field(0.1, gt=0)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    seed: int = 0
    #: Parts of the users that Airflow embeds in parallel. It changes no vector, so the version does not depend on it.
    buckets: int = Field(2, ge=1, exclude=True)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} must divide width: {self.width}")
        return self

    def filters(self) -> list[Filter]:
        """Every filter of the block."""
        return [f for group in (*self.sources.values(), self.positive or ()) for f in group]


class Retrieval(Strict):
    """Settings of candidates from recent events of similar users (U2U2I, docs/retrieval.md)."""

    #: Number of similar users per query.
    neighbors: int = Field(50, ge=1)
    #: Maximal age of their events; without it all events count.
    window: Duration | None = None
    #: Age at which an event has half weight; without it all have the same weight.
    half_life: Duration | None = None
    #: Whether items of the user's earlier events are left out; false for items bought repeatedly, such as groceries.
    exclude_seen: bool = True
    #: Edge weights: fitted to how well neighbours predicted, or plain cosines.
    weights: Literal["learned", "cosine"] = "learned"
    #: Days of later events that the weights are fitted on.
    edge_days: int = Field(7, ge=1)
    #: Number of vectors up to which an index is exact; above it is HNSW, and from a million on IVF.
    exact_below: int = Field(50_000, ge=0)
