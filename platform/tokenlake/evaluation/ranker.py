"""Evaluation of IAT's second stage: an HSTU ranker over the stored tokens, trained in one pass in order of time.

For every labelled event after the bootstrap chunk, the ranker reads the user's last tokens strictly before it from the
token store, with the labels known by then, and predicts the event's own token as the candidate. Once the label is known,
it learns from it in one step. So every prediction comes from a model that has seen no later event.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from tokenlake.catalog import Plan
from tokenlake.errors import NotFoundError
from tokenlake.evaluation.controls import title
from tokenlake.evaluation.tokens import TokenReport, read, report_on
from tokenlake.features import checkpoints
from tokenlake.features.day_features import DayFeatureCache
from tokenlake.features.instances import Featurizer, label_names
from tokenlake.features.label_maturity import event_labels
from tokenlake.features.versions import encoder_of, finished
from tokenlake.lake.project import Project
from tokenlake.pipeline.encoding import predictions_table
from tokenlake.progress import Progress
from tokenlake.times import DAY_US, NEVER, as_micros, day_start
from tokenlake.tokens.quantize import round_to
from tokenlake_models.hstu import HstuConfig, RankingBatch
from tokenlake_models.hstu_training import HstuLearner

#: Name of the model in the table `predictions`.
RANKER, RUNNING = "hstu ranker", "running base rate"


@dataclass(frozen=True)
class RankerOptions:
    """Shape and training settings of the ranker; the defaults suit two cores.

    Attributes:
        history: most tokens of a query.
        dim: width of the layers.
        layers: HSTU layers.
        heads: of attention.
        preset: see `tokenlake_models.hstu.HstuConfig`.
        batch: labelled rows a step, about.
        learning_rate: of AdamW.
        seed: of the weights.
    """

    history: int = 64
    dim: int = 64
    layers: int = 2
    heads: int = 2
    preset: Literal["research", "stu"] = "stu"
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0


def ranker_version(lake: Project, version: str, options: RankerOptions) -> str:
    """The version of the predictions of a ranker over one version's tokens."""
    made_of = [version, dataclasses.asdict(options), lake.config.events.model_dump(mode="json")]
    return f"ranker-{hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]}"


def is_trained(lake: Project, version: str, options: RankerOptions) -> bool:
    """Whether the ranker has predictions for all rows that the source model has."""
    days = [plan.day for plan in _plans(lake, version)]
    if not days:
        return False
    span = (days[0], days[-1])
    theirs = lake.predictions.read(version=version, between=span, columns=["ds"])["ds"]
    ours = lake.predictions.read(version=ranker_version(lake, version, options), between=span, columns=["ds"])["ds"]
    return len(ours) == 2 * len(theirs.filter(pc.is_in(theirs, value_set=pa.array(days))))


def train_ranker(
    lake: Project, version: str, options: RankerOptions | None = None, progress: Progress | None = None
) -> int:
    """Train a ranker on one version's tokens, and write its predictions into `predictions`.

    Its state is not stored. Predictions of the running base rate, the share of positives among the labels learned so
    far, are written too.

    Args:
        lake: the lake.
        version: version of the tokens, as returned by `lake.resolve`.
        options: options of the ranker.
        progress: called after each day.

    Returns:
        Number of predicted rows.

    Raises:
        NotFoundError: no day after the bootstrap chunk is published yet.
    """
    options = options or RankerOptions()
    plans = _plans(lake, version)
    if not plans:
        raise NotFoundError(
            f"{version} has no published day after the bootstrap chunk yet; `tokenlake backfill` makes them"
        )
    stream = _Stream(lake, version, options)
    name = ranker_version(lake, version, options)
    written: list[pa.Table] = []
    for i, plan in enumerate(plans):
        day = _read_day(lake, version, plan)
        scores, running = stream.take(day.rows, day_start(plan.day) + DAY_US)
        for model, values in ((RANKER, scores), (RUNNING, running)):
            written.append(predictions_table(lake, day.events, values, model, name))
        if progress:
            progress(RANKER, i + 1, len(plans))
    lake.predictions.replace_version(name, pa.concat_tables(written))
    rows: int = sum(table.num_rows for table in written) // 2
    return rows


def ranker_report(
    lake: Project, version: str, options: RankerOptions | None = None, *, resamples: int = 200
) -> TokenReport:
    """Score a trained ranker, the base rate, the running base rate and the source model on the same rows.

    Args:
        lake: the lake.
        version: version of the tokens.
        options: options of the trained ranker.
        resamples: number of resamples of the user bootstrap.

    Raises:
        NotFoundError: the ranker is not trained.
        OrderError: the source model has new predictions since.
    """
    name = ranker_version(lake, version, options or RankerOptions())
    days = lake.predictions.days(name)
    if not days:
        raise NotFoundError(f"no ranker over {version} yet; `tokenlake evaluate --part ranker` trains one")
    ours = read(lake, name, days)
    encoder = encoder_of(lake, version)
    tables = {title(f"{encoder.scheme} (source)", encoder): read(lake, version, days)}
    tables |= {model: ours.filter(pc.field("model") == model) for model in (RUNNING, RANKER)}
    return report_on(lake, tables, dict(zip(tables, (version, name, name), strict=True)), resamples)


def _plans(lake: Project, version: str) -> list[Plan]:
    """Plans of published days that were encoded by a model not trained on them."""
    there = finished(lake, version)
    return [plan for plan in lake.catalog.plans(version) if plan.day in there and not plan.bootstrap]


@dataclass(frozen=True, slots=True)
class _CandidateRows:
    """Candidates, one per row.

    Attributes:
        users: user ids.
        timestamps: `(n,)` microseconds.
        tokens: `(n, dim)`, from each row's own features only.
        targets: `(n, L)`, 0 where unknown.
        known_from: `(n, L)` the instant from which the label can be used for training; NEVER if it is not known.
    """

    users: pa.Array
    timestamps: NDArray[np.int64]
    tokens: NDArray[np.float32]
    targets: NDArray[np.float32]
    known_from: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.timestamps)

    def take(self, index: NDArray[np.int64]) -> _CandidateRows:
        return _CandidateRows(
            self.users.take(pa.array(index)),
            self.timestamps[index],
            self.tokens[index],
            self.targets[index],
            self.known_from[index],
        )

    def followed_by(self, other: _CandidateRows) -> _CandidateRows:
        return _CandidateRows(
            pa.concat_arrays([self.users, other.users]),
            np.concatenate([self.timestamps, other.timestamps]),
            np.concatenate([self.tokens, other.tokens]),
            np.concatenate([self.targets, other.targets]),
            np.concatenate([self.known_from, other.known_from]),
        )


@dataclass(frozen=True, slots=True)
class _CandidateDay:
    events: pa.Table
    rows: _CandidateRows


def _read_day(lake: Project, version: str, plan: Plan) -> _CandidateDay:
    """A day's events as the daily job encodes them, sampled negatives included."""
    features = lake.shared(DayFeatureCache).read(plan.day, plan.watermark, complete=True)
    checkpoint = checkpoints.load(lake, version, plan.checkpoint)
    instances = Featurizer(lake.config, encoder_of(lake, version))(
        features.events, features.counts, checkpoint.vocabulary, seen=features.visible
    )
    tokens = round_to(checkpoint.learner.encode(instances).numpy(), lake.config.tokens.dtype)
    timestamps = as_micros(features.events["timestamp"], "timestamp")
    values_by_label = [event_labels(features.events, label, timestamps) for label in label_names(lake.config)]
    users = features.events["user_id"]
    rows = _CandidateRows(
        users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users,
        timestamps,
        tokens,
        np.stack([outcome.positive for outcome in values_by_label], 1).astype(np.float32),
        np.stack([np.where(outcome.matures, outcome.known_from, NEVER) for outcome in values_by_label], 1),
    )
    return _CandidateDay(features.events, rows)


class _Stream:
    """Progressive training over days in order: predicts every candidate, and learns from it once its label is known."""

    def __init__(self, lake: Project, version: str, options: RankerOptions) -> None:
        self._store = lake.tokens(version)
        self._labels = label_names(lake.config)
        self._options = options
        shape = {field: getattr(options, field) for field in ("history", "dim", "layers", "heads", "preset", "seed")}
        config = HstuConfig(self._store.schema.dim, self._labels, **shape)
        self._learner = HstuLearner(config, learning_rate=options.learning_rate)
        self._pending: _CandidateRows | None = None
        # Starts as one positive of two rows, which a few labels outweigh.
        self._positive, self._learned = np.full(len(self._labels), 0.5), np.ones(len(self._labels))

    def take(self, rows: _CandidateRows, until: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict a day's rows in batches, and learn from labels known before `until`, the end of the day.

        Returns:
            `(n, L)` probabilities of the ranker and of the running base rate.
        """
        scores, running = np.zeros_like(rows.targets), np.zeros_like(rows.targets)
        parts = _batches(rows.timestamps, self._options.batch)
        starts = [int(rows.timestamps[part[0]]) for part in parts]
        for part, start, end in zip(parts, starts, [*starts[1:], until], strict=True):
            self._learn_matured(start)
            running[part] = self._positive / self._learned
            scores[part] = self._step(rows.take(part), end)
        return scores, running

    def _step(self, rows: _CandidateRows, until: int) -> NDArray[np.float32]:
        """Predict some rows, learn from labels known before `until`, and keep the other rows for later."""
        learn = rows.known_from < until
        later = ~learn & (rows.known_from < NEVER)
        if later.any():
            waiting = np.flatnonzero(later.any(1))
            # A label that is learned now must not be learned again later.
            kept = dataclasses.replace(rows.take(waiting), known_from=np.where(later, rows.known_from, NEVER)[waiting])
            self._pending = kept if self._pending is None else self._pending.followed_by(kept)
        self._positive += (rows.targets * learn).sum(0)
        self._learned += learn.sum(0)
        batch, order = self._ranking_batch(rows)
        probabilities = self._learner.step(batch, torch.from_numpy(rows.targets[order]), torch.from_numpy(learn[order]))
        out = np.empty_like(rows.targets)
        out[order] = probabilities.numpy()
        return out

    def _learn_matured(self, now: int) -> None:
        """Learn from earlier rows whose labels became known before `now`."""
        pending = self._pending
        if pending is None or not (due := (pending.known_from < now).any(1)).any():
            return
        self._pending = pending.take(np.flatnonzero(~due)) if not due.all() else None
        ready = pending.take(np.flatnonzero(due))
        for part in _batches(ready.timestamps, self._options.batch):
            self._step(ready.take(part), now)

    def _ranking_batch(self, rows: _CandidateRows) -> tuple[RankingBatch, NDArray[np.int64]]:
        """One query per user and time with all its candidates, and the order of the rows in the batch."""
        codes = rows.users.dictionary_encode().indices.to_numpy()
        order = np.lexsort((codes, rows.timestamps))
        times, codes = rows.timestamps[order], codes[order]
        fresh = np.ones(len(order), bool)
        fresh[1:] = (times[1:] != times[:-1]) | (codes[1:] != codes[:-1])
        first = np.flatnonzero(fresh)
        batch = self._store.fetch(
            rows.users.take(pa.array(order[first])), before=times[first], length=self._options.history
        ).torch()
        scale = 1.0 if batch.scales is None else batch.scales[:, None]
        known = [
            torch.where(batch.known[name], (batch.side[name] > 0).long() + 1, 0)
            if name in batch.known
            else torch.zeros_like(batch.timestamps)
            for name in self._labels
        ]
        ranking_batch = RankingBatch(
            tokens=batch.values.float() * scale,
            timestamps=batch.timestamps,
            labels=torch.stack(known, 1),
            offsets=batch.offsets,
            as_of=torch.from_numpy(times[first]),
            candidates=torch.from_numpy(rows.tokens[order]),
            candidate_offsets=torch.from_numpy(np.append(first, len(order))),
        )
        return ranking_batch, order


def _batches(timestamps: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Rows in order of time, in batches of about `size`; equal timestamps are never separated."""
    order = np.argsort(timestamps, kind="stable")
    ordered = timestamps[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else order
    chosen = starts[np.unique(np.searchsorted(starts, np.arange(0, len(order), size)).clip(max=len(starts) - 1))]
    return np.split(order, chosen[1:]) if len(order) else []
