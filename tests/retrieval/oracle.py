"""Candidates as docs/retrieval.md defines them, slow and obvious.

Read are the rows of the tables `events` and `user_embeddings`, the settings, and the encoder's checkpoint: nothing of the
index, the graph, the pools or the weights that the product makes of them.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from tokenlake._lake import Lake
from tokenlake.features.vocabulary import Vocabulary
from tokenlake_models.activity import Activity, Stream, UserQueries
from tokenlake_models.alure_training import AlureLearner
from tokenlake_models.semantic_ids import load_quantizers

#: A row of `events`, and `at`: its timestamp in microseconds.
Event = dict[str, Any]
Vectors = dict[int, np.ndarray]
NEVER = 2**63 - 1
DAY_US = 86_400_000_000


def us(at: dt.datetime | dt.timedelta) -> int:
    """Microseconds, of a time since 1970."""
    span = at if isinstance(at, dt.timedelta) else at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return span // dt.timedelta(microseconds=1)


def midnight(day: dt.date) -> int:
    """A day's start."""
    return us(dt.datetime.combine(day, dt.time(), dt.UTC))


def day_of(now: int) -> dt.date:
    """The day of an instant."""
    return dt.date(1970, 1, 1) + dt.timedelta(days=now // DAY_US)


class Encoder:
    """The user encoder of one checkpoint, fed with events one by one."""

    def __init__(self, lake: Lake, checkpoint: str) -> None:
        folder = lake.data / "checkpoints" / lake.config.embedding_version / checkpoint
        self._learner = AlureLearner.load(folder / "model", frozen=True)
        self._vocabulary = Vocabulary.load(folder / "vocabulary.arrow")
        self._quantizers = load_quantizers(folder / "semantic_ids.safetensors")
        self._config, self._spec = lake.config.events, lake.config.require_embeddings()

    def vector(self, events: list[Event], now: int) -> np.ndarray | None:
        """Unit vector of a user of whom these are all events; None where no source has one before `now`."""
        sources = [
            sorted((at, i) for i, e in enumerate(events) if (at := self._enters(e, filters)) < NEVER)
            for filters in self._spec.sources.values()
        ]
        reach = now - us(dt.timedelta(days=self._spec.retention_days))
        histories = [
            sorted(i for at, i in [(at, i) for at, i in source if reach <= at < now][-self._spec.history :])
            for source in sources
        ]
        if not any(histories):
            return None
        pairs = tuple((torch.tensor(rows, dtype=torch.int64), torch.tensor([0, len(rows)])) for rows in histories)
        queries = UserQueries(torch.tensor([now]), pairs, torch.tensor([0]))
        vector: np.ndarray = self._learner.users(self._activity(events, sources), queries)[0].numpy()
        return vector

    def _enters(self, event: Event, filters: Any) -> int:
        """The instant after which an event is known to pass one of the filters."""
        if not filters:
            return event["at"]
        passes = [NEVER]
        for f in filters:
            if f.label and event[f.label] == 1 and event[f"{f.label}_known_at"]:
                passes.append(max(event["at"], us(event[f"{f.label}_known_at"])))
            if f.feature and event[f.feature] in f.among:
                passes.append(event["at"])
        return min(passes)

    def _activity(self, events: list[Event], sources: list[list[tuple[int, int]]]) -> Activity:
        categorical = {name: self._rows(name, events) for name in ("item_id", *self._config.of_kind("categorical"))}
        for name, quantizer in self._quantizers.items():
            vectors = torch.tensor([e[name] for e in events])
            codes = quantizer.codes(vectors)
            categorical |= {f"{name}#{level}": codes[:, level] for level in range(codes.shape[1])}
        bags = {}
        for name in self._config.of_kind("multi"):
            values = [self._vocabulary.lookup(name, pa.array(e[name])).tolist() for e in events]
            flat = torch.tensor([v for bag in values for v in bag], dtype=torch.int64)
            bags[name] = flat, torch.tensor(np.cumsum([0, *(len(bag) for bag in values)]))
        labels, known_at = zip(*(self._labels(e) for e in events), strict=True)
        numbers = [
            [math.nan if e[name] is None else e[name] for name in self._config.of_kind("numeric")] for e in events
        ]
        return Activity(
            categorical,
            bags,
            torch.tensor(labels),
            torch.tensor(known_at),
            torch.tensor([e["at"] for e in events]),
            tuple(_stream(events, source) for source in sources),
            torch.tensor(numbers, dtype=torch.float32),
        )

    def _rows(self, name: str, events: list[Event]) -> torch.Tensor:
        return torch.tensor([int(self._vocabulary.lookup(name, pa.array([e[name]]))[0]) for e in events])

    def _labels(self, event: Event) -> tuple[list[int], list[int]]:
        known = [event[name] is not None and event[f"{name}_known_at"] is not None for name in self._config.labels]
        when = [
            max(event["at"], us(event[f"{n}_known_at"])) if k else NEVER
            for n, k in zip(self._config.labels, known, strict=True)
        ]
        return [int(event[name] == 1) for name in self._config.labels], when


def _stream(events: list[Event], source: list[tuple[int, int]]) -> Stream:
    """What the user did on each day, by the instants at which it entered the source."""
    placed = sorted((events[i]["at"] // DAY_US, at, i) for at, i in source)
    ties = [n for n in range(len(placed)) if n == 0 or placed[n][:2] != placed[n - 1][:2]]
    days = [g for g, n in enumerate(ties) if n == 0 or placed[n][0] != placed[n - 1][0]]
    rows = [i for _, _, i in placed]
    return Stream(
        torch.tensor(rows, dtype=torch.int64),
        torch.tensor([*ties, len(rows)]),
        torch.tensor([*days, len(ties)]),
    )


class Oracle:
    """Answers what `lake.candidates` answers, of rows."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._settings = lake, lake.config.retrieval
        order = ("user_id", "timestamp", "event_id")
        rows = sorted(lake.events.read().to_pylist(), key=lambda e: [e[name] for name in order])
        self._events: list[Event] = [{**e, "at": us(e["timestamp"])} for e in rows]
        self._vectors: dict[dt.date, Vectors] = {}
        self._checkpoints: dict[dt.date, str] = {}
        for row in lake.user_embeddings.read(version=lake.config.embedding_version).to_pylist():
            self._vectors.setdefault(row["ds"], {})[row["user_id"]] = np.float32(row["embedding"])
            self._checkpoints[row["ds"]] = row["checkpoint"]
        self._encoder = cache(lambda checkpoint: Encoder(lake, checkpoint))
        self._fitted, self._nearest_of = cache(self._fit), cache(self._nearest)

    # What was done by a time.

    @cached_property
    def _by_user(self) -> dict[int, list[Event]]:
        found: dict[int, list[Event]] = {}
        for event in self._events:
            found.setdefault(event["user_id"], []).append(event)
        return found

    def _before(self, user: int, now: int) -> list[Event]:
        return [e for e in self._by_user.get(user, []) if e["at"] < now]

    def _pool(self, user: int, now: int) -> list[Event]:
        """Positives of a user that vote."""
        window = now - us(self._settings.window) if self._settings.window else -NEVER
        return [e for e in self._before(user, now) if e["clicked"] == 1 and e["at"] >= window]

    def _decay(self, event: Event, now: int) -> float:
        half = self._settings.half_life
        return 0.5 ** ((now - event["at"]) / us(half)) if half else 1.0

    # Who is near.

    def _near(self, vectors: Vectors, vector: np.ndarray, k: int, without: int | None = None) -> list[int]:
        others = [v for v in vectors if v != without]
        return sorted(others, key=lambda v: -float(vectors[v] @ vector))[:k]

    def vector(self, user: int, day: dt.date, now: int) -> np.ndarray | None:
        """A user at a time, by the encoder of a day; None where nothing is known of it, or there is no encoder yet."""
        if day not in self._checkpoints:
            return None
        return self._encoder(self._checkpoints[day]).vector(self._by_user.get(user, []), now)

    def _nearest(self, day: dt.date) -> dict[int, list[int]]:
        """The nearest of each user by a day's vectors: `neighbors` others and the user itself."""
        vectors = self._vectors[day]
        return {v: self._near(vectors, vectors[v], self._settings.neighbors + 1) for v in vectors}

    def _features(self, user: int, neighbor: int, cosine: float, day: dt.date, now: int) -> list[float]:
        """An edge, by the table of docs/retrieval.md."""
        mine = [e["item_id"] for e in self._pool(user, now)]
        theirs = [e["item_id"] for e in self._pool(neighbor, now)]
        shared = sum(item in set(mine) for item in theirs)
        done = self._before(neighbor, now)
        age = (now - done[-1]["at"]) / DAY_US if done else 365.0
        near, own = self._nearest_of(day), neighbor == user
        return [
            cosine,
            shared / math.sqrt(max(len(theirs), 1) * max(len(mine), 1)),
            math.log1p(shared),
            math.log1p(len(theirs)),
            math.log1p(age),
            0.0 if own else math.log1p(sum(neighbor in of for of in near.values())),
            float(not own and user in near and user in near[neighbor]),
            float(own),
        ]

    def _edges(self, user: int, day: dt.date, now: int) -> Iterator[tuple[int, list[float]]]:
        """Neighbours of a user at a time, by the vectors and the encoder of a day."""
        vectors, query = self._vectors.get(day, {}), self.vector(user, day, now)
        if query is None:
            return
        for v in self._near(vectors, query, self._settings.neighbors, without=user):
            yield v, self._features(user, v, float(vectors[v] @ query), day, now)
        if not self._settings.exclude_seen:
            yield user, self._features(user, user, 1.0, day, now)

    # What neighbours are worth.

    def _outcomes(self, source: dt.date, day: dt.date) -> Iterator[tuple[int, int, list[int]]]:
        """User, time, and items of up to `group` positives in a row: what followed a day's vectors, to a day's end."""
        since, end = midnight(source + dt.timedelta(days=1)), midnight(day + dt.timedelta(days=1))
        group = self._lake.config.require_embeddings().group
        for user, events in self._by_user.items():
            days: dict[int, list[Event]] = {}
            for e in events:
                if e["clicked"] == 1 and since <= e["at"] < end:
                    days.setdefault(e["at"] // DAY_US, []).append(e)
            for found in days.values():
                for start in range(0, len(found), group):
                    part = found[start : start + group]
                    yield user, part[0]["at"], [e["item_id"] for e in part]

    def _fit(self, day: dt.date) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Mean and deviation of the features, and coefficients of the Poisson regression; None: cosines serve."""
        bound = day - dt.timedelta(days=self._settings.edge_days)
        if not (earlier := [d for d in self._vectors if d <= bound]):
            return None
        source = max(earlier)
        rows = []
        for user, now, wanted in self._outcomes(source, day):
            seen = {e["item_id"] for e in self._before(user, now)} if self._settings.exclude_seen else set()
            counts = Counter(wanted)
            for v, features in self._edges(user, source, now):
                pool = [(e["item_id"], self._decay(e, now)) for e in self._pool(v, now) if e["item_id"] not in seen]
                trials = sum(decay for _, decay in pool)
                if trials > 0:
                    rows.append((features, sum(counts[item] * decay for item, decay in pool), trials))
        if sum(hits for _, hits, _ in rows) < 30:
            return None
        features, hits, trials = (np.array(column) for column in zip(*rows, strict=True))
        mean, deviation = features.mean(0), features.std(0)
        deviation[deviation == 0] = 1
        return mean, deviation, _poisson(_scaled(features, mean, deviation), hits, trials)

    def _weight(self, features: list[float], day: dt.date) -> float:
        fitted = self._fitted(day)
        if fitted is None:
            return max(features[0], 0.0)
        mean, deviation, beta = fitted
        return float(np.exp(_scaled(np.array([features]), mean, deviation) @ beta)[0])

    # What is named.

    def candidates(self, user: int, now: int, k: int) -> list[tuple[int, float]]:
        """The k best items with their scores."""
        day = day_of(now) - dt.timedelta(days=1)
        edges = [(v, self._weight(features, day)) for v, features in self._edges(user, day, now)]
        total = sum(w for _, w in edges)
        scores: dict[int, float] = {}
        for v, w in edges:
            for e in self._pool(v, now):
                share = w / total if total > 0 else w
                scores[e["item_id"]] = scores.get(e["item_id"], 0.0) + share * self._decay(e, now)
        popular = self.popular(day_of(now))
        seen = {e["item_id"] for e in self._before(user, now)} if self._settings.exclude_seen else set()
        items = {i for i in scores.keys() | popular.keys() if i not in seen}
        ranked = sorted(items, key=lambda i: (-scores.get(i, 0.0), -popular.get(i, 0), i))
        return [(i, scores.get(i, 0.0)) for i in ranked[:k]]

    def popular(self, day: dt.date) -> Counter[int]:
        """Positives of each item in the 28 days before a day."""
        end = midnight(day)
        return Counter(e["item_id"] for e in self._events if e["clicked"] == 1 and end - 28 * DAY_US <= e["at"] < end)


def _scaled(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(features)), np.clip((features - mean) / deviation, -8, 8)])


def _poisson(x: np.ndarray, hits: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Where the derivative of `sum(hits * x beta - trials * exp(x beta)) - |slopes|^2 / 2` is 0, by damped Newton steps."""
    beta = np.zeros(x.shape[1])
    ridge = np.diag([0.0, *np.ones(x.shape[1] - 1)])
    for _ in range(500):
        rate = trials * np.exp(x @ beta)
        step = np.linalg.solve((x.T * rate) @ x + ridge + 1e-9 * np.eye(len(beta)), x.T @ (hits - rate) - ridge @ beta)
        beta += step / max(1.0, np.abs(step).max())
    return beta
