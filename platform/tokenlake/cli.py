"""The command line. Each command is a module of `tokenlake.commands`, imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from tokenlake.errors import TokenlakeError, missing_extra, storage_error
from tokenlake_kernels.errors import KernelError
from tokenlake_models.errors import ModelError

#: Command -> its one line of help; the module `tokenlake.commands.<name>` holds `command`.
COMMANDS = {
    "airflow": "Run Airflow on loopback with a lake's DAGs.",
    "audit": "Check a training set for values that became known too late.",
    "backfill": "Run every daily job from one day to another.",
    "bench": "Run the repository's benchmarks.",
    "counts": "Print declared counts of rows, or explain them.",
    "datasets": "Fetch public data sets as event logs.",
    "demo": "Run the whole daily path on real data.",
    "drop": "Remove a version of an encoder or model for good.",
    "evaluate": "Print metrics of encoders and candidates, with baselines.",
    "fetch": "Print a user's last tokens before a time.",
    "index": "Build indexes and graphs of days with embeddings.",
    "ingest": "Ingest raw events into a lake.",
    "init": "Write a commented tokenlake.yaml.",
    "neighbors": "Print similar users, and candidates at a time.",
    "promote": "Make an encoder version the serving one.",
    "rollback": "Make the previous serving version the serving one again.",
    "run": "Run every daily job of one day.",
    "simulate": "Write an ads-like event log.",
    "sql": "Query a lake in SQL, read-only.",
    "status": "Show days, freshness, versions and last errors.",
    "tails": "Show the streams of token stores in a Redis.",
    "train": "Train rankers and ensembles, and predict each day.",
    "verify": "Check every checksum, order and count on disk.",
    "versions": "Show versions of encoders and models, and which one is serving.",
}


class _LazyGroup(click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tokenlake.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tokenlake")
def app() -> None:
    """Tokenlake: learned features of interaction logs, served point-in-time correct."""


def main() -> None:
    """Run the command line; Tokenlake errors are printed without a traceback."""
    try:
        app()
    except (TokenlakeError, ModelError, KernelError) as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if (known := missing_extra(error)) is None:
            raise
        _fail(known)
    except OSError as error:
        _fail(storage_error(error))


def _fail(error: Exception) -> NoReturn:
    from tokenlake.commands._messages import printable

    click.secho(printable(f"{type(error).__name__}: {error}"), fg="red", err=True)
    sys.exit(1)
