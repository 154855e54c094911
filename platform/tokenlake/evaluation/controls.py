"""Controls: models that are trained and scored on the same days as an encoder, for comparison only.

They follow the encoder's plans: the same training days before the same scored days. Their predictions are in the table
`predictions` under a version that begins with `control-`; their tokens are not published.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tokenlake.catalog import Plan
from tokenlake.config import Encoder
from tokenlake.features.day_features import DayFeatureCache, DayFeatures
from tokenlake.features.token_history import fetch_history
from tokenlake.lake.project import Project
from tokenlake.pipeline.encoding import predictions_table
from tokenlake.pipeline.parallel import each_in_its_process
from tokenlake.pipeline.training import ModelKind, Trainer
from tokenlake.progress import Progress
from tokenlake.times import Day
from tokenlake.tokens.quantize import round_to
from tokenlake.tokens.store import TokenStore
from tokenlake_models.instances import History

#: How reports call what a model counts.
BUILT_IN, DECLARED = "built-in counts", "declared counts"


@dataclass(frozen=True)
class Control:
    """One control model.

    Attributes:
        name: name in the report.
        kind: the encoder's own architecture, or logistic regression on the same features.
        encoder: scheme, widths, and whether running counts are inputs.
    """

    name: str
    kind: ModelKind
    encoder: Encoder

    def version(self, lake: Project) -> str:
        """The version of its predictions, which depends on the model and the features."""
        made_of = [self.kind, self.encoder.model_dump(mode="json"), lake.config.events.model_dump(mode="json")]
        made_of += [
            count.model_dump(mode="json", exclude={"serve"}) for count in lake.config.counts_of(self.encoder).values()
        ]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return f"control-{self.name.replace(' ', '-')}-{digest[:8]}"


def controls_of(lake: Project) -> list[Control]:
    """Each scheme of the config with its counts taken away (or added), and logistic regression with and without counts."""
    encoders = _first_of_each_scheme(lake.config.tokens.encoders)
    switched = [encoder.model_copy(update={"counts": not encoder.counts}) for encoder in encoders.values()]
    serving = lake.config.tokens.encoders[lake.config.tokens.serving_name]
    settings = (serving.counts or True, False)
    alone = [serving.model_copy(update={"counts": counts, "scheme": "temporal-order"}) for counts in settings]
    return [
        *(Control(title(encoder.scheme, encoder), "compressor", encoder) for encoder in switched),
        *(Control(title("logistic", encoder), "logistic", encoder) for encoder in alone),
    ]


def reading_declared(lake: Project) -> dict[str, Encoder]:
    """Of each scheme the first encoder of the config that reads declared counts, by name."""
    encoders = lake.config.tokens.encoders.items()
    return _first_of_each_scheme({name: encoder for name, encoder in encoders if lake.config.counts_of(encoder)})


def with_built_in(encoder: Encoder) -> Control:
    """An encoder that reads declared counts, with the built-in ones in their place."""
    return Control(f"{encoder.scheme} with {BUILT_IN}", "compressor", encoder.model_copy(update={"counts": True}))


def title(what: str, encoder: Encoder) -> str:
    """Name of a model in a report."""
    if isinstance(encoder.counts, bool):
        return what if encoder.counts else f"{what} without counts"
    return f"{what} with {DECLARED}"


def _first_of_each_scheme(encoders: dict[str, Encoder]) -> dict[str, Encoder]:
    firsts = {encoder.scheme: name for name, encoder in reversed(encoders.items())}
    return {name: encoder for name, encoder in encoders.items() if firsts[encoder.scheme] == name}


class HasVersion(Protocol):
    """A model that is trained for comparison, such as a `Control`."""

    def version(self, lake: Project) -> str:
        """The version of its predictions."""


def is_complete(lake: Project, model: HasVersion, plans: list[Plan]) -> bool:
    """Whether a model has predictions for all days of the plans."""
    there = set(lake.predictions.days(model.version(lake)))
    return all(plan.day in there for plan in plans if not plan.bootstrap)


def run_control(lake: Project, control: Control, plans: list[Plan], progress: Progress | None = None) -> int:
    """Train and score a control along the given plans; returns the rows written to `predictions`.

    It always runs from the first day, since only a control's predictions are stored, not its state.
    """
    version = control.version(lake)
    scored: list[pa.Table] = []
    with tempfile.TemporaryDirectory(prefix="tokenlake-control-") as folder:
        model = _Progressive(lake, control, Path(folder) / "tokens")
        for i, plan in enumerate(plans):
            features = lake.shared(DayFeatureCache).read(plan.day, plan.watermark)
            scores = model.score(plan, features)
            if not plan.bootstrap:
                scored.append(predictions_table(lake, features.events, scores, control.name, version))
            if progress:
                progress(control.name, i + 1, len(plans))
    if scored:
        lake.predictions.replace_version(version, pa.concat_tables(scored))
    return sum(table.num_rows for table in scored)


def run_controls(lake: Project, controls: Sequence[Control], progress: Progress | None = None) -> int:
    """Run controls along the serving version's plans; returns the rows written to `predictions`."""
    return sum(each_in_its_process(parts_of_controls(lake, controls), progress))


def parts_of_controls(lake: Project, controls: Sequence[Control]) -> list[Callable[[Progress], int]]:
    """Each control as a callable for `each_in_its_process`."""
    return [partial(_control, lake, control) for control in controls]


def _control(lake: Project, control: Control, progress: Progress) -> int:
    return run_control(lake, control, lake.catalog.plans(lake.resolve()), progress)


class _Progressive:
    """Trains and scores a control day by day along the plans, with a separate token store for SIT's history."""

    def __init__(self, lake: Project, control: Control, store: Path) -> None:
        self._encoder = control.encoder
        self._dtype = lake.config.tokens.dtype
        self._trainer = Trainer(lake, control.encoder, kind=control.kind)
        self._checkpoint: str | None = None
        self._store: TokenStore | None = None
        if control.kind == "compressor" and self._encoder.scheme == "user-order" and self._encoder.history:
            self._store = TokenStore.create(store, dim=self._encoder.dim, dtype=self._dtype)

    def score(self, plan: Plan, features: DayFeatures) -> NDArray[np.float32]:
        if plan.checkpoint != self._checkpoint:
            self._trainer.fit(plan, self._history)
            self._checkpoint = plan.checkpoint
        learner = self._trainer.learner
        history = self._history(features.events, plan.day)
        scores: NDArray[np.float32] = learner.score(self._trainer.instances(features), history).numpy()
        if self._store is not None:
            real = features.without_negatives()
            tokens = round_to(learner.encode(self._trainer.instances(real)).numpy(), self._dtype)
            self._store.write_day(plan.day, real.events["user_id"], real.events["timestamp"], tokens)
        return scores

    def _history(self, events: pa.Table, before: Day) -> History | None:
        if self._store is None:
            return None
        return fetch_history(self._store, pc.unique(events["user_id"]), before=before, length=self._encoder.history)
