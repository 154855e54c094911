"""What models are worth: rankers and ensembles beside LightGBM and the encoders' own models, on the same rows.

Every row is predicted by a model that has learned from earlier days only. Rankers that differ by nothing but their seed
are also shown as one: the mean of their metrics, which is what is compared with a peer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokenlake.errors import ConfigError, NotFoundError, OrderError
from tokenlake.evaluation.controls import is_complete
from tokenlake.evaluation.differences import Aligned, Difference
from tokenlake.evaluation.peers import Peer, Search, peers_of_rankers, run_peer, searches_of
from tokenlake.evaluation.tokens import (
    Score,
    TokenReport,
    common_days,
    encoders_with_predictions,
    models_with_predictions,
    of_model,
    read,
    report_on,
    score_of,
)
from tokenlake.lake.project import Project
from tokenlake.progress import Progress


@dataclass(frozen=True)
class ModelsReport:
    """Metrics of all models, their differences, and the configurations of LightGBM that were searched."""

    scores: TokenReport
    differences: list[Difference]
    searched: list[Search]


def models_report(
    lake: Project, *, against: str | None = None, resamples: int = 200, progress: Progress | None = None
) -> ModelsReport:
    """Score every model of `models:` with predictions, beside peers, which are trained where they are missing.

    Each model is compared with the best peer, which is the one of least NE.

    Args:
        lake: the lake.
        against: name of a model that each other one is compared with too.
        resamples: number of resamples of the user bootstrap.
        progress: called as peers are trained.

    Raises:
        ConfigError: the config names no models, or not the one in `against`.
        NotFoundError: no model has predicted a day after the bootstrap chunk yet.
        OrderError: a model has not predicted all days, or late events, yet.
    """
    if not lake.config.models:
        raise ConfigError("tokenlake.yaml names no models; give it a block `models:` (docs/models.md)")
    versions = {**dict(models_with_predictions(lake)), **dict(encoders_with_predictions(lake))}
    if not common_days(lake, list(versions.values())):
        raise NotFoundError("no model has predicted a day after the bootstrap chunk yet; `tokenlake train` runs them")
    _require(against, versions)
    _require_same_days(lake, versions)
    compared, peers = list(versions), peers_of_rankers(lake)
    for peer in peers:
        _train(lake, peer, progress)
    versions |= {peer.name: peer.version(lake) for peer in peers}

    days = common_days(lake, list(versions.values()))
    tables = {model: of_model(read(lake, version, days), model) for model, version in versions.items()}
    scores = report_on(lake, tables, versions, resamples)
    seeds = _by_seed(lake, list(tables))
    differences = list[Difference]()
    for label in scores.rows:
        aligned = Aligned.of(tables, label)
        scores.scores.extend(_means(aligned, seeds, resamples))
        best = _best([score for score in scores.scores if score.label == label], peers)
        means = [name for name in seeds if name in aligned.values]
        pairs = [(model, other) for other in (best, against) if other for model in (*compared, *means)]
        differences += [
            aligned.difference(*pair, resamples)
            for pair in pairs
            if pair[0] != pair[1] and all(model in aligned.values for model in pair)
        ]
    return ModelsReport(scores, differences, [search for peer in peers for search in searches_of(lake, peer)])


def _train(lake: Project, peer: Peer, progress: Progress | None) -> None:
    """Train a peer along its ranker's plans, unless its predictions are complete."""
    name = next(name for name, ranker in lake.config.rankers.items() if ranker is peer.reader)
    plans = lake.catalog.plans(lake.config.model_version(name))
    if any(not plan.bootstrap for plan in plans) and not is_complete(lake, peer, plans):
        run_peer(lake, peer, plans, progress)


def _by_seed(lake: Project, there: list[str]) -> dict[str, list[str]]:
    """Rankers that differ by nothing but their seed: name of their mean -> their names."""
    groups: dict[str, list[str]] = {}
    for name, ranker in lake.config.rankers.items():
        if name in there:
            groups.setdefault(ranker.model_dump_json(exclude={"seed"}), []).append(name)
    return {f"mean of {', '.join(names)}": names for names in groups.values() if len(names) > 1}


def _means(aligned: Aligned, seeds: dict[str, list[str]], resamples: int) -> Iterator[Score]:
    """Scores of means over seeds, which become models of `aligned`."""
    for mean, names in seeds.items():
        if all(name in aligned.values for name in names):
            aligned.values[mean] = np.stack([aligned.values[name] for name in names])
            yield score_of(mean, aligned.label, None, aligned.target, aligned.values[mean], aligned.users, resamples)


def _best(scores: list[Score], peers: list[Peer]) -> str | None:
    """The peer of least NE."""
    names = {peer.name for peer in peers}
    measured = {score.model: score.ne.value for score in scores if score.ne is not None and score.model in names}
    return min(measured, key=lambda model: measured[model], default=None)


def _require(against: str | None, models: dict[str, str]) -> None:
    if against is not None and against not in models:
        close = difflib.get_close_matches(against, models, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(models)}"
        raise ConfigError(f"no model {against!r} with predictions; {hint}")


def _require_same_days(lake: Project, models: dict[str, str]) -> None:
    """A model that is half done would take the other days from all others."""
    bootstrap = {plan.day for version in models.values() for plan in lake.catalog.plans(version) if plan.bootstrap}
    days = {model: set(lake.predictions.days(version)) - bootstrap for model, version in models.items()}
    every = set.union(*days.values())
    for model, own in days.items():
        if missing := every - own:
            raise OrderError(
                f"{model} has predicted {len(own)} of {len(every)} days, and not {min(missing)}; "
                f"`tokenlake backfill {lake.root}` runs what is missing"
            )
