"""The declared aggregations of a lake as macros of SQL."""

from __future__ import annotations

import datetime as dt

from tokenlake.config import Config, Count, Filter
from tokenlake.config.count_words import about_column
from tokenlake_sql import Definition
from tokenlake_sql.counts import Aggregate, Aggregation, Fact, Passes, aggregations

#: Schema of the macros that people call.
COUNTS = "counts"
_MICRO = dt.timedelta(microseconds=1)


def definitions_of(config: Config) -> dict[str, Definition]:
    """Views and macros of the declared aggregations, by name in lower case; people call those in the schema `counts`."""
    lists = frozenset(config.events.of_kind("multi"))
    return aggregations([_aggregation(*each, lists) for each in config.definitions.items()])


def _aggregation(name: str, count: Count, lists: frozenset[str]) -> Aggregation:
    answers = [
        Aggregate(
            column.name,
            column.aggregate,
            about_column(count, column),
            None if column.window is None else column.window // _MICRO,
            None if column.half_life is None else column.half_life // _MICRO,
        )
        for column in count.columns(name)
    ]
    return Aggregation(count.by, _fact(count), tuple(answers), lists)


def _fact(count: Count) -> Fact:
    return Fact(tuple(map(_passes, count.of.where)), count.of.label, count.of.numeric, count.of.unit)


def _passes(f: Filter) -> Passes:
    return Passes(f.feature or f.label or "", f.among)
