"""Peers of encoders and rankers: LightGBM on the same rows and the same counts, trained anew every week.

Its configuration is the best of `CONFIGURATIONS` on the first eight weeks that are scored, label by label. Those weeks are
reported with the others, which favours the peer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from tokenlake.catalog import Plan
from tokenlake.config import Encoder, Ranker
from tokenlake.evaluation.boosting import CATEGORIES, CONFIGURATIONS, FIXED, BoostingRows, Settings
from tokenlake.evaluation.controls import BUILT_IN, DECLARED
from tokenlake.features.count_inputs import read_by
from tokenlake.features.instances import label_names
from tokenlake.lake.project import Project
from tokenlake.pipeline.encoding import predictions_table
from tokenlake.progress import Progress
from tokenlake.times import Day, as_day, day_start
from tokenlake_models import metrics

Days: TypeAlias = list[np.datetime64]

#: Days that one model scores; then it is trained anew.
RETRAINED_AFTER = 7
#: Days that the search for a configuration looks at.
SEARCHED_DAYS = 56
#: Job of the catalog's record of a search, and its measurement: log loss of a configuration on a label.
SEARCH, _LOSS = "search-peer", "log_loss"


@dataclass(frozen=True)
class Peer:
    """LightGBM on the counts that an encoder or a ranker reads.

    Attributes:
        name: name in the report.
        reader: whose counts it reads.
    """

    name: str
    reader: Encoder | Ranker

    def version(self, lake: Project) -> str:
        """The version of its predictions, which depends on what is searched, the features and the counts."""
        config = lake.config
        counts = [
            (name, c.model_dump(mode="json", exclude={"serve"})) for name, c in config.counts_of(self.reader).items()
        ]
        searched = [FIXED, [dict(settings) for settings in CONFIGURATIONS], RETRAINED_AFTER, SEARCHED_DAYS, CATEGORIES]
        made_of = [searched, config.events.model_dump(mode="json"), self.reader.counts is not False, counts]
        digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        return f"peer-{self.name.replace(' ', '-')}-{digest[:8]}"


@dataclass(frozen=True)
class Search:
    """What was searched for one label of a peer.

    Attributes:
        peer: name in the report.
        label: the label.
        first: first day that was looked at.
        last: last day that was looked at.
        log_loss: of each configuration on those days, in nats per row, as JSON text of its settings.
    """

    peer: str
    label: str
    first: Day
    last: Day
    log_loss: dict[str, float]

    @property
    def chosen(self) -> str:
        """The configuration of least log loss, as JSON text."""
        return min(self.log_loss, key=lambda settings: self.log_loss[settings])


def peers_of(encoder: Encoder) -> list[Peer]:
    """LightGBM with the built-in counts, and with those that an encoder declares."""
    return [
        Peer(f"LightGBM with {BUILT_IN}", encoder.model_copy(update={"counts": True})),
        Peer(f"LightGBM with {DECLARED}", encoder),
    ]


def peers_of_rankers(lake: Project) -> list[Peer]:
    """LightGBM on the counts of each ranker of the config; once, where rankers read the same."""
    firsts: dict[bytes, str] = {}
    for name, ranker in lake.config.rankers.items():
        firsts.setdefault(read_by(lake.config, ranker).tobytes(), name)
    return [Peer(f"LightGBM on counts of {name}", lake.config.rankers[name]) for name in firsts.values()]


def run_peer(lake: Project, peer: Peer, plans: Sequence[Plan], progress: Progress | None = None) -> int:
    """Search, train and score a peer along plans; returns the rows written to `predictions`.

    The scored days are those of the plans, without the bootstrap chunk, in periods of `RETRAINED_AFTER` days. Each period
    is scored by a model that was trained on all rows of earlier days whose label was known before the period.
    """
    rows = BoostingRows.of(lake, peer.reader, plans)
    version, labels = peer.version(lake), label_names(lake.config)
    scores = np.zeros((len(rows.days), len(labels)), np.float32)
    scored = np.zeros(len(rows.days), np.bool_)
    periods = _periods(plans)
    chosen = _searched(lake, peer, rows, periods, progress)
    for done, period in enumerate(periods, 1):
        asked = rows.of_days(period)
        for i, (label, settings) in enumerate(zip(labels, chosen, strict=True)):
            scores[asked, i] = rows.predict(label, _start(period), asked, settings)
        scored |= asked
        if progress:
            progress(peer.name, done, len(periods))
    events = rows.events.filter(pa.array(scored))
    written = predictions_table(lake, events, scores[scored], peer.name, version)
    lake.predictions.replace_version(version, written)
    return int(written.num_rows)


def searches_of(lake: Project, peer: Peer) -> list[Search]:
    """What was searched for a peer, label by label, as the catalog has it of its last search."""
    measured = lake.catalog.metrics(_LOSS, job=SEARCH, version=peer.version(lake))
    last = max((metric.day for metric in measured if metric.day is not None), default=None)
    found: dict[str, Search] = {}
    for metric in measured:
        if metric.day == last is not None and metric.value is not None:
            label, first = metric.labels["label"], as_day(metric.labels["first"])
            search = found.setdefault(label, Search(peer.name, label, first, last, {}))
            search.log_loss[metric.labels["settings"]] = metric.value
    return list(found.values())


def _searched(
    lake: Project, peer: Peer, rows: BoostingRows, periods: Sequence[Days], progress: Progress | None
) -> list[Settings]:
    """Of each label the configuration of least log loss on the first periods; recorded in the catalog with all others."""
    end = periods[0][0] + np.timedelta64(SEARCHED_DAYS, "D")
    looked_at = [period for period in periods if period[0] < end]
    first, last = as_day(str(looked_at[0][0])), as_day(str(looked_at[-1][-1]))
    labels, chosen = label_names(lake.config), list[Settings]()
    with lake.catalog.run(SEARCH, last, peer.version(lake)) as run:
        for i, label in enumerate(labels):
            losses = list[float]()
            for j, settings in enumerate(CONFIGURATIONS, 1):
                loss = _loss_of(rows, label, looked_at, settings)
                losses.append(np.inf if loss is None else loss)
                run.metric(_LOSS, loss, label=label, first=first, settings=json.dumps(settings))
                if progress:
                    total = len(labels) * len(CONFIGURATIONS)
                    progress(f"{peer.name}: configurations", i * len(CONFIGURATIONS) + j, total)
            chosen.append(CONFIGURATIONS[int(np.argmin(losses))])
    return chosen


def _loss_of(rows: BoostingRows, label: str, periods: Sequence[Days], settings: Settings) -> float | None:
    """Log loss of a configuration over some periods, each predicted by a model of what was known before it."""
    labelled, positive = rows.targets(label)
    asked = [rows.of_days(period) & labelled for period in periods]
    values = [rows.predict(label, _start(period), of, settings) for period, of in zip(periods, asked, strict=True)]
    return metrics.log_loss(np.concatenate([positive[of] for of in asked]), np.concatenate(values))


def _start(period: Days) -> int:
    """The instant at which a period begins (us)."""
    return day_start(as_day(str(period[0])))


def _periods(plans: Sequence[Plan]) -> list[Days]:
    """The scored days, in groups that one model scores."""
    days = sorted(np.datetime64(plan.day, "D") for plan in plans if not plan.bootstrap)
    periods = list[Days]()
    while days:
        end = days[0] + np.timedelta64(RETRAINED_AFTER, "D")
        periods.append([day for day in days if day < end])
        days = [day for day in days if day >= end]
    return periods
