"""`tokenlake airflow`: runs Airflow's services on loopback for one lake, or one of Airflow's own commands."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType

import click

#: Folder of the demo's lake, the default of `make airflow`.
DEMO = Path("demo/complete-journey")


@click.command()
@click.argument("lake", type=click.Path(path_type=Path), default=DEMO)
@click.argument("airflow", nargs=-1, type=click.UNPROCESSED)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 selects a free port.")
def command(lake: Path, port: int, airflow: tuple[str, ...]) -> None:
    """Run Airflow with Tokenlake's DAGs on LAKE (default: the demo's), on this machine only, until Ctrl-C.

    Its database, logs and password are in LAKE/airflow. Ctrl-C stops every process; an interrupted job is run again
    when Airflow is started again. With AIRFLOW, run that command of Airflow instead, such as
    `tokenlake airflow LAKE -- backfill create --help`.
    """
    from rich.console import Console

    import tokenlake
    from tokenlake.errors import ConfigError
    from tokenlake.scheduling.services import USER, Services

    if lake == DEMO and not lake.exists():
        raise ConfigError(
            f"there is no lake at {DEMO}; run `make demo` first, or name another: `tokenlake airflow LAKE`"
        )
    services = Services(tokenlake.open(lake).root, port=port)
    if airflow:
        sys.exit(services.airflow(*airflow))
    console = Console()
    signal.signal(signal.SIGTERM, _end)
    try:
        with console.status("Airflow starts") as status:
            services.start(lambda waiting: status.update(f"Airflow starts; waiting for {waiting}"))
        console.print(f"Airflow: {services.url} as {USER}, password in {services.password_file}", soft_wrap=True)
        console.print("Trigger tokenlake_ingest with a day, such as 2017-12-29, as partition key. Ctrl-C stops all.")
        while True:
            services.check()
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        with console.status("Airflow stops"):
            services.stop()
    console.print("Airflow has stopped.")


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
