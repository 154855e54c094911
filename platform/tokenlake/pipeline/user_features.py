"""From a log to the tensors of the user encoder. Imports torch: to be imported late."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tokenlake.config import Config, Embeddings
from tokenlake.pipeline.activity import Histories, Instants, Log
from tokenlake.pipeline.keys import Ints, exploded
from tokenlake.pipeline.maturity import outcomes_of
from tokenlake.pipeline.negatives import item_table
from tokenlake.pipeline.vocabulary import Vocabulary
from tokenlake.times import NEVER
from tokenlake_models.activity import Activity, Items, Moments, Multi
from tokenlake_models.alure import AlureConfig

_EVENTS = "events"


class UserFeaturizer:
    """Makes `Activity`, `Moments` and `Items` of a log.

    Numeric and vector features are not among the user encoder's inputs.
    """

    def __init__(self, config: Config) -> None:
        assert config.embeddings is not None
        self._config = config
        self._spec: Embeddings = config.embeddings
        self._categorical = ("item_id", *config.events.of_kind("categorical"))
        self._multi = config.events.of_kind("multi")
        of_item = [name for name, feature in config.events.features.items() if feature.of == "item"]
        self._item_features = tuple(n for n in (*self._categorical, *self._multi) if n == "item_id" or n in of_item)

    def grow(self, vocabulary: Vocabulary, log: Log) -> None:
        """Add the log's values to the vocabulary."""
        for name in self._categorical:
            vocabulary.grow(name, log.events[name])
        for name in self._multi:
            vocabulary.grow(name, exploded(log.events[name])[1])

    def alure_config(self, vocabulary: Vocabulary) -> AlureConfig:
        """Shape of a model that reads these features."""
        rows, spec = vocabulary.sizes(), self._spec
        return AlureConfig(
            sources=tuple(spec.sources),
            categorical={name: rows[name] for name in self._categorical},
            multi={name: rows[name] for name in self._multi},
            item_features=self._item_features,
            labels=tuple(self._config.events.labels),
            dim=spec.dim,
            width=spec.width,
            layers=spec.layers,
            heads=spec.heads,
            queries=spec.queries,
            history=spec.history,
            time=spec.time,
            id_dropout=spec.id_dropout,
            temperature=spec.temperature,
            seed=spec.seed,
        )

    def activity(self, log: Log, vocabulary: Vocabulary) -> Activity:
        """The log's events, row by row."""
        outcomes = [outcomes_of(log.events, name, log.timestamps) for name in self._config.events.labels]
        none = np.zeros((len(log), 0), np.int64)
        labels = [o.positive.astype(np.int64)[:, None] for o in outcomes]
        known_at = [np.where(o.known, o.when, NEVER)[:, None] for o in outcomes]
        return Activity(
            {name: self._lookup(name, log.events, vocabulary) for name in self._categorical},
            self._bags(self._multi, log.events, vocabulary),
            torch.from_numpy(np.concatenate([none, *labels], axis=1)),
            torch.from_numpy(np.concatenate([none, *known_at], axis=1)),
            torch.from_numpy(log.timestamps),
        )

    def moments(self, log: Log, users: Ints, now: Instants) -> Moments:
        """What each user, by its code, had done strictly before each moment."""
        reach = dt.timedelta(days=self._spec.retention_days)
        found = [Histories(log, source).before(users, now, self._spec.history, reach) for source in log.sources()]
        return Moments(
            torch.from_numpy(np.asarray(now, np.int64)),
            tuple((torch.from_numpy(rows), torch.from_numpy(offsets)) for rows, offsets in found),
        )

    def items(self, log: Log, vocabulary: Vocabulary) -> tuple[pa.Array, Items]:
        """Every item of the log with its latest features, by item id."""
        table = item_table(self._config, log.events)
        categorical = [name for name in self._categorical if name in self._item_features]
        multi = tuple(name for name in self._multi if name in self._item_features)
        return table["item_id"].combine_chunks(), Items(
            {name: self._lookup(name, table, vocabulary) for name in categorical},
            self._bags(multi, table, vocabulary),
            torch.from_numpy(table[_EVENTS].to_numpy().astype(np.float64)),
        )

    def _lookup(self, name: str, table: pa.Table, vocabulary: Vocabulary) -> torch.Tensor:
        return torch.from_numpy(vocabulary.lookup(name, table[name]))

    def _bags(self, names: tuple[str, ...], table: pa.Table, vocabulary: Vocabulary) -> Multi:
        bags = {}
        for name in names:
            rows, values = exploded(table[name])
            offsets = np.searchsorted(rows, np.arange(table.num_rows + 1))
            bags[name] = torch.from_numpy(vocabulary.lookup(name, values)), torch.from_numpy(offsets)
        return bags


def places(ids: pa.Array, items: pa.Array) -> Ints:
    """Place of each item id among `items`; all of them are there."""
    return np.asarray(pc.index_in(ids, value_set=items).to_numpy(), np.int64)
