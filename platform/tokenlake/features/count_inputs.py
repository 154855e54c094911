"""The counts that encoders and rankers read, as numbers for a model: the built-in running counts, and declared aggregations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tokenlake.config import Config, Count, CountColumn, Encoder, Ranker
from tokenlake.features.counts import count_names

#: Numbers that grow without bound and are never negative: their logarithm is the input.
_LOGARITHMIC = ("count", "known", "recency")


def input_names(config: Config) -> tuple[str, ...]:
    """Names of all columns of counts: the built-in ones, then those of the declared aggregations that something reads."""
    return (*count_names(config), *(column.name for column in _columns(declared(config))))


def declared(config: Config) -> dict[str, Count]:
    """The declared aggregations that some encoder or ranker reads, in the file's order."""
    readers: tuple[Encoder | Ranker, ...] = (*config.tokens.encoders.values(), *config.rankers.values())
    read = {name for reader in readers for name in config.counts_of(reader)}
    return {name: count for name, count in config.definitions.items() if name in read}


def read_by(config: Config, reader: Encoder | Ranker) -> NDArray[np.int64]:
    """Places in `input_names` of the columns that an encoder or a ranker reads."""
    built_in = len(count_names(config))
    if isinstance(reader.counts, bool):
        return np.arange(built_in if reader.counts else 0)
    wanted = {column.name for column in _columns(config.counts_of(reader))}
    there = _columns(declared(config))
    return np.array([built_in + i for i, column in enumerate(there) if column.name in wanted], np.int64)


def logarithms(config: Config) -> set[str]:
    """Names in `input_names` of the columns that are logarithms: all but means and numeric values."""
    built_in = {name for name in count_names(config) if not name.endswith("_mean")}
    return built_in | {column.name for column in _columns(declared(config)) if column.aggregate in _LOGARITHMIC}


def rates(config: Config) -> set[str]:
    """Names in `input_names` of the columns that are shares from 0 to 1: means of labels."""
    built_in = {name for name in count_names(config) if name.endswith("_mean")}
    of_labels = {name: count for name, count in declared(config).items() if count.of.label is not None}
    return built_in | {column.name for column in _columns(of_labels) if column.aggregate == "mean"}


def as_inputs(columns: Sequence[CountColumn], values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    """Declared aggregations as inputs: counts and seconds as log1p, means and numeric values as they are.

    Returns:
        float32 (n, len(columns)); NaN where there is nothing, which models take for a missing number.
    """
    found = [np.log1p(values[c.name]) if c.aggregate in _LOGARITHMIC else values[c.name] for c in columns]
    return np.stack(found, axis=1).astype(np.float32)


def _columns(definitions: Mapping[str, Count]) -> list[CountColumn]:
    return [column for name, count in definitions.items() for column in count.columns(name)]
