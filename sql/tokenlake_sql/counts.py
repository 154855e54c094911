"""Macros of declared aggregations: the templates of `counts.sql`, filled for what a lake declares.

A column of a definition becomes a scalar macro of the schema `counts`. Running totals of each key are macros of rows; an answer finds the
newest row before its instant by an ASOF join, which DuckDB plans once for all rows of a question.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenlake_sql.loader import Definition, quote, quote_name

#: Schema of the macros: their names can be those of no other macro, function, table or view.
SCHEMA = "counts"
#: Half-lives after which an event weighs nothing; blocks of decayed sums are as long.
_LIFETIME = 24
_ID_COLUMNS = {"user": "user_id", "item": "item_id"}
_PLACE = re.compile(r"/\*\{(\w+)\}\*/")
#: How far a unit may be from one part of a whole number.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Passes:
    """A filter of events: a label that is positive, or a feature that has one of some values."""

    column: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """What is counted.

    Attributes:
        passes: filters of which an event passes any; none: all events.
        label: the label that is counted, if any.
        numeric: the numeric feature that is summed, if any.
        unit: its values are rounded to multiples of it.
    """

    passes: tuple[Passes, ...] = ()
    label: str | None = None
    numeric: str | None = None
    unit: float = 1.0

    @property
    def is_late(self) -> bool:
        """Whether an event may pass the filters later than it happened."""
        return any(not each.values for each in self.passes)


@dataclass(frozen=True)
class Aggregate:
    """A column of a definition; `window` and `half_life` in microseconds."""

    column: str
    aggregate: Literal["count", "known", "mean", "sum", "min", "max", "last", "recency"]
    doc: str
    window: int | None = None
    half_life: int | None = None


@dataclass(frozen=True)
class Aggregation:
    """A declared aggregation; `keys` are `user`, `item` and names of features, those in `lists` have many values."""

    keys: tuple[str, ...]
    fact: Fact
    answers: tuple[Aggregate, ...]
    lists: frozenset[str] = frozenset()


def aggregations(declared: Sequence[Aggregation]) -> dict[str, Definition]:
    """The macros of declared aggregations, by name in lower case.

    Args:
        declared: all of a lake; none of their columns has the name of another one.

    Returns:
        Definitions as `definitions()` has them; those that people call are in the schema `counts`.
    """
    made = [each for number, one in enumerate(declared) for each in _Templates(number, one).definitions()]
    return {each.name.lower(): each for each in made}


class _Templates:
    """Fills the templates for one aggregation; equal parts of its columns are made once."""

    def __init__(self, number: int, declared: Aggregation) -> None:
        self._number, self._declared, self._fact = number, declared, declared.fact
        self._columns = [f"k{i}" for i in range(1, len(declared.keys) + 1)]
        self._owned = [f'"/*{{own}}*/{key if key in _ID_COLUMNS else i}"' for i, key in enumerate(declared.keys)]

    def definitions(self) -> Iterator[Definition]:
        yield self._facts("facts", keyed=True)
        yield self._facts("all_facts", keyed=False)
        made = set[str]()
        for answer in self._declared.answers:
            for keyed in (True, False) if answer.aggregate == "mean" else (True,):
                steps = self._steps(answer, keyed=keyed)
                if steps.name not in made:
                    made.add(steps.name)
                    yield steps
            yield self._inner(answer)
            yield self._outer(answer)

    def _name(self, kind: str) -> str:
        return f"{kind}_{self._number}"

    def _facts(self, kind: str, *, keyed: bool) -> Definition:
        keys, values = [], ""
        for column, key in zip(self._columns, self._declared.keys, strict=True) if keyed else ():
            if key in self._declared.lists:
                values += f"\n      CROSS JOIN unnest(e.{quote_name(key)}) AS of_{column}(value)"
                keys.append(f"of_{column}.value AS {column},")
            else:
                keys.append(f"e.{quote_name(_ID_COLUMNS.get(key, key))} AS {column},")
        fill = {
            "facts": self._name(kind),
            "keys": " ".join(keys),
            "known": self._known(),
            "value": self._value(),
            "values": values,
            "present": "".join(f" AND f.{column} IS NOT NULL" for column in self._columns if keyed),
        }
        return self._table("facts", fill, "events")

    def _known(self) -> str:
        """SQL of the instant after which an event is seen; null for never."""
        filters = [
            f"CASE WHEN {_among(each.column, each.values)} THEN e.timestamp END"
            if each.values
            else _known_positive(each.column)
            for each in self._fact.passes
        ]
        passes = f"least({', '.join(filters)})" if filters else "e.timestamp"
        if self._fact.label is None:
            return passes
        known = f"greatest(e.timestamp, {_known_at(self._fact.label)})"
        # `greatest` leaves nulls out, and either of the two may be never.
        return f"CASE WHEN {passes} IS NOT NULL AND {_known_at(self._fact.label)} IS NOT NULL THEN greatest({passes}, {known}) END"

    def _value(self) -> str:
        if self._fact.label is not None:
            return f"(e.{quote_name(self._fact.label)} > 0)::BIGINT"
        if self._fact.numeric is None:
            return "1::BIGINT"
        column = f"e.{quote_name(self._fact.numeric)}"
        return f"CASE WHEN isfinite({column}) THEN round_even({column} / {_number(self._fact.unit)}, 0)::BIGINT END"

    def _steps(self, answer: Aggregate, *, keyed: bool) -> Definition:
        """The running totals that an answer reads."""
        keys = [f"f.{column}" for column in self._columns] if keyed else []
        facts = self._name("facts" if keyed else "all_facts")
        fill = {
            "facts": facts,
            "of_steps": "".join(f"{key}, " for key in keys),
            "parts": f"PARTITION BY {', '.join(keys)} " if keys else "",
            "matches": "f.value > 0" if self._fact.label else "TRUE",
            "past": self._steps_name(answer, keyed=keyed),
            "window": self._steps_name(answer, keyed=keyed),
            "decay": self._steps_name(answer, keyed=keyed),
        }
        if answer.half_life is not None:
            width = _LIFETIME * answer.half_life
            fill |= {"width": str(width), "half": str(answer.half_life), "block": _block("f.ts", width)}
            return self._table("decay", fill, f"answers.{facts}")
        if self._width(answer) is None:
            return self._table("past", fill, f"answers.{facts}")
        return self._table("window", fill | {"width": str(answer.window)}, f"answers.{facts}")

    def _width(self, answer: Aggregate) -> int | None:
        """Width of the window of the totals that an answer reads; the newest event of a window is that of the whole past."""
        return None if answer.aggregate in ("last", "recency") else answer.window

    def _steps_name(self, answer: Aggregate, *, keyed: bool) -> str:
        kind = "past" if self._width(answer) is None else f"last_{answer.window}"
        kind = kind if answer.half_life is None else f"decay_{answer.half_life}"
        return self._name(kind if keyed else f"all_{kind}")

    def _inner(self, answer: Aggregate) -> Definition:
        """The macro that computes an answer; its parameters begin as no column does."""
        same = "".join(f"q.{column} = s.{column} AND " for column in self._columns)
        block = "" if answer.half_life is None else "q.block = s.block AND "
        pairs = answer.aggregate in ("min", "max") and answer.window is not None and self._fact.is_late
        steps = self._name("facts") if pairs else self._steps_name(answer, keyed=True)
        fill = {
            "column": quote_name(answer.column),
            "own_parameters": ", ".join([*self._owned, '"/*{own}*/t"']),
            "query": self._query(answer, keyed=True),
            "instant": self._query(answer, keyed=False),
            "same": same + block,
            "same_block": block,
            "steps": steps,
            "width": str(answer.window),
        }
        uses = [f"answers.{steps}"]
        if answer.aggregate == "mean":
            everything = self._steps_name(answer, keyed=False)
            uses.append(f"answers.{everything}")
            fill |= {"everything": everything, **self._mean(answer)}
            return self._macro("answers", answer, "mean", fill, uses)
        column = {"min": "s.value", "max": "s.value"}.get(answer.aggregate, "") if pairs else ""
        return self._macro(
            "answers", answer, "pairs" if pairs else "answer", fill | {"answer": self._answer(answer, column)}, uses
        )

    def _answer(self, answer: Aggregate, extreme: str) -> str:
        of_label = self._fact.label is not None
        since = "" if answer.window is None else f" >= max(q.t) - {answer.window}"
        match answer.aggregate:
            case "count":
                return self._total(answer, "total" if of_label else "n")
            case "known":
                return self._total(answer, "n")
            case "sum":
                return self._units(self._total(answer, "total"))
            case "min":
                return self._units(f"min({extreme or 's.least'})::DOUBLE")
            case "max":
                return self._units(f"max({extreme or 's.greatest'})::DOUBLE")
            case "last":
                last = self._units("max(s.last).value::DOUBLE")
                return f"CASE WHEN max(s.last).ts{since} THEN {last} END" if since else last
            case "recency":
                age = "(max(q.t) - max(s.newest)) / 1000000"
                return f"CASE WHEN max(s.newest){since} THEN {age} END" if since else age
            case _:
                raise ValueError(f"{answer.aggregate} is no plain aggregate")

    def _mean(self, answer: Aggregate) -> dict[str, str]:
        total, n = self._total(answer, "total"), self._total(answer, "n")
        if self._fact.label is not None:
            return {"total": total, "n": n, "mean": f"({total} + 1) / ({n} + 2)"}
        total = self._units(total)
        return {"total": total, "n": n, "mean": f"CASE WHEN {n} > 0 THEN {total} / {n} END"}

    def _total(self, answer: Aggregate, column: str) -> str:
        """SQL of a total over a row's values."""
        if answer.half_life is None:
            return f"coalesce(sum(s.{column}), 0)::DOUBLE"
        weight = f"pow(2, (q.block - q.t) / {answer.half_life} - 30)"
        return f"coalesce(sum(s.{column}::DOUBLE * {weight}), 0)::DOUBLE"

    def _units(self, units: str) -> str:
        """SQL of a number of units as a number."""
        if self._fact.numeric is None:
            return units
        parts = round(1 / self._fact.unit)
        if parts > 1 and abs(parts * self._fact.unit - 1) < _ROUNDING:
            return f"{units} / {parts}::DOUBLE"
        return f"{units} * {_number(self._fact.unit)}"

    def _query(self, answer: Aggregate, *, keyed: bool) -> str:
        """SQL of the rows that look up: one for each combination of a row's values, and for each block of decayed sums."""
        given = [(c, k, p) for c, k, p in zip(self._columns, self._declared.keys, self._owned, strict=True) if keyed]
        values = [f"{self._given(key, parameter)}" for _, key, parameter in given]
        columns = [*(column for column, *_ in given), "t"]
        rows = f"(VALUES ({', '.join([*values, _T])})) AS q({', '.join(columns)})"
        for column, key, _ in given:
            if key in self._declared.lists:
                named = ", ".join(f"unnest(q.{c}) AS {c}" if c == column else f"q.{c}" for c in columns)
                rows = f"(SELECT {named} FROM {rows}) AS q"
        if answer.half_life is not None:
            width = _LIFETIME * answer.half_life
            block = f"{_block('q.t', width)} - b.back * {width} AS block"
            rows = f"(SELECT q.*, {block} FROM {rows}, (VALUES (0), (1)) AS b(back)) AS q"
        return f"(SELECT q.* FROM {rows})"

    def _given(self, key: str, parameter: str) -> str:
        if key in _ID_COLUMNS:
            return f"/*{{own_{key}}}*/"
        return f"{parameter}::VARCHAR[]" if key in self._declared.lists else f"{parameter}::VARCHAR"

    def _outer(self, answer: Aggregate) -> Definition:
        names = list[str]()
        for name in (*self._declared.keys, "t"):
            while name.lower() in {other.lower() for other in names}:
                name += "_"
            names.append(name)
        fill = {
            "column": quote_name(answer.column),
            "parameters": ", ".join(map(quote_name, names)),
            "t": quote_name(names[-1]),
        }
        signature = f"{SCHEMA}.{answer.column}({', '.join(names)})"
        return self._macro(SCHEMA, answer, "outer", fill, [f"answers.{answer.column}".lower()], signature)

    def _table(self, template: str, fill: Mapping[str, str], uses: str) -> Definition:
        """A macro of rows, which only other macros read: a view would stand in every list of the lake's tables."""
        name = f"answers.{fill[template]}"
        return Definition(name, "macro", f"{name}()", "", _filled(template, fill), frozenset({uses}))

    def _macro(
        self,
        schema: str,
        answer: Aggregate,
        template: str,
        fill: Mapping[str, str],
        uses: Sequence[str],
        signature: str = "",
    ) -> Definition:
        name, doc = f"{schema}.{answer.column}", answer.doc if schema == SCHEMA else ""
        return Definition(name, "macro", signature or name, doc, _filled(template, fill), frozenset(uses))


#: The instant of a query, in microseconds.
_T = 'epoch_us("/*{own}*/t"::TIMESTAMPTZ)'


@functools.cache
def _templates() -> Mapping[str, str]:
    text = (Path(__file__).parent / "counts.sql").read_text("utf-8")
    found = [part[part.index("CREATE OR REPLACE") :].strip() for part in text.split(";\n") if "CREATE OR" in part]
    names = ("facts", "past", "window", "decay", "answer", "pairs", "mean", "outer")
    return dict(zip(names, found, strict=True))


def _filled(template: str, fill: Mapping[str, str]) -> str:
    """A template with these places filled; the others are left for `loader.filled`."""
    return _PLACE.sub(lambda match: fill.get(match[1], match[0]), _templates()[template])


def _known_at(label: str) -> str:
    """SQL of the instant at which a label becomes known; null where it has no value or never does."""
    return f"CASE WHEN e.{quote_name(label)} IS NOT NULL THEN e.{quote_name(f'{label}_known_at')} END"


def _known_positive(label: str) -> str:
    at = f"e.{quote_name(f'{label}_known_at')}"
    return f"CASE WHEN e.{quote_name(label)} > 0 AND {at} IS NOT NULL THEN greatest(e.timestamp, {at}) END"


def _among(feature: str, values: Sequence[str]) -> str:
    return f"e.{quote_name(feature)} IN ({', '.join(map(quote, values))})"


def _block(instant: str, width: int) -> str:
    """SQL of the start of the block in which an instant lies, before 1970 too."""
    return f"({instant} - ({instant} % {width} + {width}) % {width})"


def _number(value: float) -> str:
    return f"'{value!r}'::DOUBLE"
