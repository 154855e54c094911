"""Scores of candidates now: the implementation of `lake.rank`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenlake.config import Ensemble, Ranker
from tokenlake.errors import NotFoundError, SchemaError
from tokenlake.features import checkpoints
from tokenlake.features.activity import EventDayCache, EventLog, Instants
from tokenlake.features.day_features import DayFeatureCache, DayFeatures
from tokenlake.features.instances import labels_of
from tokenlake.features.keys import Ints
from tokenlake.features.profiles import ProfileCache
from tokenlake.features.versions import exists
from tokenlake.lake.arguments import as_table, source_names
from tokenlake.lake.project import Project
from tokenlake.lake.schema import IdTypes
from tokenlake.lake.validate import converted
from tokenlake.pipeline.corrections import standing_fit
from tokenlake.pipeline.ranking import scores
from tokenlake.times import DAY_US, Day, as_micros, day_of


@dataclass(frozen=True)
class RankerScores:
    """Scores of the candidates of q queries: jagged, in the order in which the candidates were given.

    Attributes:
        labels: what is predicted, the columns of `values`.
        items: Arrow array (n,), the candidates of all queries.
        values: float32 (n, L), probabilities.
        offsets: int64 (q + 1,): query i has the rows from `offsets[i]` to `offsets[i + 1]`.
    """

    labels: tuple[str, ...]
    items: pa.Array
    values: NDArray[np.float32]
    offsets: Ints

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.offsets) - 1

    def of(self, label: str) -> NDArray[np.float32]:
        """Probabilities (n,) of one label.

        Raises:
            NotFoundError: the model does not predict it.
        """
        if label not in self.labels:
            raise NotFoundError(f"the model predicts {', '.join(self.labels)}, and no {label!r}")
        return self.values[:, self.labels.index(label)]

    def best(self, query: int = 0, k: int = 10, label: str | None = None) -> pa.Table:
        """The `k` candidates of a query with the highest probability of a label (the first one): `item_id`, `score`."""
        rows = slice(int(self.offsets[query]), int(self.offsets[query + 1]))
        found = self.of(label or self.labels[0])[rows]
        top = np.argsort(-found, kind="stable")[:k]
        return pa.table({"item_id": self.items[rows].take(pa.array(top)), "score": found[top]})


def rank(lake: Project, model: str, users: Any, items: Any, at: Any, context: Any = None) -> RankerScores:
    """Score candidates by a model of `models:`, as of an instant each."""
    labels = labels_of(lake.config, _model(lake, model))
    asked = _questions(lake, users, items, at)
    candidates, days = _Candidates(lake, asked, context), asked.at // DAY_US
    values = np.zeros((len(asked.at), len(labels)), np.float32)
    for number in np.unique(days).tolist():
        of_day = np.flatnonzero(days == number)
        found = _corrected(lake, model, day_of(number * DAY_US), candidates, of_day)
        for i, label in enumerate(labels):
            values[of_day, i] = found[label]
    return RankerScores(labels, asked.items, values, asked.offsets)


@dataclass(frozen=True)
class _Questions:
    """Candidates one by one: the user, the item and the instant of each, and the queries that they belong to."""

    users: pa.Array
    items: pa.Array
    at: Instants
    offsets: Ints

    @property
    def owner(self) -> Ints:
        """The query of each candidate."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def _questions(lake: Project, users: Any, items: Any, at: Any) -> _Questions:
    ids = IdTypes.of(lake.events.schema)
    single = isinstance(users, int | str | np.integer)
    people = converted(lake.config, ids, "user_id", _array([users] if single else users, "users"))
    flat_items, offsets = _jagged(items, len(people), single=single)
    things = converted(lake.config, ids, "item_id", flat_items)
    instants = as_micros(at, "at")
    if instants.shape not in ((), (len(people),)):
        raise SchemaError(
            f"at: shape {instants.shape} given; expected one instant, or one for each of {len(people)} users"
        )
    owner = np.repeat(np.arange(len(people)), np.diff(offsets))
    return _Questions(people.take(pa.array(owner)), things, np.broadcast_to(instants, len(people))[owner], offsets)


def _jagged(items: Any, users: int, *, single: bool) -> tuple[pa.Array, Ints]:
    """Candidates of all users, and offsets (users + 1,)."""
    if hasattr(items, "items") and hasattr(items, "offsets"):  # what `lake.candidates` and `lake.rank` give
        values, offsets = items.items, np.asarray(items.offsets, np.int64)
    else:
        given = _array(items, "items")
        if pa.types.is_list(given.type) or pa.types.is_large_list(given.type):
            lengths = given.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            values, offsets = given.flatten(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        elif single:
            values, offsets = given, np.array([0, len(given)])
        else:
            values, offsets = given, np.arange(len(given) + 1)
    if len(offsets) != users + 1:
        raise SchemaError(
            f"items of {len(offsets) - 1} queries given for {users} users; expected a list of items for each user, or with "
            "a single user (not in a list) that user's items"
        )
    return values, offsets


def _array(values: Any, what: str) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values)
    except (pa.ArrowException, TypeError) as error:
        raise SchemaError(f"{what}: no column of ids ({error}); give integers or strings, or lists of them") from error


class _Candidates:
    """Makes rows of `events` of candidates: ids and instants, features as of the instant, and the context over them."""

    def __init__(self, lake: Project, asked: _Questions, context: Any) -> None:
        self._lake, self._asked = lake, asked
        self._context = {} if context is None else self._of_context(as_table(context, "context"))

    def rows(self, log: EventLog, index: Ints) -> pa.Table:
        """Rows of some candidates; `log` holds all earlier events."""
        asked, schema, chosen = self._asked, self._lake.events.schema, pa.array(index)
        users, items, at = asked.users.take(chosen), asked.items.take(chosen), asked.at[index]
        profiles = self._lake.shared(ProfileCache)
        latest = {
            "user": profiles.of(log, "user").rows_before(users, at),
            "item": profiles.of(log, "item").rows_before(items, at),
        }
        columns = {name: pa.nulls(len(index), schema.field(name).type) for name in schema.names}
        columns |= {"user_id": users, "item_id": items, "timestamp": pa.array(at, schema.field("timestamp").type)}
        columns["ds"] = pa.array(at // DAY_US, pa.int32()).cast(pa.date32())
        for name, feature in self._lake.config.events.features.items():
            if name in self._context:
                columns[name] = self._context[name].take(chosen)
            elif feature.of in latest:
                columns[name] = log.take(name, latest[feature.of])
        return pa.table(columns, schema=schema)

    def _of_context(self, given: pa.Table) -> dict[str, pa.Array]:
        """The columns of the context as of `events`, a row for each candidate."""
        config, owner = self._lake.config, self._asked.owner
        names = {own: name for name, own in source_names(config).items() if name in config.events.features}
        names |= {name: name for name in config.events.features}
        if unknown := [name for name in given.column_names if name not in names]:
            close = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(config.events.features)}"
            raise SchemaError(f"context: no feature {unknown[0]!r}; {hint}")
        if given.num_rows not in (len(owner), len(self._asked.offsets) - 1):
            raise SchemaError(
                f"context: {given.num_rows} rows given; expected one for each of {len(self._asked.offsets) - 1} queries, or "
                f"for each of {len(owner)} candidates"
            )
        each = None if given.num_rows == len(owner) else pa.array(owner)
        ids = IdTypes.of(self._lake.events.schema)
        columns = {names[name]: converted(config, ids, names[name], given[name]) for name in given.column_names}
        return {name: column if each is None else column.take(each) for name, column in columns.items()}


def _corrected(
    lake: Project, model: str, day: Day, candidates: _Candidates, index: Ints
) -> dict[str, NDArray[np.floating[Any]]]:
    """Probabilities by label of candidates of one day as `predictions` has them: mixed, and calibrated."""
    spec, version = lake.config.models[model], lake.config.model_version(model)
    found: dict[str, NDArray[np.floating[Any]]]
    if isinstance(spec, Ranker):
        scored = _of_day(lake, model, spec, day, candidates, index)
        found = dict(zip(labels_of(lake.config, spec), scored.T, strict=True))
    else:
        members = [_corrected(lake, member, day, candidates, index) for member in spec.ensemble]
        fit = standing_fit(lake, version, day)
        found = {
            label: fit.mixed(label, np.stack([member[label] for member in members], axis=1))
            for label in labels_of(lake.config, spec)
        }
    if spec.calibration == "none":
        return found
    fit = standing_fit(lake, version, day)
    return {label: fit.calibrated(label, values) for label, values in found.items()}


def _of_day(
    lake: Project, model: str, spec: Ranker, day: Day, candidates: _Candidates, index: Ints
) -> NDArray[np.float32]:
    """Probabilities of candidates of one day, by the checkpoint, the events and the counts that its prediction has."""
    version = lake.config.model_version(model)
    plan = lake.catalog.plan(version, day)
    watermark = plan.watermark if plan else lake.watermark()
    log = lake.shared(EventDayCache).read(Day.min, day, watermark, complete=day)
    rows = candidates.rows(log, index)
    counts = lake.shared(DayFeatureCache).counts_of(_as_of(spec, rows), rows.slice(0, 0), day, watermark, reader=spec)
    known = plan is not None and exists(lake, version, plan.checkpoint)
    name = plan.checkpoint if plan and known else _checkpoint_for(lake, version, day)
    checkpoint = checkpoints.load_ranker(lake, version, name)
    features = DayFeatures(rows, counts, np.ones(rows.num_rows, np.bool_))
    return scores(lake, spec, checkpoint, features, watermark, day)


def _as_of(spec: Ranker, rows: pa.Table) -> pa.Table:
    """The rows with the instants before which they read."""
    if spec.available == "realtime":
        return rows
    place = rows.column_names.index("timestamp")
    at = as_micros(rows["timestamp"], "timestamp")
    return rows.set_column(place, "timestamp", pa.array(at - at % DAY_US, rows.schema.field(place).type))


def _checkpoint_for(lake: Project, version: str, day: Day) -> str:
    """The checkpoint of the day's plan, or while that is not trained yet the newest of an earlier day."""
    trained = {record.checkpoint for record in lake.catalog.checkpoints(version)}
    plans = [plan for plan in lake.catalog.plans(version) if plan.day <= day and plan.checkpoint in trained]
    if not plans:
        raise NotFoundError(f"{version} has no checkpoint for {day} yet; `tokenlake train {lake.root}` trains one")
    newest = max(plans, key=lambda plan: plan.day).checkpoint
    if not exists(lake, version, newest):
        raise NotFoundError(
            f"checkpoint {newest} of {version}, which scores {day}, is not kept any more: the newest ones and one a month "
            "are; ask about a later day, or read what was predicted from the table `predictions`"
        )
    return newest


def _model(lake: Project, model: str) -> Ranker | Ensemble:
    spec = lake.config.models.get(model)
    if spec is None:
        close = difflib.get_close_matches(model, lake.config.models, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(lake.config.models) or 'none'}"
        raise NotFoundError(f"`models:` has no {model!r}; {hint}")
    return spec
