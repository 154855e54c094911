"""What declared aggregations count, in words."""

from __future__ import annotations

from tokenlake.config.counts import Count, CountColumn, short

_HEADS = {
    "count": "Number of",
    "known": "Number of known",
    "mean": "Mean of",
    "sum": "Sum of",
    "min": "Least of",
    "max": "Greatest of",
    "last": "Newest of",
    "recency": "Seconds since the newest of",
}


def about(count: Count) -> str:
    """What a definition counts, in one sentence.

    >>> about(Count.model_validate({"by": ["user", "item"], "of": {"where": {"label": "bought"}}}))
    'Events with bought, of the same user and item, before the query.'
    """
    subject = _subject(count)
    return f"{subject[0].upper()}{subject[1:]}, of the same {_listed(count.by)}, before the query."


def about_column(count: Count, column: CountColumn) -> str:
    """What one of its columns holds, in one sentence.

    >>> count = Count.model_validate({"by": "user", "windows": ["28d"]})
    >>> about_column(count, next(count.columns("user")))
    'Number of events, of the same user, before t, not older than 28d.'
    """
    head = _HEADS[column.aggregate]
    if count.of.label is not None and column.aggregate in ("count", "recency"):
        head += " positive"
    age = "" if column.window is None else f", not older than {short(column.window)}"
    if column.half_life is not None:
        age = f", each with half the weight at the age of {short(column.half_life)}"
    return f"{head} {_subject(count)}, of the same {_listed(count.by)}, before t{age}."


def _subject(count: Count) -> str:
    of = count.of
    filters = [f.label or f"{f.feature} {_listed(f.among, 'or')}" for f in of.where]
    which = f" with {' or '.join(filters)}" if filters else ""
    if of.label is not None:
        return f"labels {of.label} of events{which}"
    return f"values of {of.numeric} of events{which}" if of.numeric is not None else f"events{which}"


def _listed(words: tuple[str, ...], last: str = "and") -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
