"""The block `models`: rankers over features, counts and sequences, and ensembles of them (docs/models.md)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from tokenlake.config.embeddings import EMBEDDINGS, Filters
from tokenlake.config.events import Events
from tokenlake.config.tokens import Tokens
from tokenlake.config.values import Duration, Strict

#: How pydantic calls a kind of model in the place of an error; no model has such a name.
_RANKER, _ENSEMBLE = "a ranker", "an ensemble"
#: Beginnings of names that `predictions` holds of others than models.
_TAKEN = (EMBEDDINGS, "control-", "peer-")
#: Settings of a sequence that only one kind of it has.
_OF_ONE_KIND: dict[str, tuple[str, ...]] = {"events": ("encoder",), "tokens": ("only", "features", "reach")}
#: What the width of an interaction `mixer` is a multiple of.
MIXED = 32
Calibration: TypeAlias = Literal["none", "platt", "isotonic"]


class RankerSequence(Strict):
    """One sequence of a user's past that a ranker reads: raw events, or stored tokens of an encoder."""

    of: Literal["events", "tokens"]
    #: Of events: those that pass any of these filters; by default all.
    only: Filters = ()
    #: Of events: how far back a step may be; by default without bound.
    reach: Duration | None = None
    #: Of events: `item_id` and categorical features; by default `item_id` and every categorical feature `of: item`.
    features: tuple[str, ...] | None = None
    #: Of tokens: the encoder that made them; by default the serving one.
    encoder: str | None = None
    #: Most steps: the newest before the query.
    length: int = Field(100, ge=1)
    #: Whether labels that were known by then, and the gaps between steps, are inputs.
    labels: bool = True
    #: What summarises the sequence for a candidate.
    model: Literal["din", "transformer", "longer", "hstu"] = "din"
    width: int = Field(32, ge=4)
    layers: int = Field(1, ge=1)
    heads: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> Self:
        for name in _OF_ONE_KIND[self.of]:
            if name in self.model_fields_set:
                other = "tokens" if self.of == "events" else "events"
                raise ValueError(f"`{name}` belongs to a sequence `of: {other}`; this one is `of: {self.of}`")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} must divide width: {self.width}")
        return self

    def features_of(self, events: Events) -> tuple[str, ...]:
        """The categorical values of every step: `item_id`, and names of features; none of tokens."""
        if self.of == "tokens":
            return ()
        if self.features is not None:
            return self.features
        return ("item_id", *(name for name in events.of_kind("categorical") if events.features[name].of == "item"))


class Ranker(Strict):
    """Settings of one ranker: what it reads, how its inputs interact, and how it learns."""

    #: Names of features of the events; `all`, or some of them.
    features: Literal["all"] | tuple[str, ...] = "all"
    #: Whether embeddings of the user and of the item are inputs.
    ids: bool = True
    #: Which counts are inputs: the built-in running counts (true), none (false), `all` that the block `counts` declares,
    #: or some of them by name.
    counts: bool | Literal["all"] | tuple[str, ...] = "all"
    #: What multiplies inputs with each other: crosses of DCN-v2, or the token mixing of RankMixer.
    interaction: Literal["dcn", "mixer"] = "dcn"
    #: Width of the hidden layers.
    width: int = Field(256, ge=8)
    #: Layers of the interaction.
    layers: int = Field(2, ge=1)
    #: Width of one feature's embedding.
    embedding: int = Field(16, ge=2)
    sequences: dict[str, RankerSequence] = Field(default_factory=dict)
    #: Labels that are predicted; by default all of the events.
    labels: tuple[str, ...] | None = Field(None, min_length=1)
    #: Queries per training step.
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    #: Passes over the days of one training.
    passes: int = Field(1, ge=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    seed: int = 0
    #: Days that one training covers.
    learn_days: Literal[1, 7] = 7
    #: How fresh its inputs are: everything before the row's instant, or only counts, events and tokens of days before the row's.
    available: Literal["realtime", "daily"] = "realtime"
    #: Whether probabilities are corrected by how often the earlier ones were right.
    calibration: Calibration = "none"

    @field_validator("sequences")
    @classmethod
    def _sequence_names(cls, sequences: dict[str, RankerSequence]) -> dict[str, RankerSequence]:
        for name in sequences:
            _require_folder_name(name)
        return sequences

    @model_validator(mode="after")
    def _tokens_mix(self) -> Self:
        if self.interaction == "mixer" and self.width % MIXED:
            raise ValueError(f"width: {self.width} given; `interaction: mixer` takes a multiple of {MIXED}")
        return self

    def features_of(self, events: Events) -> tuple[str, ...]:
        """Names of the row's features that are inputs, in the order of the events' features."""
        return tuple(name for name in events.features if self.features == "all" or name in self.features)

    def encoders(self, tokens: Tokens) -> tuple[str, ...]:
        """Names of the encoders whose tokens are read, each once."""
        read = [s.encoder or tokens.serving_name for s in self.sequences.values() if s.of == "tokens"]
        return tuple(dict.fromkeys(read))


class Ensemble(Strict):
    """A weighted mean of the logits of several rankers; the weights are fitted on their predictions of the days before."""

    ensemble: tuple[str, ...] = Field(min_length=2)
    #: Whether probabilities are corrected by how often the earlier ones were right.
    calibration: Calibration = "none"

    @field_validator("ensemble")
    @classmethod
    def _once_each(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(members)) < len(members):
            raise ValueError("a member stands there twice; write each once")
        return members

    def labels_of(self, models: Mapping[str, Ranker | Ensemble], events: Events) -> tuple[str, ...]:
        """Labels that every member predicts, in the order of the events' labels."""
        members = [models[name] for name in self.ensemble]
        named = [set(model.labels) for model in members if isinstance(model, Ranker) and model.labels is not None]
        return tuple(label for label in events.labels if all(label in labels for labels in named))


def _kind(block: Any) -> str:
    is_ensemble = isinstance(block, Ensemble) or (isinstance(block, dict) and "ensemble" in block)
    return _ENSEMBLE if is_ensemble else _RANKER


#: A block of `models`: an ensemble where it has a key `ensemble`, else a ranker.
Model = Annotated[Annotated[Ranker, Tag(_RANKER)] | Annotated[Ensemble, Tag(_ENSEMBLE)], Discriminator(_kind)]
#: The block of each kind of model, by what pydantic calls it.
KINDS: dict[str | int, type[Strict]] = {_RANKER: Ranker, _ENSEMBLE: Ensemble}


def check_models(models: Mapping[str, Ranker | Ensemble], events: Events, tokens: Tokens) -> None:
    """Check that models have names of their own, and name only what is there; their counts are left out.

    Raises:
        ValueError: they do not; the message has the nearest valid name.
    """
    for name, model in models.items():
        _require_folder_name(name)
        if name in tokens.encoders or name.startswith(_TAKEN):
            taken = "an encoder" if name in tokens.encoders else f"what begins with {' or '.join(map(repr, _TAKEN))}"
            raise ValueError(f"models: {name!r} is the name of {taken} already; name the model differently")
        if isinstance(model, Ensemble):
            rankers = [other for other, of in models.items() if isinstance(of, Ranker)]
            _require_all(f"models.{name}.ensemble", model.ensemble, rankers, "ranker")
            _check_labels(f"models.{name}.ensemble", model, models, events)
        else:
            _check_ranker(f"models.{name}", model, events, tokens)


def _check_ranker(place: str, ranker: Ranker, events: Events, tokens: Tokens) -> None:
    if ranker.features != "all":
        _require_all(f"{place}.features", ranker.features, events.features, "feature")
    if ranker.labels is not None and not events.labels:
        raise ValueError(
            f"{place}.labels: the events have no labels, so sampled negatives are told apart; leave it out"
        )
    _require_all(f"{place}.labels", ranker.labels or (), events.labels, "label")
    for name, sequence in ranker.sequences.items():
        here = f"{place}.sequences.{name}"
        categorical = events.of_kind("categorical")
        _require_all(f"{here}.features", sequence.features or (), ("item_id", *categorical), "categorical feature")
        _require_all(f"{here}.only", _given(f.label for f in sequence.only), events.labels, "label")
        _require_all(f"{here}.only", _given(f.feature for f in sequence.only), categorical, "categorical feature")
        _require_all(f"{here}.encoder", _given([sequence.encoder]), tokens.encoders, "encoder")


def _check_labels(place: str, ensemble: Ensemble, models: Mapping[str, Ranker | Ensemble], events: Events) -> None:
    if not events.labels:
        raise ValueError(
            f"{place}: the events have no labels, and the members' predictions of sampled negatives cannot be matched; "
            "leave the ensemble out"
        )
    if not ensemble.labels_of(models, events):
        raise ValueError(f"{place}: there is no label that all of {', '.join(ensemble.ensemble)} predict")


def _given(names: Iterable[str | None]) -> Iterator[str]:
    return (name for name in names if name is not None)


def _require_all(place: str, names: Iterable[str], there: Iterable[str], what: str) -> None:
    valid = list(there)
    for name in names:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(valid) or 'none'}"
            raise ValueError(f"{place}: no {what} {name!r}; {hint}")


def _require_folder_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"{name!r} becomes a folder's name; use letters, digits, _ and -")
