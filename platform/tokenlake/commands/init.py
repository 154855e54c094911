"""`tokenlake init`: writes a commented tokenlake.yaml."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from tokenlake.commands._answers import json_option, print_json
from tokenlake.config import FILE_NAME
from tokenlake.errors import ConfigError
from tokenlake.storage import atomic

if TYPE_CHECKING:
    from tokenlake.lake.guess import Guess

_TEMPLATE = """\
# What the events of this lake are called, and how tokens are made of them.
project: {project}
# data: .               # where the data lies, relative to this file
# catalog: postgresql+psycopg2://...   # default: SQLite in the data folder
# landing: raw/{{ds}}/*.parquet         # what the daily ingest job reads

events:
{columns}
  # unit: ms            # of integer timestamps: s, ms, us or ns; without it the size tells, where it leaves no doubt
  # timezone: UTC       # of timestamps without a zone
  # earliest: 1990-01-01    # rows outside are quarantined
  # latest: 2100-01-01

  # Inputs of the encoder: categorical, multi (lists, or text like a|b|c), numeric or vector.
{features}
  # What is to be predicted; never an input before it is known. Without known_at a label is known at its event's time;
  # with it a positive at that column's time, a negative at timestamp + window:
  #   converted: {{known_at: converted_at, window: 7d}}
  # A log without labels works too: negatives are sampled.
{labels}
tokens:
  encoders:
    iat: {{scheme: user-order, dim: 64}}
    # second: {{scheme: temporal-order, dim: 64}}
  # serving: iat        # the first, unless another is named or promoted
  # dtype: float16      # float32, float16 or int8
  # tail: redis://localhost:6379/0    # where stores made from now on keep appended rows; default: their own folder

# A vector per user and day, an index, and candidates; `embeddings: {{}}` takes the defaults.
# embeddings:
#   sources: {{events: all}}          # or {{bought: {{label: bought}}, promos: {{feature: kind, is: promo}}}}
#   retention_days: 90
# retrieval:
#   exclude_seen: true    # false for what is consumed again, such as groceries

# Rankers: how likely an event has each label (docs/models.md).
# models:
#   ranker: {{counts: all, sequences: {{recent: {{of: events, length: 100}}, history: {{of: tokens, length: 256}}}}}}

# Bounds of questions in SQL; at each a question ends with an error.
# sql:
#   memory: 8GB         # default: half of the machine's memory
#   spill: 10GB         # on disk, for what does not fit into it
#   timeout: 10m        # default: none
#   threads: 4          # default: all cores
"""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--from",
    "sample",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Guess the schema from a file.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing tokenlake.yaml.")
@click.option("--feast", is_flag=True, help="Write only feature_repo/, for a lake without one.")
@json_option
def command(folder: Path, sample: Path | None, *, force: bool, feast: bool, as_json: bool) -> None:
    """Write a commented tokenlake.yaml into FOLDER, and feature_repo/ for Feast."""
    from tokenlake.feast import repository

    target = folder / FILE_NAME
    if feast:
        written = repository.write(folder)
        if as_json:
            print_json({"written": written})
        for path in [] if as_json else written:
            click.echo(f"{path} is written")
        return
    if target.exists() and not force:
        raise ConfigError(f"{target} exists; --force overwrites it")
    guessed = None
    if sample is not None:
        from tokenlake.lake.guess import guess

        guessed = guess(sample)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(target, render(folder.resolve().name, guessed))
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({error.strerror})") from error
    written = [target.resolve(), *repository.write(folder)]
    if as_json:
        print_json({"written": written})
        return
    click.echo(f"{target} is written{' from a guess: read it before you ingest' if guessed else ''}. Next:")
    click.echo(f"  tokenlake ingest {folder} {sample or 'events.parquet'} --dry-run")


def render(project: str, guessed: Guess | None = None) -> str:
    """The file's text; settings that were not guessed are comments or defaults."""
    return _TEMPLATE.format(
        project=_quoted(project),
        columns="\n".join(_columns(guessed)),
        features="\n".join(_features(guessed)),
        labels="\n".join(_labels(guessed)),
    )


def _columns(guessed: Guess | None) -> list[str]:
    lines = []
    for role, default in (("user", "user_id"), ("item", "item_id"), ("timestamp", "timestamp")):
        name = default if guessed is None else getattr(guessed, role)
        lines.append(
            f"  {role}: {_quoted(name)}" if name else f"  {role}: {default}  # not found in the sample: name it"
        )
    if guessed is not None and guessed.id:
        lines.append(f"  id: {_quoted(guessed.id)}")
    else:
        lines.append("  # id: event_id        # a unique id; without it one is derived from the row's whole content")
    return lines


def _features(guessed: Guess | None) -> list[str]:
    if guessed is None or not guessed.features:
        return [
            "  features: {}",
            "  #   category: categorical",
            "  #   price: {kind: numeric, column: unit price, of: item}",
        ]
    lines = ["  features:", *(f"    {_quoted(name)}: {kind}" for name, kind in guessed.features.items())]
    return lines + [f"    # {_quoted(name)}: left out" for name in guessed.unused]


def _labels(guessed: Guess | None) -> list[str]:
    if guessed is None or not guessed.labels:
        return ["  labels: {}", "  #   clicked: {}"]
    return ["  labels:", *(f"    {_quoted(name)}: {{}}" for name in guessed.labels)]


def _quoted(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w-]*", name) and yaml.safe_load(name) == name
    return name if plain else yaml.safe_dump(name, default_style='"', allow_unicode=True, width=math.inf).strip()
