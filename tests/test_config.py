"""`tokenlake.yaml` as people get it wrong: every mistake is one message that names the place and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenlake.config import Config
from tokenlake.errors import ConfigError

WRONG = [
    ("projekt: x", "projekt: no such setting; did you mean 'project'"),
    ("events: {features: {genre: categoricl}}", "events.features.genre.kind: .*'categorical'"),
    ("events: {features: {genre: }}", "events.features.genre: a mapping .* expected, got None"),
    ("events: {features: [genre]}", r"events.features: a mapping .* got \['genre'\]"),
    ("events: {features: {'': numeric}}", "'' cannot be the name of a column; SQL quotes any text but"),
    ('events: {labels: {"a\\0": {}}}', "cannot be the name of a column"),
    ("events: {features: {Genre: numeric, genre: numeric}}", "'genre' stands there 2 times but for capitals"),
    ("events: {features: {c: numeric}, labels: {c: {}}}", "both features and labels"),
    ("events: {features: {p: {kind: numeric, column: c}}, labels: {c: {}}}", r"\['p'\] read a label's columns"),
    ("events: {features: {at: numeric}, labels: {c: {known_at: at}}}", r"\['at'\] read a label's columns"),
    ("events: {labels: {on: {}}}", "True is no name; YAML reads on, off"),
    ("events: {labels: {c: {window: 7d}}}", "needs `known_at`"),
    ("events: {labels: {c: {known_at: x, window: 7 moons}}}", "'7 moons' is no duration; write 30s, 30m"),
    ("events: {user: id, item: id}", "each needs a column of its own"),
    ("events:\n  user: a\n  user: b", "'user' stands there twice"),
    ("events: {timezone: Mars/Olympus}", "'Mars/Olympus' is no time zone"),
    ("events: {earliest: 2030-01-01, latest: 2020-01-01}", "lies before earliest"),
    ("tokens: {encoders: {iat: {dim: 10, sit_heads: 4}}}", r"sit_heads \(4\) must divide dim \(10\)"),
    ("tokens: {encoders: {iat: {scheme: user_order}}}", "tokens.encoders.iat.scheme: .*'user-order'"),
    ("tokens: {encoders: {../x: {}}}", "'../x' becomes a folder's name"),
    ("tokens: {encoders: {iat: {widht: 8}}}", "tokens.encoders.iat.widht: no such setting; did you mean 'width'"),
    ("embeddings: {passses: 8}", "embeddings.passses: no such setting; did you mean 'passes'"),
    ("embeddings: {serving: x}", r"embeddings.serving: no such setting\Z"),  # of another block
    ("embeddings: {positive: {lable: x}}", "embeddings.positive.0.lable: no such setting; did you mean 'label'"),
    ("counts: {c: {by: user, ass: count}}", "counts.c.ass: no such setting; did you mean 'as'"),
    ("counts: {c: {by: user, of: {wher: all}}}", "counts.c.of.wher: no such setting; did you mean 'where'"),
    ("counts: {c d: {by: user}}", "'c d' becomes the name of columns"),
    ("tokens: {encoders: {iat: {counts: [itm]}}}", "`counts:` declares no 'itm'; did you mean 'item'"),
    ("tokens: {encoders: {}}", "`encoders` is empty"),
    ("tokens: {serving: nope}", "'nope' is none of the encoders"),
    ("tokens: {tail: localhost:6379}", "tokens.tail: .* write redis://host:6379/0"),
    ("tokens: {tail: 'redis://:x@host/0'}", "tokens.tail: .* holds a user or a password"),
    ("landing: raw/{day}.parquet", "is no pattern of a day's files"),
    ("landing: raw/all.parquet", "is no pattern of a day's files"),
    ("landing: /raw/{ds}.parquet", "is no pattern of a day's files"),
    ("catalog: nonsense", "catalog: not a SQLAlchemy URL"),
    ("- a list", "a mapping was expected, got list"),
    ("events: [}", "is not YAML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        Config.load(file)
    assert str(file) in str(caught.value)


def test_no_text_and_no_file(tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        Config.load(file)
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file"):
        Config.load(tmp_path / "nosuch.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        Config.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "events:", "tokens:", "events: {features: , labels: }", "tokens: {encoders: {iat: }}"]
)
def test_what_is_commented_out_is_the_default(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text(text)
    assert Config.load(file) == Config()


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text("tokens: {chunk_days: 3}")
    monkeypatch.setenv("TOKENLAKE_TOKENS__CHUNK_DAYS", "5")
    assert Config.load(file).tokens.chunk_days == 5
    monkeypatch.setenv("TOKENLAKE_EVENTS", "{half")
    with pytest.raises(ConfigError, match="a TOKENLAKE_ variable of the environment cannot be read"):
        Config.load(file)


def test_where_tails_lie_makes_no_other_version(tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text("tokens: {tail: 'redis://localhost:6379/0'}")
    assert Config.load(file).version_of("iat") == Config().version_of("iat")
