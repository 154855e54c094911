"""The configs of the models: their inputs, widths and seeds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tokenlake_models.errors import CheckpointError, ModelError

C = TypeVar("C", bound="InputsConfig")


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """What every model of instances has: inputs, labels, widths, seed.

    Attributes:
        labels: names of the targets, in the order of `Instances.labels`' columns.
        categorical: `{name: vocabulary rows}`, row 0 out of vocabulary; `user_id` and `item_id` among them.
        multi: likewise for multi-valued features.
        numeric: names of `Instances.numeric`'s columns.
        vectors: `{name: width}`.
        counts: names of `Instances.counts`' columns; with `()` the model ignores counts.
        width: width of the hidden layers.
        embedding: width of one feature's embedding.
        id_dropout: share of ids that training replaces by row 0.
        seed: of the initial weights.
    """

    labels: tuple[str, ...] = ("label",)
    categorical: dict[str, int] = field(default_factory=dict)
    multi: dict[str, int] = field(default_factory=dict)
    numeric: tuple[str, ...] = ()
    vectors: dict[str, int] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    width: int = 256
    embedding: int = 16
    id_dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.labels:
            raise ModelError("labels is empty; a model learns from at least one label")
        if missing := {"user_id", "item_id"} - self.categorical.keys():
            raise ModelError(f"categorical must hold user_id and item_id, {sorted(missing)} missing")
        if both := self.categorical.keys() & self.multi.keys():
            raise ModelError(f"{sorted(both)} are both categorical and multi")
        for name, rows in self.rows.items():
            if rows < 1:
                raise ModelError(
                    f"{name!r} has {rows} rows; at least 1 is needed, row 0 being the out-of-vocabulary one"
                )

    @property
    def rows(self) -> dict[str, int]:
        """Rows of every embedded feature."""
        return {**self.categorical, **self.multi}

    @property
    def categorical_inputs(self) -> tuple[str, ...]:
        """The categorical features that are inputs of the interaction."""
        return tuple(self.categorical)

    def with_rows(self: C, rows: dict[str, int]) -> C:
        """A copy with other vocabulary sizes."""
        return dataclasses.replace(
            self,
            categorical={name: rows[name] for name in self.categorical},
            multi={name: rows[name] for name in self.multi},
        )

    @classmethod
    def from_dict(cls: type[C], data: Any) -> C:
        """Create a config from `dataclasses.asdict`; lists are read as tuples.

        Raises:
            CheckpointError: unknown or missing fields, or invalid values.
        """
        try:
            return cls(**tupled(data))
        except (AttributeError, TypeError, ModelError) as error:
            raise CheckpointError(f"no {cls.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class CompressorConfig(InputsConfig):
    """Inputs and shape of a model (IAT stage one; the baselines use the inputs, labels and seed).

    Attributes:
        scheme: `user-order` trains through SIT over the user's tokens, `temporal-order` each instance alone.
        dim: width of a token.
        history: number of earlier tokens of the user that SIT reads (T - 1).
        sit_layers: layers of SIT.
        sit_heads: attention heads of SIT; divides `dim`.
    """

    scheme: Literal["user-order", "temporal-order"] = "user-order"
    dim: int = 64
    history: int = 127
    sit_layers: int = 2
    sit_heads: int = 4

    def __post_init__(self) -> None:
        if self.scheme not in ("user-order", "temporal-order"):
            raise ModelError(f"scheme: 'user-order' or 'temporal-order' expected, got {self.scheme!r}")
        super().__post_init__()
        if self.dim % self.sit_heads:
            raise ModelError(
                f"dim {self.dim} is no multiple of sit_heads {self.sit_heads}; choose heads that divide it"
            )


def tupled(data: Any) -> dict[str, Any]:
    """A dataclass's fields as JSON has them, with tuples for lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
