"""`tokenlake evaluate`: prints the encoders' metrics with their baselines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from tokenlake.commands._answers import json_option, print_json
from tokenlake.commands._bars import bar
from tokenlake.commands._common import lake_argument
from tokenlake.commands._tables import WholeTable, print_tables

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.evaluation.controls import Control
    from tokenlake.evaluation.counts import CountsReport
    from tokenlake.evaluation.models import ModelsReport
    from tokenlake.evaluation.peers import Search
    from tokenlake.evaluation.retrieval import RetrievalReport, RetrievalScore
    from tokenlake.evaluation.tokens import Score, TokenReport
    from tokenlake_models.metrics import Interval

Facts: TypeAlias = dict[str, Any]
#: A report as JSON values, and as tables.
Answer: TypeAlias = tuple[Facts, list[WholeTable]]


@click.command()
@lake_argument
@click.option("--controls/--no-controls", default=True, help="Train missing baselines first.")
@click.option(
    "--part",
    type=click.Choice(["tokens", "retrieval", "models", "counts"]),
    metavar="PART",
    help="tokens, retrieval, models or counts; default: the first two.",
)
@click.option("--against", metavar="MODEL", help="With --part models: also print each model's difference to this one.")
@click.option("--ablations", is_flag=True, help="Also evaluate retrieval without each of its parts.")
@click.option("--retrain", is_flag=True, help="Also train other user encoders and evaluate their retrieval.")
@json_option
def command(
    lake: Path, *, controls: bool, part: str | None, against: str | None, ablations: bool, retrain: bool, as_json: bool
) -> None:
    """Print AUC, GAUC, NE and log loss of the source models of LAKE, progressively over all days after the bootstrap chunk.

    The baselines are the base rate, a logistic regression on the same features, and each model with and without the
    running counts. If there are user embeddings, recall and NDCG of their candidates over the last 28 days follow, with
    popularity and item-kNN as baselines. `--retrain` adds user encoders without time inputs and with other widths: each
    is first trained and embedded over all days, once, as a separate version that nothing else reads.

    `--part models` prints the metrics of the models of `models:` and of the encoders' own, beside LightGBM on the same rows
    and counts, and each model's difference to the best of LightGBM. Rankers that differ by their seed alone are also shown
    as the mean of their metrics. A ranker with sequences is first trained without them too, once, as a control. It needs
    the extra `peers`.

    `--part counts` prints what declared counts are worth: the source models with them and with the built-in counts, beside
    LightGBM on the same rows, with both; and the differences. It needs the extra `peers`.

    LightGBM is trained anew every week, by the best of 24 configurations on the first eight weeks that are scored; what
    was searched is printed.
    """
    import tokenlake

    if against is not None and part != "models":
        raise click.UsageError("--against names a model of --part models; give both")
    opened = tokenlake.open(lake)
    parts: dict[str, Callable[[], Answer]] = {
        "tokens": partial(_tokens, opened, controls=controls),
        "retrieval": partial(_retrieval, opened, ablations=ablations, retrain=retrain),
        "models": partial(_models, opened, against=against, controls=controls),
        "counts": partial(_counts, opened),
    }
    facts: Facts = dict.fromkeys(parts)
    for name in [part] if part else ["tokens", *(["retrieval"] if opened.config.embeddings else [])]:
        facts[name], tables = parts[name]()
        if not as_json:
            print_tables(*tables)
    if as_json:
        print_json(facts)


def _tokens(opened: Lake, *, controls: bool) -> Answer:
    from tokenlake.evaluation.tokens import token_report

    if controls:
        train_controls(opened)
    report = token_report(opened)
    return _token_facts(report), _token_tables(report)


def _retrieval(opened: Lake, *, ablations: bool, retrain: bool) -> Answer:
    from tokenlake.evaluation.retrieval import retrieval_report

    with bar() as progress:
        report = retrieval_report(opened, ablations=ablations, retrain=retrain, progress=progress)
    if report.indexed:
        click.echo(f"indexed and linked {report.indexed} days that it asks about", err=True)
    return _retrieval_facts(report), [_retrieval_table(report)]


def _models(opened: Lake, *, against: str | None, controls: bool) -> Answer:
    from tokenlake.evaluation.model_controls import missing_model_controls, parts_of_model_controls
    from tokenlake.evaluation.models import models_report
    from tokenlake.pipeline.parallel import each_in_its_process

    with bar() as progress:
        if controls:
            each_in_its_process(parts_of_model_controls(missing_model_controls(opened)), progress)
        report = models_report(opened, against=against, progress=progress)
    tables = [_score_table(report.scores, label, calibration=True) for label in report.scores.rows]
    return _compared_facts(report), [*tables, *_compared_tables(report)]


def _counts(opened: Lake) -> Answer:
    from tokenlake.evaluation.counts import counts_report

    with bar() as progress:
        report = counts_report(opened, progress=progress)
    return _compared_facts(report), [*_token_tables(report.scores), *_compared_tables(report)]


def train_controls(lake: Lake) -> None:
    """Run the controls whose predictions are not complete, with a progress bar for each."""
    from tokenlake.evaluation.controls import run_controls

    if missing := missing_controls(lake):
        with bar() as progress:
            run_controls(lake, missing, progress)


def missing_controls(lake: Lake) -> list[Control]:
    """The controls whose predictions are not complete."""
    from tokenlake.evaluation.controls import controls_of, is_complete

    plans = lake.catalog.plans(lake.resolve())
    return [control for control in controls_of(lake) if not is_complete(lake, control, plans)]


# For programs.


def _token_facts(report: TokenReport) -> Facts:
    rows = [_token_row(report, score) for score in report.scores]
    return {"first": report.first, "last": report.last, "sampled": report.sampled, "rows": rows}


def _compared_facts(report: CountsReport | ModelsReport) -> Facts:
    compared = [
        {
            "model": difference.model,
            "against": difference.against,
            "label": difference.label,
            **_interval("auc", difference.auc),
            **_interval("ne", difference.ne),
        }
        for difference in report.differences
    ]
    return {
        **_token_facts(report.scores),
        "differences": compared,
        "searched": [_search_row(s) for s in report.searched],
    }


def _search_row(search: Search) -> Facts:
    tried = [{"settings": json.loads(settings), "log_loss": loss} for settings, loss in search.log_loss.items()]
    return {
        "model": search.peer,
        "label": search.label,
        "first": search.first,
        "last": search.last,
        "chosen": json.loads(search.chosen),
        "configurations": tried,
    }


def _retrieval_facts(report: RetrievalReport) -> Facts:
    return {
        "first": report.first,
        "last": report.last,
        "k": report.k,
        "events": report.events,
        "users": report.people,
        "indexed_days": report.indexed,
        "rows": [_retrieval_row(score) for score in report.scores],
    }


def _token_row(report: TokenReport, score: Score) -> Facts:
    return {
        "model": score.model,
        "label": score.label,
        "version": score.version,
        "rows": report.rows[score.label],
        "users": report.users[score.label],
        "base_rate": report.base_rate[score.label],
        **_interval("auc", score.auc),
        "gauc": score.gauc,
        **_interval("ne", score.ne),
        "log_loss": score.log_loss,
        **_interval("calibration", score.calibration),
    }


def _retrieval_row(score: RetrievalScore) -> Facts:
    return {
        "users": score.users,
        "method": score.method,
        "events": score.events,
        "recall": score.recall,
        **_interval("lift", score.lift),
        "ndcg": score.ndcg,
    }


def _interval(name: str, value: Interval | None) -> Facts:
    """A metric, and the bounds of its 95% interval beside it."""
    if value is None:
        return {name: None, f"{name}_interval": None}
    return {name: value.value, f"{name}_interval": [value.low, value.high]}


# For people.


def _token_tables(report: TokenReport) -> list[WholeTable]:
    return [_score_table(report, label) for label in report.rows]


def _retrieval_table(report: RetrievalReport) -> WholeTable:
    """Every method on all, warm and cold users."""
    title = f"next positive item, {report.events:,} events of {report.people:,} users, {report.first} to {report.last}"
    numbers = ("events", f"recall@{report.k}", "over 28 days' popularity [95%]", f"NDCG@{report.k}")
    table = WholeTable("users", "method", *numbers, title=title, right=numbers)
    group = ""
    for score in report.scores:
        if group and score.users != group:
            table.add_section()
        group = score.users
        lift = _difference_text(score.lift)
        table.add_row(score.users, score.method, f"{score.events:,}", f"{score.recall:.4f}", lift, f"{score.ndcg:.4f}")
    return table


def _score_table(report: TokenReport, label: str, *, calibration: bool = False) -> WholeTable:
    """One label's scores, best NE last."""
    sampled = " (negatives were sampled)" if report.sampled else ""
    title = (
        f"{label}{sampled}: {report.rows[label]:,} rows of {report.users[label]:,} users, {report.first} to {report.last}, "
        f"{report.base_rate[label]:.1%} positive"
    )
    numbers = ("AUC [95%]", "GAUC", "NE [95%]", "log loss", *(["calibration [95%]"] if calibration else []))
    table = WholeTable("model", *numbers, title=title, right=numbers)
    scores = [score for score in report.scores if score.label == label]
    for score in sorted(scores, key=lambda score: -(score.ne.value if score.ne else 9.0)):
        table.add_row(
            score.model,
            _interval_text(score.auc),
            _number(score.gauc),
            _interval_text(score.ne),
            _number(score.log_loss),
            *([_interval_text(score.calibration)] if calibration else []),
        )
    return table


def _compared_tables(report: CountsReport | ModelsReport) -> list[WholeTable]:
    """Differences of models, and what was searched for the peers among them."""
    numbers = ("AUC [95%]", "NE [95%]")
    differences = WholeTable("label", "model", "less", *numbers, title="differences on the same rows", right=numbers)
    for d in report.differences:
        differences.add_row(d.label, d.model, d.against, _difference_text(d.auc), _difference_text(d.ne))
    return [differences, *([_search_table(report.searched)] if report.searched else [])]


def _search_table(searched: list[Search]) -> WholeTable:
    numbers = ("configurations", "log loss, worst", "best")
    title = f"what was searched, on {searched[0].first} to {searched[0].last}"
    table = WholeTable("label", "model", *numbers, "chosen", title=title, right=numbers)
    for search in searched:
        losses = search.log_loss.values()
        chosen = ", ".join(f"{name} {value:g}" for name, value in json.loads(search.chosen).items())
        worst, best = _number(max(losses)), _number(min(losses))
        table.add_row(search.label, search.peer, str(len(losses)), worst, best, chosen)
    return table


def _difference_text(value: Interval | None) -> str:
    return "n/a" if value is None else f"{value.value:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"


def _interval_text(value: Interval | None) -> str:
    return "n/a" if value is None else f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
