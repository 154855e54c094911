"""The `embeddings` and `retrieval` blocks: user and item embeddings, and candidates by them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from tokenlake.config.values import Duration, Strict, several

#: Name of the lineage of user and item embeddings.
EMBEDDINGS = "alure"


class Filter(Strict):
    """Which events: `{label: bought}`, those whose label is 1, or `{feature: kind, is: promo}`, those of a value."""

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


#: Events that pass any one of them; none at all stands for every event.
Filters = Annotated[tuple[Filter, ...], BeforeValidator(several)]


class Embeddings(Strict):
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
    #: Codes of an item's content vector: how many each, and out of how many.
    code_levels: int = Field(3, ge=1, le=8)
    codes: int = Field(64, ge=2)
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
    #: Parts of the users that Airflow embeds side by side. It changes no vector, so it is no part of the version.
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
    exact_below: int = Field(50_000, ge=0)
