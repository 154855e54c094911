"""What declared counts are worth: encoders with and without them, and LightGBM with both, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenlake.errors import ConfigError, NotFoundError
from tokenlake.evaluation.controls import (
    Control,
    is_complete,
    reading_declared,
    run_controls,
    title,
    with_built_in,
)
from tokenlake.evaluation.differences import Aligned, Difference
from tokenlake.evaluation.peers import Peer, Search, peers_of, run_peer, searches_of
from tokenlake.evaluation.tokens import TokenReport, common_days, read, report_on
from tokenlake.lake.project import Project
from tokenlake.progress import Progress


@dataclass(frozen=True)
class CountsReport:
    """Metrics of all models, their differences, and the configurations of LightGBM that were searched."""

    scores: TokenReport
    differences: list[Difference]
    searched: list[Search]


def counts_report(lake: Project, *, resamples: int = 200, progress: Progress | None = None) -> CountsReport:
    """Train what is missing, and score encoders and LightGBM with declared and with built-in counts.

    Args:
        lake: the lake.
        resamples: number of resamples of the user bootstrap.
        progress: called as models are trained.

    Raises:
        ConfigError: no encoder reads declared counts.
        NotFoundError: no day after the bootstrap chunk was encoded yet.
    """
    encoders = reading_declared(lake)
    if not encoders:
        raise ConfigError(
            "no encoder of tokenlake.yaml reads declared counts; give one `counts: all`, or names of the block `counts`"
        )
    of_encoders = {title(f"{e.scheme} ({name})", e): lake.config.version_of(name) for name, e in encoders.items()}
    if not common_days(lake, list(of_encoders.values())):
        raise NotFoundError("no predictions after the bootstrap chunk yet; `tokenlake backfill` makes them")
    controls = [with_built_in(encoder) for encoder in encoders.values()]
    built_in, declared = peers_of(next(iter(encoders.values())))
    _train(lake, controls, (built_in, declared), progress)

    versions = of_encoders | {control.name: control.version(lake) for control in controls}
    versions |= {peer.name: peer.version(lake) for peer in (built_in, declared)}
    days = common_days(lake, list(versions.values()))
    tables = {model: read(lake, version, days) for model, version in versions.items()}
    scores = report_on(lake, tables, versions, resamples)
    pairs = [
        *((model, control.name) for model, control in zip(of_encoders, controls, strict=True)),
        *((model, declared.name) for model in of_encoders),
        (declared.name, built_in.name),
    ]
    aligned = [Aligned.of(tables, label) for label in scores.rows]
    compared = [of_label.difference(*pair, resamples) for of_label in aligned for pair in pairs]
    searched = [search for peer in (built_in, declared) for search in searches_of(lake, peer)]
    return CountsReport(scores, compared, searched)


def _train(lake: Project, controls: Sequence[Control], peers: Sequence[Peer], progress: Progress | None) -> None:
    """Train and score the models whose predictions are not complete, on the serving version's plans."""
    plans = lake.catalog.plans(lake.resolve())
    run_controls(lake, [control for control in controls if not is_complete(lake, control, plans)], progress)
    for peer in peers:
        if not is_complete(lake, peer, plans):
            run_peer(lake, peer, plans, progress)
