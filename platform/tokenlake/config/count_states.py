"""What Feast holds of a declared aggregation: clock-free numbers as of a day's end, which a request's instant finishes.

A count stands as it is; a recency is held as the instant of the newest event; a decayed number is held as of the day's
end, from which on it decays by itself; and a mean is held as its two sums, of a key and of all events.
"""

from __future__ import annotations

import dataclasses

from tokenlake.config.counts import Aggregate, Count, CountColumn, column_of


def key_columns(count: Count) -> tuple[str, ...]:
    """The columns of `events` that hold the keys of a definition."""
    return tuple(column_of(key) for key in count.by)


def states_table(name: str) -> str:
    """Name of the table, and of the feature view, with a row for each key whose numbers changed on a day."""
    return f"count_states_{name}"


def totals_table(name: str) -> str:
    """Name of the table, and of the feature view, with a row for each day: the sums over all keys."""
    return f"count_totals_{name}"


def state_of(count: Count) -> Count:
    """The definition of what is held of each key: the same, with the sums of a mean in its place."""
    parts = [part for name in count.aggregates for part in (mean_parts(count) if name == "mean" else (name,))]
    return count.model_copy(update={"aggregates": tuple(dict.fromkeys(parts))})


def totals_of(count: Count) -> Count | None:
    """The definition of what is held of all keys together: the sums of the global mean; None where there is no mean."""
    if "mean" not in count.aggregates:
        return None
    return count.model_copy(update={"aggregates": mean_parts(count), "by": ()})


def mean_parts(count: Count) -> tuple[Aggregate, Aggregate]:
    """The sum and the number whose ratio is a mean: of a label its positives and known ones."""
    return ("count", "known") if count.of.label is not None else ("sum", "count")


def part_of(name: str, column: CountColumn, aggregate: Aggregate) -> CountColumn:
    """The column of another aggregate in the same window or with the same half-life."""
    return dataclasses.replace(column, name=f"{name}_{aggregate}{_suffix(name, column)}", aggregate=aggregate)


def held_name(name: str, column: CountColumn) -> str:
    """Name of a state's column: no definition's own column ends like it, so both can stand in one table."""
    what = "newest" if column.aggregate == "recency" else column.aggregate
    return f"{name}_{what}{_suffix(name, column)}_at_end"


def total_name(column: CountColumn) -> str:
    """Name of the column with a number over all keys."""
    return f"{column.name}_total"


def changed_at(name: str) -> str:
    """Name of the column with the instant (int64 us) as of which a key's numbers were computed."""
    return f"{name}_changed_at"


def counted_until(name: str) -> str:
    """Name of the column with the instant (int64 us) up to which everything was counted."""
    return f"{name}_counted_until"


def state_columns(name: str, count: Count) -> list[CountColumn]:
    """What is held of each key, in order."""
    return list(state_of(count).columns(name))


def total_columns(name: str, count: Count) -> list[CountColumn]:
    """What is held of all keys together, in order."""
    totals = totals_of(count)
    return [] if totals is None else list(totals.columns(name))


def _suffix(name: str, column: CountColumn) -> str:
    return column.name.removeprefix(f"{name}_{column.aggregate}")
