"""From rows of the `events` table to the tensors that the models read. Imports torch: to be imported late."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from tokenlake.config import Config, Encoder
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


class Featurizer:
    """Makes `Instances` of events, one row each, in the order of the rows.

    >>> featurizer = Featurizer(config, encoder)
    >>> featurizer.grow(vocabulary, events)
    >>> model = InstanceCompressor(featurizer.compressor_config(vocabulary))
    >>> instances = featurizer(events, counts.features(events), vocabulary, targets=(None, day_start(today)))
    """

    def __init__(self, config: Config, encoder: Encoder) -> None:
        self._config = config
        self._encoder = encoder
        self._counts = read_by(config, encoder)
        self._categorical = ("user_id", "item_id", *config.events.of_kind("categorical"))
        self._multi = config.events.of_kind("multi")
        self._numeric = config.events.of_kind("numeric")
        self._vectors = config.events.of_kind("vector")

    def grow(self, vocabulary: Vocabulary, events: pa.Table) -> None:
        """Add the events' values to the vocabulary."""
        for name in self._categorical:
            vocabulary.grow(name, events[name])
        for name in self._multi:
            vocabulary.grow(name, exploded(events[name])[1])
        for name in self._vectors:
            lengths = pc.list_value_length(events[name])
            vocabulary.fix_width(name, pc.max(lengths).as_py() or 0)

    def compressor_config(self, vocabulary: Vocabulary) -> CompressorConfig:
        """Shape of a model that reads these features."""
        rows, encoder = vocabulary.sizes(), self._encoder
        return CompressorConfig(
            scheme=encoder.scheme,
            labels=label_names(self._config),
            categorical={name: rows[name] for name in self._categorical},
            multi={name: rows[name] for name in self._multi},
            numeric=self._numeric,
            vectors=self._widths(vocabulary),
            counts=tuple(input_names(self._config)[i] for i in self._counts),
            dim=encoder.dim,
            width=encoder.width,
            embedding=encoder.embedding,
            history=encoder.history,
            sit_layers=encoder.sit_layers,
            sit_heads=encoder.sit_heads,
            id_dropout=encoder.id_dropout,
            seed=encoder.seed,
        )

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
        names = label_names(self._config)
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


def _bags(name: str, column: pa.ChunkedArray, vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """A multi-valued feature as vocabulary rows (total,) and offsets (n + 1,)."""
    rows, values = exploded(column)
    offsets = np.searchsorted(rows, np.arange(len(column) + 1))
    return torch.from_numpy(vocabulary.lookup(name, values)), torch.from_numpy(offsets)
