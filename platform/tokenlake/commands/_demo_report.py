"""The first part of the demo's final report: tables, metrics, tokens and SQL."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenlake.commands._bars import bar
from tokenlake.commands._common import console
from tokenlake.commands._tables import WholeTable, print_tables
from tokenlake.commands.evaluate import missing_controls
from tokenlake.times import day_start

if TYPE_CHECKING:
    from tokenlake._lake import Lake
    from tokenlake.commands._demo_forms import Form
    from tokenlake.evaluation.tokens import TokenReport
    from tokenlake.progress import Progress
    from tokenlake_models.metrics import Interval

_TAIL = dt.timedelta(days=5)


def work_out(lake: Lake, form: Form) -> None:
    """Train the controls and compute the retrieval report, in parallel; finished parts are skipped."""
    from tokenlake.evaluation.controls import parts_of_controls
    from tokenlake.evaluation.model_controls import missing_model_controls, parts_of_model_controls
    from tokenlake.evaluation.reports import is_current
    from tokenlake.pipeline.parallel import each_in_its_process

    parts = parts_of_controls(lake, missing_controls(lake)) if form.controls else []
    if form.controls:
        parts += parts_of_model_controls(missing_model_controls(lake))
    if lake.config.embeddings and not is_current(lake, form.report_days):
        parts.append(partial(_retrieval, lake, form.report_days))
    with bar() as progress:
        each_in_its_process(parts, progress)
    console.print(f"{len(parts)} done" if parts else "all done before")


def _retrieval(lake: Lake, days: int, progress: Progress) -> int:
    from tokenlake.evaluation.reports import current_report

    return current_report(lake, progress, days).events


def show(lake: Lake) -> None:
    """Print the tables, the metrics, one user's tokens and the results of saved queries."""
    _tables(lake)
    _metrics(lake)
    _tokens(lake)
    _saved_query(lake, "days", "ds, events, users, items, tokens, checkpoint")
    _saved_query(lake, "returning_users")


def next_steps(lake: Lake, folder: Path) -> None:
    """Print commands to try next."""
    before = lake.events.days()[-1] - _TAIL
    for command, what in (
        (f"tokenlake status {folder}", "days, freshness, versions, last runs"),
        (f"tokenlake sql {folder}", "ask your own questions; .queries lists the saved ones"),
        (f"tokenlake fetch {folder} USER --before {before}", "any user's tokens at any time"),
        (f"tokenlake airflow {folder}", "Airflow's page, with this lake's DAGs"),
        ("docs/", "what may be seen when, the store's format, how tokens are made"),
    ):
        console.print(f"  [bold]{command}[/]\n      {what}", highlight=False, soft_wrap=True)


def _tables(lake: Lake) -> None:
    table = WholeTable("table", "rows", "days", title="Rows per table", right={"rows", "days"})
    for name in ("events", "quarantine", "instance_tokens", "predictions"):
        delta = getattr(lake, name)
        table.add_row(name, f"{delta.count():,}", str(len(delta.days())))
    print_tables(table)
    if lake.quarantine.count():
        _saved_query(lake, "quarantine_reasons")


def _metrics(lake: Lake) -> None:
    """Print the metrics of the encoders, with the base rate (progressive evaluation)."""
    from tokenlake.evaluation.tokens import token_report

    report = token_report(lake)
    for label in report.rows:
        print_tables(_scores(report, label))
    console.print(
        "NE is the log loss over that of always saying the base rate: below 1 something was learned. In brackets, 95%\n"
        "intervals over users: models whose intervals overlap are not told apart by so little data.",
        soft_wrap=True,
    )


def _scores(report: TokenReport, label: str) -> WholeTable:
    """One label's scores, best NE last, in 80 columns."""
    title = f"{label}: {report.rows[label]:,} predictions, {report.base_rate[label]:.1%} positive"
    numbers = ("AUC [95%]", "NE [95%]")
    table = WholeTable("model", *numbers, title=title, right=numbers)
    scores = [score for score in report.scores if score.label == label]
    for score in sorted(scores, key=lambda score: -(score.ne.value if score.ne else 9.0)):
        table.add_row(score.model, _interval(score.auc), _interval(score.ne))
    return table


def _interval(value: Interval | None) -> str:
    return "n/a" if value is None else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _tokens(lake: Lake) -> None:
    """Print a user's last tokens before a time, and check that later events cannot change them."""
    store = lake.tokens()
    last = lake.events.days()[-1]
    before = last - _TAIL
    user = lake.sql("SELECT mode(user_id) FROM events").fetchall()[0][0]
    batch = store.fetch([user], before=[day_start(before)], length=5)
    table = WholeTable("timestamp", *batch.side, "token", title=f"User {user}: last 5 tokens strictly before {before}")
    for i in range(len(batch.timestamps)):
        labels = [str(values[i]) if batch.known[name][i] else "unknown" for name, values in batch.side.items()]
        numbers = " ".join(f"{x:+.2f}" for x in batch.values[i, :5])
        table.add_row(str(np.datetime64(int(batch.timestamps[i]), "us"))[:19], *labels, f"{numbers} ...")
    print_tables(table)
    console.print(
        f"The same after the day {last} was overwritten with noise: {_equal_after_noise(lake, user, before, last)}"
    )


def _equal_after_noise(lake: Lake, user: int | str, before: dt.date, later: dt.date) -> str:
    """Overwrite a later day in a copy of the store, and compare the fetched bytes."""
    from tokenlake.tokens.store import TokenStore

    def fetch(store: TokenStore) -> tuple[bytes, ...]:
        batch = store.fetch([user], before=[day_start(before)], length=256)
        return batch.values.tobytes(), batch.timestamps.tobytes(), *(side.tobytes() for side in batch.side.values())

    store = lake.tokens()
    with tempfile.TemporaryDirectory(prefix="tokenlake-demo-") as folder:
        shutil.copytree(lake.store_path(lake.resolve()), Path(folder) / "store")
        copy = TokenStore.open(Path(folder) / "store")
        rng = np.random.default_rng(0)
        n = 1000
        times = np.sort(day_start(later) + rng.integers(0, 86_400_000_000, n))
        labels = {name: rng.integers(0, 2, n).astype(np.int8) for name in lake.config.events.labels}
        noise = rng.standard_normal((n, store.schema.dim)).astype(np.float32)
        copy.write_day(later, np.full(n, user), times, noise, side=labels, known_at=dict.fromkeys(labels, times))
        copy.refresh()
        return "[green]equal, byte for byte[/]" if fetch(store) == fetch(copy) else "[red]DIFFERENT[/]"


def _saved_query(lake: Lake, name: str, columns: str = "*") -> None:
    from tokenlake_sql import queries

    query = queries()[name]
    result = lake.sql(query.sql, query.bind({"n": "8"} if "n" in query.bind() else None))
    result = result.project(columns)
    table = WholeTable(*result.columns, title=f"SQL: {query.title} (tokenlake sql --query {name})")
    for row in result.limit(12).fetchall():
        table.add_row(*("" if value is None else str(value) for value in row))
    print_tables(table)
