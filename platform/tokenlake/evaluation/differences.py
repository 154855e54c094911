"""One model less another on the same rows, with intervals from the same draws of users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.evaluation.tokens import KEYS
from tokenlake_models.metrics import Interval, user_bootstrap_difference


@dataclass(frozen=True)
class Difference:
    """One model less another on the same rows, with 95% intervals from the same draws of users.

    Attributes:
        model: name in the report.
        against: name of the other.
        label: the label.
        auc: above 0 where `model` is better; None where there is nothing to measure.
        ne: below 0 where `model` is better.
    """

    model: str
    against: str
    label: str
    auc: Interval | None
    ne: Interval | None


@dataclass(frozen=True)
class Aligned:
    """All models' predictions of one label, row by row.

    Attributes:
        label: the label.
        target: (n,) 0 or 1.
        users: (n,) a number for each user.
        values: model -> (n,) probabilities; of a mean over k models (k, n).
    """

    label: str
    target: NDArray[np.int8]
    users: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, tables: Mapping[str, pa.Table], label: str) -> Aligned:
        """Of the models that predict a label, given all models' rows of `predictions` of the same events."""
        parts = {model: table.filter(pc.field("label") == label).sort_by(KEYS) for model, table in tables.items()}
        values = {model: part["value"].to_numpy() for model, part in parts.items() if part.num_rows}
        some = parts[next(iter(values))]
        users: NDArray[np.int64] = pc.index_in(some["user_id"], value_set=pc.unique(some["user_id"])).to_numpy()
        return cls(label, some["target"].to_numpy(), users, values)

    def difference(self, model: str, against: str, resamples: int) -> Difference:
        """One model less another."""
        one, other = self.values[model], self.values[against]

        def of(metric: Literal["auc", "ne"]) -> Interval | None:
            return user_bootstrap_difference(metric, self.target, one, other, self.users, resamples=resamples)

        return Difference(model, against, self.label, of("auc"), of("ne"))
