"""From day features to what a ranker trains on and scores: rows by query, and the sequences each query reads.

A query is a user at an instant; its rows are the candidates of that instant. Whatever a query reads of the past is
strictly before its time: the row's own timestamp, or for a ranker that is `available: daily` the start of its day.
Imports torch: to be imported late.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import torch

from tokenlake.config import Ranker, RankerSequence
from tokenlake.features.activity import EventDayCache, EventLog, Instants, take_ranges
from tokenlake.features.count_inputs import logarithms, rates
from tokenlake.features.day_features import DayFeatures
from tokenlake.features.instances import Featurizer, Targets
from tokenlake.features.keys import Ints, factorize, flat
from tokenlake.features.ranker_sequences import EventSteps, StepSource, TokenSteps
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.lake.project import Project
from tokenlake.times import DAY_US, Day, day_of
from tokenlake_models.instances import Instances
from tokenlake_models.ranker_config import RankerConfig, SequenceConfig
from tokenlake_models.ranking import RankingRows


class RankerFeaturizer:
    """Makes the inputs of one ranker.

    Args:
        lake: the lake; events and tokens are read from it.
        spec: the ranker's settings.
    """

    def __init__(self, lake: Project, spec: Ranker) -> None:
        self._lake, self._spec = lake, spec
        self._featurizer = Featurizer(lake.config, spec)

    def grow(self, vocabulary: Vocabulary, events: pa.Table) -> None:
        """Add the events' values to the vocabulary."""
        self._featurizer.grow(vocabulary, events)

    def ranker_config(self, vocabulary: Vocabulary) -> RankerConfig:
        """Shape of a ranker that reads these inputs."""
        spec, shape = self._spec, self._featurizer.shape(vocabulary)
        counts = shape["counts"]
        return RankerConfig(
            **shape,
            rates=tuple(name for name in counts if name in rates(self._lake.config)),
            logarithms=tuple(name for name in counts if name in logarithms(self._lake.config)),
            ids=spec.ids,
            interaction=spec.interaction,
            embedding=spec.embedding,
            width=spec.width,
            layers=spec.layers,
            id_dropout=spec.id_dropout,
            seed=spec.seed,
            sequences=tuple(self._sequence_config(name, sequence) for name, sequence in spec.sequences.items()),
        )

    def data(
        self,
        features: DayFeatures,
        vocabulary: Vocabulary,
        watermark: int,
        *,
        targets: Targets | None = None,
        complete: Day | None = None,
    ) -> RankerData:
        """Rows as a ranker reads them.

        Args:
            features: the rows, of one day or several, with their counts.
            vocabulary: rows of the raw values; it is not grown.
            watermark: bound on `ingested_at` (us) of the events that sequences are made of.
            targets: which labels are training targets; rows without any are left out then. Without it, none is a
                target, and all rows are there.
            complete: a day of which all events are read, also those that were ingested after the watermark.
        """
        instances = self._featurizer(features.events, features.counts, vocabulary, targets=targets)
        kept = np.arange(len(instances)) if targets is None else np.flatnonzero(instances.known.any(1).numpy())
        codes, users = factorize(flat(features.events["user_id"]))
        as_of = self.as_of(instances.timestamps.numpy())
        order = kept[np.lexsort((codes[kept], as_of[kept]))]
        fresh = np.ones(len(order), np.bool_)
        fresh[1:] = (np.diff(as_of[order]) != 0) | (np.diff(codes[order]) != 0)
        first = np.flatnonzero(fresh)
        asking, times = users.take(pa.array(codes[order[first]])), as_of[order[first]]
        sequences = self._steps(vocabulary, asking, times, watermark, complete)
        return RankerData(
            instances.select(torch.from_numpy(order)), order, np.append(first, len(order)), times, sequences
        )

    def as_of(self, timestamps: Instants) -> Instants:
        """The instant (us) before which rows of these timestamps read."""
        return timestamps - timestamps % DAY_US if self._spec.available == "daily" else timestamps

    def _steps(
        self, vocabulary: Vocabulary, users: pa.Array, as_of: Instants, watermark: int, complete: Day | None
    ) -> dict[str, StepSource]:
        there = self._lake.config.events.labels
        labels = [name if name in there else None for name in self._featurizer.labels]
        steps: dict[str, StepSource] = {}
        for name, sequence in self._spec.sequences.items():
            if sequence.of == "tokens":
                version = token_version(self._lake, sequence)
                unread = bootstrap_days(self._lake, version)
                steps[name] = TokenSteps(self._lake.tokens(version), sequence.length, labels, users, as_of, unread)
            else:
                read = sequence.features_of(self._lake.config.events)
                log = self._log(sequence, as_of, watermark, complete)
                steps[name] = EventSteps(log, sequence, labels, read, vocabulary, users, as_of)
        return steps

    def _log(self, sequence: RankerSequence, as_of: Instants, watermark: int, complete: Day | None) -> EventLog:
        first, last = Day.min, Day.min
        if len(as_of):
            last = day_of(int(as_of.max()))
            first = day_of(int(as_of.min())) - sequence.reach if sequence.reach else Day.min
        return self._lake.shared(EventDayCache).read(first, last, watermark, complete=complete)

    def _sequence_config(self, name: str, sequence: RankerSequence) -> SequenceConfig:
        dim = 0
        if sequence.of == "tokens":
            dim = self._lake.config.tokens.encoders[encoder_name(self._lake, sequence)].dim
        return SequenceConfig(
            name=name,
            source=sequence.of,
            model=sequence.model,
            length=sequence.length,
            width=sequence.width,
            layers=sequence.layers,
            heads=sequence.heads,
            categorical=sequence.features_of(self._lake.config.events),
            labels=sequence.labels,
            token_dim=dim,
        )


class RankerData:
    """Rows of a ranker by query, queries in order of time; sequences are made when a batch is asked for.

    Attributes:
        instances: the rows, by query.
        order: int64 (n,), which of the rows given each is.
        offsets: int64 (q + 1,), the rows of each query.
    """

    def __init__(
        self, instances: Instances, order: Ints, offsets: Ints, as_of: Instants, steps: Mapping[str, StepSource]
    ) -> None:
        self.instances, self.order = instances, order
        self.offsets = torch.from_numpy(offsets)
        self._as_of, self._steps = as_of, steps

    def batch(self, queries: torch.Tensor) -> RankingRows:
        """The rows of some queries, in this order."""
        chosen, offsets = queries.numpy(), self.offsets.numpy()
        rows, cut = take_ranges(np.arange(len(self.order)), offsets[chosen], offsets[chosen + 1])
        return RankingRows(
            instances=self.instances.select(torch.from_numpy(rows)),
            offsets=torch.from_numpy(cut),
            as_of=torch.from_numpy(self._as_of[chosen]),
            sequences={name: steps.batch(chosen) for name, steps in self._steps.items()},
        )


def encoder_name(lake: Project, sequence: RankerSequence) -> str:
    """The encoder whose tokens a sequence reads."""
    return sequence.encoder or lake.config.tokens.serving_name


def token_version(lake: Project, sequence: RankerSequence) -> str:
    """The version of the tokens that a sequence reads: the config's, which the model's own version depends on."""
    return lake.config.version_of(encoder_name(lake, sequence))


def bootstrap_days(lake: Project, version: str) -> Collection[Day]:
    """Days whose tokens were made by an encoder that was trained on them."""
    return {plan.day for plan in lake.catalog.plans(version) if plan.bootstrap}
