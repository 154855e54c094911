"""From a log to the tensors of the user encoder. Imports torch: to be imported late."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tokenlake.config import Config, Embeddings
from tokenlake.features.activity import EventLog, Instants, Selection
from tokenlake.features.keys import Ints, exploded
from tokenlake.features.negatives import EVENTS_COLUMN
from tokenlake.features.vectors import matrix
from tokenlake.features.vocabulary import Vocabulary
from tokenlake.times import DAY_US
from tokenlake_models.activity import Activity, Items, Multi, Stream, UserQueries
from tokenlake_models.alure import AlureConfig
from tokenlake_models.semantic_ids import ResidualQuantizer

#: Codebooks by vector feature.
Quantizers = Mapping[str, ResidualQuantizer]


class UserFeaturizer:
    """Makes `Activity`, `UserQueries` and `Items` of a log.

    Content vectors of items enter as their semantic ids; vectors of events and users are not among the inputs.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spec: Embeddings = config.require_embeddings()
        self._categorical = ("item_id", *config.events.of_kind("categorical"))
        self._multi = config.events.of_kind("multi")
        self._numeric = config.events.of_kind("numeric")
        of_item = {name for name, feature in config.events.features.items() if feature.of == "item"}
        self._of_item = of_item | {"item_id"}
        self._vectors = tuple(name for name in config.events.of_kind("vector") if name in of_item)
        # Separates a vector feature's name from a code's number; chosen so that no feature has the name of a code.
        self._code_separator = "#"
        while not {name for vector in self._vectors for name in self._code_names(vector)}.isdisjoint(
            config.events.features
        ):
            self._code_separator += "#"

    def grow(self, vocabulary: Vocabulary, log: EventLog) -> None:
        """Add the log's values to the vocabulary."""
        for name in self._categorical:
            vocabulary.grow(name, log.events[name])
        for name in self._multi:
            vocabulary.grow(name, exploded(log.events[name])[1])

    def quantizers(self, known: Quantizers, log: EventLog, seed: int) -> dict[str, ResidualQuantizer]:
        """The codebooks known so far, and new ones of features whose vectors are met for the first time."""
        out = dict(known)
        for name in self._vectors:
            if name not in out:
                table = log.item_table()
                vectors = table[name].filter(pc.greater(pc.list_value_length(table[name]), 0))
                if len(vectors):
                    rows = torch.from_numpy(matrix(name, vectors, len(vectors[0])))
                    out[name] = ResidualQuantizer.fit(rows, self._spec.code_levels, self._spec.codes, seed)
        return out

    def alure_config(self, vocabulary: Vocabulary) -> AlureConfig:
        """Shape of a model that reads these features."""
        rows, spec = vocabulary.sizes(), self._spec
        codes = {name: spec.codes + 1 for feature in self._vectors for name in self._code_names(feature)}
        of_item = [n for n in (*self._categorical, *self._multi, *self._numeric) if n in self._of_item]
        return AlureConfig(
            sources=tuple(spec.sources),
            categorical={name: rows[name] for name in self._categorical} | codes,
            multi={name: rows[name] for name in self._multi},
            numeric=self._numeric,
            item_features=(*of_item, *codes),
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

    def activity(self, log: EventLog, vocabulary: Vocabulary, quantizers: Quantizers) -> Activity:
        """The log's events, row by row, with all features."""
        times = self.times(log)
        return Activity(
            {name: self._lookup(name, log.events, vocabulary) for name in self._categorical}
            | self._codes(log.events, quantizers),
            self._bags(self._multi, log.events, vocabulary),
            times.labels,
            times.known_at,
            times.timestamps,
            tuple(stream(log, source) for source in log.sources),
            self._numbers(self._numeric, log.events),
        )

    def times(self, log: EventLog) -> Activity:
        """The activity without features and streams: all that pooling of encoded events reads."""
        labels, known_at = (torch.from_numpy(values) for values in log.labels)
        return Activity({}, {}, labels, known_at, torch.from_numpy(log.timestamps), ())

    def queries(self, log: EventLog, users: Ints, as_of: Instants) -> UserQueries:
        """The queries' histories: what each user, by its code, had done strictly before each query time."""
        reach = dt.timedelta(days=self._spec.retention_days)
        found = [histories.before(users, as_of, self._spec.history, reach) for histories in log.histories]
        return UserQueries(
            torch.from_numpy(np.asarray(as_of, np.int64)),
            tuple((torch.from_numpy(rows), torch.from_numpy(offsets)) for rows, offsets in found),
            torch.from_numpy(users),
        )

    def items(self, table: pa.Table, vocabulary: Vocabulary, quantizers: Quantizers) -> Items:
        """Features of the rows of an `item_table`."""
        return Items(
            {name: self._lookup(name, table, vocabulary) for name in self._categorical if name in self._of_item}
            | self._codes(table, quantizers),
            self._bags(tuple(name for name in self._multi if name in self._of_item), table, vocabulary),
            torch.from_numpy(table.column(EVENTS_COLUMN).to_numpy().astype(np.float64)),
            self._numbers(tuple(name for name in self._numeric if name in self._of_item), table),
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

    def _numbers(self, names: tuple[str, ...], table: pa.Table) -> torch.Tensor | None:
        if not names:
            return None
        columns = [table[name].cast(pa.float64()).fill_null(np.nan).to_numpy() for name in names]
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))

    def _code_names(self, feature: str) -> Iterator[str]:
        return (f"{feature}{self._code_separator}{level}" for level in range(self._spec.code_levels))

    def _codes(self, table: pa.Table, quantizers: Quantizers) -> dict[str, torch.Tensor]:
        out: dict[str, torch.Tensor] = {}
        for feature in self._vectors:
            codes = torch.zeros(table.num_rows, self._spec.code_levels, dtype=torch.int64)
            if feature in quantizers:
                quantizer = quantizers[feature]
                codes = quantizer.codes(torch.from_numpy(matrix(feature, table[feature], len(quantizer.center))))
            out |= dict(zip(self._code_names(feature), codes.unbind(1), strict=True))
        return out


def stream(log: EventLog, source: Selection) -> Stream:
    """Lay out the events of a source as what each user did on each day, instant by instant."""
    codes, days = log.codes[source.rows], log.timestamps[source.rows] // DAY_US
    order = np.lexsort((source.rows, source.when, days, codes))
    fresh = np.ones((2, len(order)), np.bool_)
    for place, keys in enumerate(((codes, days), (codes, days, source.when))):
        fresh[place, 1:] = np.logical_or.reduce([key[order][1:] != key[order][:-1] for key in keys])
    ties = np.append(np.flatnonzero(fresh[1]), len(order))
    offsets = np.append(np.flatnonzero(fresh[0, ties[:-1]]), len(ties) - 1)
    return Stream(torch.from_numpy(source.rows[order]), torch.from_numpy(ties), torch.from_numpy(offsets))


def positions_of(ids: pa.Array, items: pa.Array) -> Ints:
    """Position of each item id in `items`; every id must be there."""
    return np.asarray(pc.index_in(ids, value_set=items).to_numpy(), np.int64)
