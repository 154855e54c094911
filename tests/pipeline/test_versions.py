"""A new version beside the serving one: back-filled, verified, promoted, rolled back; through the CLI and the SDK."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tokenlake
from tests.fixtures.lakes import make_events, make_lake
from tokenlake.cli import app
from tokenlake.errors import NotFoundError, VersionError
from tokenlake.times import NEVER

USERS = list(range(12))


def call(*words: object) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_version_takes_over_and_gives_back(tmp_path: Path) -> None:
    root = make_lake(tmp_path).root
    tokenlake.open(root).ingest(make_events(days=4))
    call("backfill", root, "--version", "iat")
    lake = tokenlake.open(root)
    old, new = lake.resolve("iat"), lake.resolve("plain")
    reader = lake.tokens()
    assert (reader.path.name, lake.catalog.serving()) == (old, old)
    before = reader.fetch(USERS, before=NEVER)
    with pytest.raises((NotFoundError, VersionError)):
        lake.promote("plain")  # nothing of it was made yet

    call("backfill", root, "--version", "plain")
    assert call("verify", root).count("plain") >= 1
    # The back-fill beside it changed nothing for those who read, neither on disk nor in who serves.
    assert tokenlake.open(root).tokens().path.name == old
    reader.refresh()
    again = reader.fetch(USERS, before=NEVER)
    assert np.array_equal(again.values, before.values)

    lake.promote("plain")
    served = tokenlake.open(root).tokens()
    assert served.path.name == new
    other = served.fetch(USERS, before=NEVER)
    assert np.array_equal(other.timestamps, before.timestamps)  # the same events, each version's own tokens
    assert not np.array_equal(other.values, before.values)
    # An open reader stays with its version, whatever is promoted.
    reader.refresh()
    assert np.array_equal(reader.fetch(USERS, before=NEVER).values, before.values)

    # Every token of a fetch is of one version: those of the Delta table, by event time and user.
    for version, batch in ((old, before), (new, other)):
        rows = lake.instance_tokens.read(version=version)
        rows = rows.sort_by([("user_id", "ascending"), ("timestamp", "ascending"), ("event_id", "ascending")])
        table = np.array(rows["token"].to_pylist(), np.float32)
        held = np.isin(rows["user_id"].to_numpy(), USERS)
        assert np.array_equal(batch.floats(), table[held])

    assert lake.rollback() == old
    assert tokenlake.open(root).tokens().path.name == old
    assert np.array_equal(tokenlake.open(root).tokens().fetch(USERS, before=NEVER).values, before.values)
    assert np.array_equal(lake.tokens("plain").fetch(USERS, before=NEVER).values, other.values)  # still readable


def fails(*words: object) -> Exception:
    """The error that the command line would print."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, Exception), result.output
    return result.exception


def test_the_command_line_promotes_what_is_complete_and_rolls_back(tmp_path: Path) -> None:
    root = make_lake(tmp_path).root
    assert "No version yet" in call("versions", root)
    assert "no version serves" in str(fails("rollback", root))
    lake = tokenlake.open(root)
    lake.ingest(make_events(days=3))
    old, new = lake.resolve("iat"), lake.resolve("plain")
    unmade = fails("promote", root, "plain")
    assert isinstance(unmade, VersionError)
    assert "3 days with events are missing, the first 2024-03-01" in str(unmade)
    call("backfill", root, "--version", "iat")
    call("backfill", root, "2024-03-01", "2024-03-02", "--version", "plain")
    wrong = fails("promote", root, "nosuch")
    assert isinstance(wrong, NotFoundError)
    assert old in str(wrong)
    assert "nosuch" in str(wrong)
    assert f"no version served before '{old}'" in str(fails("rollback", root))
    partial = fails("promote", root, "plain")
    assert f"version '{new}' is not complete: 1 days with events are missing, the first 2024-03-03." in str(partial)
    assert f"backfill {root} --version {new}" in str(partial)
    assert tokenlake.open(root).resolve() == old, "what was refused changed nothing"

    call("backfill", root, "--version", "plain")
    assert f"{new} serves now, instead of {old}" in call("promote", root, "plain")
    assert f"{new} serves already" in call("promote", root, new)
    shown = call("versions", root)
    assert re.search(rf"{new} +serving +3/3 +none +0 .* {old}\b", shown)
    assert re.search(rf"{old} +retired +3/3 +none +0 ", shown)
    told = {row["version"]: row for row in json.loads(call("versions", root, "--json"))}
    assert (told[new]["state"], told[new]["previous"], told[old]["missing"]) == ("serving", old, [])
    assert f"{old} serves again, instead of {new}" in call("rollback", root)
    assert tokenlake.open(root).resolve() == old

    late = make_events(days=1, per_day=3, seed=9)
    tokenlake.open(root).ingest(late)
    assert "1 days wait to be run again, the first 2024-03-01" in str(fails("promote", root, "plain"))
    assert f"{new} serves now" in call("promote", root, "plain", "--incomplete")
