"""The config of a ranker: inputs, interaction, and the sequences that it reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenlake_models.config import InputsConfig, tupled
from tokenlake_models.errors import CheckpointError, ModelError

Source = Literal["events", "tokens"]
SequenceModel = Literal["din", "transformer", "longer", "hstu"]
InteractionName = Literal["dcn", "mixer"]


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """One sequence of a ranker, and the model that reads it.

    Attributes:
        name: of the sequence in `RankingRows.sequences`.
        source: `events`: earlier events by their categorical features; `tokens`: stored tokens.
        model: `din`, attention of the candidate to the steps; `transformer`, causal self-attention among the steps
            before it; `longer` (arXiv 2505.04421), the last steps and some learned tokens read the whole sequence and
            each other before it; `hstu`, HSTU layers over the steps with the candidates at their end.
        length: most steps of a query.
        width: of the layers and of the result; a multiple of `heads`.
        layers: of `transformer`, `longer` and `hstu`.
        heads: attention heads.
        categorical: of `events`: the features of every step.
        labels: whether labels, ages and gaps of the steps are side information; if not, only their order is.
        token_dim: of `tokens`: their width.
    """

    name: str
    source: Source = "events"
    model: SequenceModel = "din"
    length: int = 100
    width: int = 32
    layers: int = 1
    heads: int = 2
    categorical: tuple[str, ...] = ()
    labels: bool = True
    token_dim: int = 0

    def __post_init__(self) -> None:
        where = f"sequence {self.name!r}"
        for key, value, choices in (
            ("source", self.source, ("events", "tokens")),
            ("model", self.model, ("din", "transformer", "longer", "hstu")),
        ):
            if value not in choices:
                raise ModelError(f"{where}: {key} is one of {list(choices)}, got {value!r}")
        for key in ("length", "width", "layers", "heads"):
            if getattr(self, key) < 1:
                raise ModelError(f"{where}: {key} must be at least 1, got {getattr(self, key)}")
        if self.width % self.heads:
            raise ModelError(
                f"{where}: width {self.width} is no multiple of heads {self.heads}; choose heads that divide it"
            )
        if self.source == "events" and not self.categorical:
            raise ModelError(f"{where}: steps of events need at least one categorical feature")
        if self.source == "tokens" and (self.token_dim < 1 or self.categorical):
            raise ModelError(
                f"{where}: tokens have a token_dim of at least 1 and no categorical features, "
                f"got {self.token_dim} and {list(self.categorical)}"
            )


@dataclass(frozen=True, kw_only=True)
class RankerConfig(InputsConfig):
    """Inputs and shape of a ranker.

    Attributes:
        ids: whether `user_id` and `item_id` are inputs of the interaction; sequences may read them in any case.
        interaction: `dcn`, crosses of DCN-v2; `mixer`, token mixing as in RankMixer (arXiv 2507.15551).
        layers: crosses, or mixing blocks.
        sequences: each gives one more input of the interaction.
        step_rows: `{name: vocabulary rows}` of features that only steps have, not the rows.
        grid: width of the embedding of each number (`NumberGrid`), beside its standardised value; 0: none.
        rates: names among `numeric` and `counts` of numbers from 0 to 1, such as shares and means of labels.
        logarithms: names among `numeric` and `counts` of numbers that are logarithms already, such as log1p of a count.
        averaged: whether scores come from the average of the weights over the last tenth of all steps, about.
    """

    ids: bool = True
    interaction: InteractionName = "dcn"
    layers: int = 2
    sequences: tuple[SequenceConfig, ...] = ()
    step_rows: dict[str, int] = field(default_factory=dict)
    grid: int = 8
    rates: tuple[str, ...] = ()
    logarithms: tuple[str, ...] = ()
    averaged: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interaction not in ("dcn", "mixer"):
            raise ModelError(f"interaction: 'dcn' or 'mixer' expected, got {self.interaction!r}")
        if self.layers < 1:
            raise ModelError(f"layers must be at least 1, got {self.layers}")
        if self.grid < 0:
            raise ModelError(f"grid is the width of a number's embedding, 0 for none, got {self.grid}")
        for kind, given in (("rates", self.rates), ("logarithms", self.logarithms)):
            if unknown := [name for name in given if name not in {*self.numeric, *self.counts}]:
                raise ModelError(f"{kind}: {unknown} are neither numeric nor counts of this model")
        if not (self.categorical_inputs or self.multi or self.numeric or self.vectors or self.counts):
            raise ModelError("a ranker needs inputs of its rows: ids, a feature, or a count")
        if both := self.step_rows.keys() & {*self.categorical, *self.multi}:
            raise ModelError(f"{sorted(both)} are features of the rows and in step_rows, which is for other features")
        names = [sequence.name for sequence in self.sequences]
        if len(set(names)) < len(names):
            raise ModelError(f"every sequence needs its own name, got {names}")
        single = self.categorical.keys() | self.step_rows.keys()
        for sequence in self.sequences:
            if unknown := [name for name in sequence.categorical if name not in single]:
                raise ModelError(
                    f"sequence {sequence.name!r}: {unknown} are no categorical features of this model, "
                    f"which has {sorted(single)}"
                )

    @property
    def rows(self) -> dict[str, int]:
        """Rows of every embedded feature."""
        return {**super().rows, **self.step_rows}

    @property
    def categorical_inputs(self) -> tuple[str, ...]:
        """The categorical features that are inputs of the interaction."""
        return tuple(name for name in self.categorical if self.ids or name not in ("user_id", "item_id"))

    def with_rows(self, rows: dict[str, int]) -> RankerConfig:
        """A copy with other vocabulary sizes."""
        step_rows = {name: rows[name] for name in self.step_rows}
        return dataclasses.replace(super().with_rows(rows), step_rows=step_rows)

    @classmethod
    def from_dict(cls, data: Any) -> RankerConfig:
        """Create a config from `dataclasses.asdict`; lists are read as tuples.

        Raises:
            CheckpointError: unknown or missing fields, or invalid values.
        """
        try:
            sequences = tuple(SequenceConfig(**tupled(sequence)) for sequence in data.get("sequences", ()))
        except (AttributeError, TypeError, ModelError) as error:
            raise CheckpointError(f"no {cls.__name__}: {error}") from error
        return super().from_dict({**data, "sequences": sequences})
