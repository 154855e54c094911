"""From rows of the `events` table to the tensors that the models read. Imports torch: to be imported late."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from tokenlake.config import Config, Encoder, Ensemble, Ranker
from tokenlake.errors import SchemaError
from tokenlake.features.count_inputs import input_names, read_by
from tokenlake.features.keys import exploded, factorize, flat
from tokenlake.features.label_maturity import event_labels
from tokenlake.features.negatives import observed_label
from tokenlake.features.vectors import matrix
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.times import NEVER, as_micros
from tokenlake_models.config import CompressorConfig
from tokenlake_models.instances import Instances

#: From, and before: the instants (us) at which a label must become known to be trained on; None leaves a side open.
Targets: TypeAlias = tuple[int | None, int | None]


def label_names(config: Config) -> tuple[str, ...]:
    """Names of a model's targets: the config's labels, or for a log without any the `observed_label` alone."""
    return tuple(config.events.labels) or (observed_label(config.events.features),)


def labels_of(config: Config, model: Encoder | Ranker | Ensemble) -> tuple[str, ...]:
    """Names of the labels that a model predicts: all, unless a ranker names its own; of an ensemble those of all members."""
    if isinstance(model, Ensemble):
        return model.labels_of(config.models, config.events)
    return (model.labels if isinstance(model, Ranker) else None) or label_names(config)


class Featurizer:
    """Makes `Instances` of events, one row each, in the order of the rows.

    Args:
        config: the features, and the counts declared.
        model: what reads them; an encoder reads all features, a ranker those that it names.

    Attributes:
        labels: names of the columns of `Instances.labels`.

    >>> featurizer = Featurizer(config, encoder)
    >>> featurizer.grow(vocabulary, events)
    >>> model = InstanceCompressor(compressor_config(featurizer, encoder, vocabulary))
    >>> instances = featurizer(events, counts.features(events), vocabulary, targets=(None, day_start(today)))
    """

    def __init__(self, config: Config, model: Encoder | Ranker) -> None:
        self._config = config
        self._counts = read_by(config, model)
        self.labels = labels_of(config, model)
        read = _features_read(config, model)
        self._categorical = ("user_id", "item_id", *(n for n in config.events.of_kind("categorical") if n in read))
        self._multi = tuple(name for name in config.events.of_kind("multi") if name in read)
        self._numeric = tuple(name for name in config.events.of_kind("numeric") if name in read)
        self._vectors = tuple(name for name in config.events.of_kind("vector") if name in read)

    def grow(self, vocabulary: Vocabulary, events: pa.Table) -> None:
        """Add the events' values to the vocabulary."""
        for name in self._categorical:
            vocabulary.grow(name, events[name])
        for name in self._multi:
            vocabulary.grow(name, exploded(events[name])[1])
        for name in self._vectors:
            lengths = pc.list_value_length(events[name])
            vocabulary.fix_width(name, pc.max(lengths).as_py() or 0)

    def shape(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The fields of a model's config that tell its inputs and labels, as of a vocabulary."""
        rows = vocabulary.sizes()
        return {
            "labels": self.labels,
            "categorical": {name: rows[name] for name in self._categorical},
            "multi": {name: rows[name] for name in self._multi},
            "numeric": self._numeric,
            "vectors": self._widths(vocabulary),
            "counts": tuple(input_names(self._config)[i] for i in self._counts),
        }

    def __call__(
        self,
        events: pa.Table,
        counts: NDArray[np.float32],
        vocabulary: Vocabulary,
        *,
        targets: Targets | None = None,
        seen: NDArray[np.bool_] | None = None,
    ) -> Instances:
        """Turn events into tensors.

        Args:
            events: n rows, in any order.
            counts: float32 (n, len(input_names(config))), row by row those of the events.
            vocabulary: rows of the raw values; it is not grown.
            targets: which labels are training targets; without it none is, as scoring and encoding need none.
            seen: bool (n,), the events that later ones of the user may read; without it all.

        Returns:
            n instances; users are numbered in order of first appearance, as by `pyarrow.compute.unique`.

        Raises:
            SchemaError: counts of another shape, or vectors of another length than the vocabulary's.
        """
        expected = (events.num_rows, len(input_names(self._config)))
        if counts.shape != expected:
            raise SchemaError(f"counts of shape {counts.shape} given; expected {expected}, a row for each event")
        timestamps = as_micros(events["timestamp"], "timestamp")
        labels, known = self._targets(events, timestamps, targets)
        return Instances(
            categorical={name: torch.from_numpy(vocabulary.lookup(name, events[name])) for name in self._categorical},
            multi={name: _bags(name, events[name], vocabulary) for name in self._multi},
            numeric=torch.from_numpy(self._numbers(events)),
            vectors={
                name: torch.from_numpy(matrix(name, events[name], d)) for name, d in self._widths(vocabulary).items()
            },
            counts=torch.from_numpy(np.array(counts[:, self._counts], np.float32)),
            labels=torch.from_numpy(labels),
            known=torch.from_numpy(known),
            users=torch.from_numpy(factorize(flat(events["user_id"]))[0]),
            timestamps=torch.from_numpy(np.array(timestamps)),
            seen=None if seen is None else torch.from_numpy(seen),
        )

    def _widths(self, vocabulary: Vocabulary) -> dict[str, int]:
        return {name: width for name in self._vectors if (width := vocabulary.widths.get(name, 0))}

    def _numbers(self, events: pa.Table) -> NDArray[np.float32]:
        out = np.empty((events.num_rows, len(self._numeric)), np.float32)
        for i, name in enumerate(self._numeric):
            out[:, i] = events[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
        return out

    def _targets(
        self, events: pa.Table, timestamps: NDArray[np.int64], targets: Targets | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        names = self.labels
        labels = np.zeros((events.num_rows, len(names)), np.float32)
        known = np.zeros((events.num_rows, len(names)), np.bool_)
        if targets is None:
            return labels, known
        first, end = (0 if targets[0] is None else targets[0]), (NEVER if targets[1] is None else targets[1])
        for i, name in enumerate(names):
            label_values = event_labels(events, name, timestamps)
            known[:, i] = label_values.matures & (first <= label_values.known_from) & (label_values.known_from < end)
            labels[:, i] = label_values.positive & known[:, i]
        return labels, known


def compressor_config(featurizer: Featurizer, encoder: Encoder, vocabulary: Vocabulary) -> CompressorConfig:
    """Shape of an encoder's model that reads these features."""
    return CompressorConfig(
        **featurizer.shape(vocabulary),
        scheme=encoder.scheme,
        dim=encoder.dim,
        width=encoder.width,
        embedding=encoder.embedding,
        history=encoder.history,
        sit_layers=encoder.sit_layers,
        sit_heads=encoder.sit_heads,
        id_dropout=encoder.id_dropout,
        seed=encoder.seed,
    )


def _features_read(config: Config, model: Encoder | Ranker) -> set[str]:
    """The features of events that a model reads: a ranker's own, and those of its steps, which it compares with the row's."""
    if isinstance(model, Encoder):
        return set(config.events.features)
    steps = (sequence.features_of(config.events) for sequence in model.sequences.values())
    return {*model.features_of(config.events), *(name for names in steps for name in names)}


def _bags(name: str, column: pa.ChunkedArray, vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """A multi-valued feature as vocabulary rows (total,) and offsets (n + 1,)."""
    rows, values = exploded(column)
    offsets = np.searchsorted(rows, np.arange(len(column) + 1))
    return torch.from_numpy(vocabulary.lookup(name, values)), torch.from_numpy(offsets)
