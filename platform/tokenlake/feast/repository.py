"""The lake's feature repository: the two files that Feast reads, beside `tokenlake.yaml`. Does not import Feast."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Literal

import yaml

from tokenlake.config import FILE_NAME, Config
from tokenlake.errors import ConfigError, storage_error
from tokenlake.storage import atomic

#: Online stores that `feature_store.yaml` can select.
Online = Literal["sqlite", "redis", "tokenlake"]
#: Not `feast`: in the working directory, a folder of that name would hide the package `feast`.
FOLDER = "feature_repo"
STORE_FILE = "feature_store.yaml"
DEFINITIONS_FILE = "definitions.py"
#: Folder of the registry and the online store within the data folder.
_STATE = "feature_store"

_STORE = """\
# Feast's settings; docs/feast.md tells more. The daily job registers what definitions.py names, as `feast apply` would.
project: {project}
provider: local
entity_key_serialization_version: 3

# What is registered. SQL, since Feast's file registry loses concurrent writes. The path is whole, since SQLite's would
# count from wherever a reader was started: write it anew when the lake moves.
registry:
  registry_type: sql
  path: {registry}
  # path: postgresql+psycopg2://user@host/feast     # for many machines

# The past, read from the lake's tables as of any time.
offline_store: {{type: tokenlake.feast.TokenlakeOfflineStore, lake: ..}}

# The newest values, for serving. After a change here the next daily job fills the new store.
{online}

materialization: {{pull_latest_features: true}}
"""

_ONLINE = {
    "sqlite": "online_store: {{type: sqlite, path: {database}}}",
    "redis": 'online_store: {{type: redis, connection_string: "localhost:6379"}}',
    "tokenlake": "online_store: {{type: tokenlake.feast.TokenlakeOnlineStore, lake: .., path: {files}}}",
}

_DEFINITIONS = '''\
"""What Feast knows of this lake. Edit it as any Feast file: the daily job registers it, and so does `feast apply`."""

from pathlib import Path

from feast import Entity, FeatureView, Field
from feast.types import Array, Float32, Int64, String

import tokenlake
from tokenlake.feast import LakeSource, TokenSource
from tokenlake.feast.counts import count_views
from tokenlake.feast.definitions import id_type, label_lists, statistics

lake = tokenlake.open(Path(__file__).parents[1])

user = Entity(name="user", join_keys=["user_id"], value_type=id_type(lake, "user"))
item = Entity(name="item", join_keys=["item_id"], value_type=id_type(lake, "item"))

# A day's rows bear `available_at`, the start of the day after. Feast reads the newest row with available_at <= t, so
# at no time does it see what was learned of that very day.
if lake.config.embeddings:
    # Views name the version, so that vectors of two encoders never mix. A change of the encoder changes it, and the
    # next daily job takes the old one's vectors out of the online store.
    version = lake.config.embedding_version

    user_embeddings = FeatureView(
        name="user_embeddings",
        entities=[user],
        schema=[Field(name="embedding", dtype=Array(Float32)), Field(name="checkpoint", dtype=String)],
        source=LakeSource(
            name="user_embeddings", table="user_embeddings", version=version, timestamp_field="available_at"
        ),
        tags={"version": version},
    )
    item_embeddings = FeatureView(
        name="item_embeddings",
        entities=[item],
        schema=[Field(name="embedding", dtype=Array(Float32)), Field(name="checkpoint", dtype=String)],
        source=LakeSource(
            name="item_embeddings", table="item_embeddings", version=version, timestamp_field="available_at"
        ),
        tags={"version": version},
    )

# Events, active days and each label's rate over the last days, as known at the end of a day.
user_statistics = FeatureView(
    name="user_statistics",
    entities=[user],
    schema=statistics(lake),
    source=LakeSource(name="user_statistics", table="user_statistics", timestamp_field="available_at"),
)

# The last tokens of a user strictly before a time. `TokenlakeOnlineStore` reads them from the lake's token store at that
# moment; any other online store gets a copy of them, of each user who did something since the last time.
serving = lake.resolve()
instance_tokens = FeatureView(
    name="instance_tokens",
    entities=[user],
    schema=[Field(name="tokens", dtype=Array(Float32)), Field(name="timestamps", dtype=Array(Int64))],
    source=TokenSource(name="instance_tokens", stream=serving, version=serving, length=64, side=False),
    tags={"version": serving},
)

# The labels of these very tokens as they were known at that time. A copy of them would go on saying "unknown" of what
# became known since, so only history tells them, and `TokenlakeOnlineStore`, which copies nothing: `online=True` there.
if lake.config.events.labels:
    instance_labels = FeatureView(
        name="instance_labels",
        entities=[user],
        schema=[Field(name="timestamps", dtype=Array(Int64)), *label_lists(lake)],
        source=TokenSource(name="instance_labels", stream=serving, version=serving, length=64, side=True),
        online=__ONLINE__,
        tags={"version": serving},
    )

# Declared aggregations: `counts_NAME` finishes at the request's instant `at` what is known of its keys at a day's end.
globals().update(count_views(lake, user, item))
'''


def write(root: Path, online: Online = "sqlite") -> list[Path]:
    """Write the two files beside a `tokenlake.yaml`, and create the folder of the registry; existing files are kept.

    Args:
        root: folder of the `tokenlake.yaml`.
        online: the selected online store; only `tokenlake` serves the labels of token sequences.

    Returns:
        The files that were written.

    Raises:
        ConfigError: the `tokenlake.yaml` is missing or not valid.
        StorageError: the disk is full or not writable.
    """
    root = root.resolve()
    config = Config.load(root / FILE_NAME)
    data = (root / config.data).resolve()
    inside = data.is_relative_to(root)
    relative = f"../{(data / _STATE).relative_to(root)}" if inside else str(data / _STATE)
    texts = {
        STORE_FILE: _STORE.format(
            project=json.dumps(_project(config.project)),
            registry=json.dumps(f"sqlite:///{data / _STATE}/registry.db?timeout=60"),
            online=_online(online, json.dumps(f"{relative}/online.db"), json.dumps(f"{relative}/online")),
        ),
        DEFINITIONS_FILE: _DEFINITIONS.replace("__ONLINE__", str(online == "tokenlake")),
    }
    written = []
    try:
        for folder in (root / FOLDER, data / _STATE):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = root / FOLDER / name
            if not path.exists():
                atomic.write(path, text)
                written.append(path)
    except OSError as error:
        raise storage_error(error) from error
    return written


def _online(chosen: Online, database: str, files: str) -> str:
    """The line of the selected online store, followed by those of the others, commented out."""
    lines = {name: line.format(database=database, files=files) for name, line in _ONLINE.items()}
    return "\n".join([lines.pop(chosen), *(f"# {line}" for line in lines.values())])


def exists(root: Path) -> bool:
    """Whether a lake's root has a feature repository."""
    return (root / FOLDER / STORE_FILE).is_file()


def lacking(root: Path) -> str | None:
    """Why the Feast job cannot run here, with advice; None where it can."""
    if not exists(root):
        return f"no {FOLDER}/{STORE_FILE}; `tokenlake init {root} --feast` writes one"
    if importlib.util.find_spec("feast") is None:
        return "Feast is not installed; `pip install 'tokenlake[feast]'` brings it"
    return None


def identity(root: Path) -> str:
    """A digest of the registry and the online store of a lake's repository: a new digest means that they are empty.

    Raises:
        ConfigError: the `feature_store.yaml` cannot be parsed.
    """
    path = root / FOLDER / STORE_FILE
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: a mapping was expected, got {type(settings).__name__}")
    parts = [settings.get(name) for name in ("project", "registry", "online_store")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _project(name: str) -> str:
    """A name that Feast accepts for a project: letters, digits and underscores, not beginning with an underscore."""
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in name).strip("_")
    return plain or "lake"
