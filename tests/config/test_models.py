"""The block `models` of `tokenlake.yaml`: what it refuses, its defaults, and which settings make another version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenlake.config import Config, Ensemble, Ranker
from tokenlake.errors import ConfigError
from tokenlake.features.count_inputs import declared, input_names, read_by

EVENTS: dict[str, Any] = {
    "features": {
        "category": {"kind": "categorical", "of": "item"},
        "display": "categorical",
        "price": {"kind": "numeric", "of": "item"},
    },
    "labels": {"bought": {}, "clicked": {}},
}
COUNTS = {
    "user": {"by": "user"},
    "user_item": {"by": ["user", "item"], "windows": ["28d"]},
    "item": {"by": "item", "as": "recency"},
}
HEAD = "events: {features: {genre: categorical}, labels: {bought: }}\ntokens: {encoders: {iat: , plain: {counts: false}}}\n"

WRONG = [
    ("{a: {widht: 8}}", "models.a.widht: no such setting; did you mean 'width'"),
    ("{a: {ensemble: [b, c], widht: 8}}", r"models.a.widht: no such setting\Z"),
    ("{a: {sequences: {s: {of: tokens, lenght: 8}}}}", "models.a.sequences.s.lenght: .* did you mean 'length'"),
    ("{a: {learn_days: 3}}", "models.a.learn_days: .*1 or 7"),
    ("{a: {calibration: plat}}", "models.a.calibration: .*'platt'"),
    ("{a: {features: [genr]}}", "models.a.features: no feature 'genr'; did you mean 'genre'"),
    ("{a: {labels: [bougt]}}", "models.a.labels: no label 'bougt'; did you mean 'bought'"),
    ("{a: {counts: [usr]}}", "models.a.counts: `counts:` declares no 'usr'; did you mean 'user'"),
    ("{a: {sequences: {s: {}}}}", "models.a.sequences.s.of: Field required"),
    ("{a: {sequences: {s: {of: event}}}}", "models.a.sequences.s.of: .*'events'"),
    ("{a: {sequences: {s: {of: events, encoder: iat}}}}", "`encoder` belongs to a sequence `of: tokens`"),
    ("{a: {sequences: {s: {of: tokens, features: [genre]}}}}", "`features` belongs to a sequence `of: events`"),
    ("{a: {sequences: {s: {of: tokens, only: {label: bought}}}}}", "`only` belongs to a sequence `of: events`"),
    (
        "{a: {sequences: {s: {of: tokens, encoder: iatt}}}}",
        "sequences.s.encoder: no encoder 'iatt'; did you mean 'iat'",
    ),
    ("{a: {sequences: {s: {of: events, features: [item]}}}}", "no categorical feature 'item'; did you mean 'item_id'"),
    ("{a: {sequences: {s: {of: events, only: {label: b}}}}}", "sequences.s.only: no label 'b'; there are bought"),
    ("{a: {sequences: {s: {of: events, only: {feature: g, is: x}}}}}", "sequences.s.only: no categorical feature 'g'"),
    ("{a: {sequences: {s: {of: events, heads: 3}}}}", "heads: 3 must divide width: 32"),
    ("{a: {sequences: {s/t: {of: events}}}}", "'s/t' becomes a folder's name"),
    ("{a/b: {}}", "'a/b' becomes a folder's name"),
    ("{iat: {}}", "'iat' is the name of an encoder already"),
    ("{peer-x: {}}", "'peer-x' is the name of what begins with 'alure' or 'control-' or 'peer-'"),
    ("{alures: {}}", "'alures' is the name of what begins"),
    ("{ranker: , b: {ensemble: [ranker, rankr]}}", "models.b.ensemble: no ranker 'rankr'; did you mean 'ranker'"),
    ("{a: , b: {ensemble: [a, b]}}", "models.b.ensemble: no ranker 'b'; there are a"),
    ("{a: , b: {ensemble: [a, a]}}", "a member stands there twice"),
    ("{a: , b: {ensemble: [a]}}", "models.b.ensemble: .*at least 2"),
    ("{a: , b: , c: {ensemble: [a, b]}, d: {ensemble: [a, c]}}", "models.d.ensemble: no ranker 'c'"),
    ("[a]", r"models: a mapping .* got \['a'\]"),
]


@pytest.mark.parametrize(("block", "message"), WRONG, ids=[block for block, _ in WRONG])
def test_mistakes_are_named(block: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text(f"{HEAD}models: {block}\n")
    with pytest.raises(ConfigError, match=message):
        Config.load(file)


def test_a_log_without_labels_names_none(tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text("models: {a: {labels: [observed]}}")
    with pytest.raises(
        ConfigError, match="the events have no labels, so sampled negatives are told apart; leave it out"
    ):
        Config.load(file)


def test_an_ensemble_has_a_label_of_all_its_members() -> None:
    models = {"a": {"labels": ["bought"]}, "b": {}, "c": {"labels": ["clicked"]}}
    both = config_of(models | {"both": {"ensemble": ["b", "a"]}, "alike": {"ensemble": ["b", "b2"]}, "b2": {}})
    for name, labels in (("both", ("bought",)), ("alike", ("bought", "clicked"))):
        model = both.models[name]
        assert isinstance(model, Ensemble)
        assert model.labels_of(both.models, both.events) == labels
    with pytest.raises(ValueError, match="there is no label that all of a, c predict"):
        config_of(models | {"both": {"ensemble": ["a", "c"]}})
    with pytest.raises(ValueError, match="predictions of sampled negatives cannot be matched"):
        config_of({"a": {}, "b": {}, "both": {"ensemble": ["a", "b"]}}, events={}, counts={})


def test_what_is_left_out_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "tokenlake.yaml"
    for text, models in (("models:", {}), ("models: {a: }", {"a": Ranker()})):
        file.write_text(text)
        assert Config.load(file).models == models


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokenlake.yaml"
    file.write_text("models: {a: {width: 32}}")
    monkeypatch.setenv("TOKENLAKE_MODELS__A__WIDTH", "64")
    assert Config.load(file).rankers["a"].width == 64


def test_names_are_resolved() -> None:
    config = config_of({
        "a": {
            "features": ["price", "category"],
            "sequences": {
                "raw": {"of": "events", "only": {"label": "bought"}},
                "few": {"of": "events", "features": ["display"]},
                "serving": {"of": "tokens"},
                "plain": {"of": "tokens", "encoder": "plain"},
                "again": {"of": "tokens", "encoder": "iat"},
            },
        },
        "b": {"ensemble": ["a", "c"]},
        "c": {},
    })  # fmt: skip
    ranker = config.rankers["a"]
    assert list(config.rankers) == ["a", "c"]
    assert isinstance(config.models["b"], Ensemble)
    assert ranker.features_of(config.events) == ("category", "price")
    assert config.rankers["c"].features_of(config.events) == ("category", "display", "price")
    assert ranker.encoders(config.tokens) == ("iat", "plain")
    assert [s.features_of(config.events) for s in ranker.sequences.values()] == [
        ("item_id", "category"), ("display",), (), (), ()
    ]  # fmt: skip


def test_counts_that_rankers_read_are_made() -> None:
    alone = config_of({"a": {"counts": ["user_item"]}})
    assert list(declared(alone)) == ["user_item"]
    assert input_names(alone)[-1] == "user_item_count_28d"
    assert read_by(alone, alone.rankers["a"]).tolist() == [len(input_names(alone)) - 1]
    both = config_of({"a": {"counts": ["user_item"]}, "b": {}, "c": {"counts": True}, "d": {"counts": False}})
    names = np.array(input_names(both))
    assert list(declared(both)) == list(COUNTS)
    assert names[read_by(both, both.rankers["b"])].tolist() == ["user_count", "user_item_count_28d", "item_recency"]
    assert names[read_by(both, both.rankers["a"])].tolist() == ["user_item_count_28d"]
    assert len(read_by(both, both.rankers["d"])) == 0
    assert read_by(both, both.rankers["c"]).tolist() == list(range(len(names) - 3))


TOKENS = {"sequences": {"s": {"of": "tokens"}}}


@pytest.mark.parametrize(
    ("model", "other"),
    [
        ({}, {"models": {"a": {"width": 128}}}),
        ({}, {"models": {"a": {"calibration": "platt"}}}),
        ({}, {"models": {"a": {"available": "daily"}}}),
        ({}, {"events": EVENTS | {"labels": {"bought": {}}}}),
        ({}, {"events": EVENTS | {"features": EVENTS["features"] | {"tag": "multi"}}}),
        ({"counts": ["item"]}, {"counts": COUNTS | {"item": {"by": "item"}}}),
        (TOKENS, {"tokens": {"encoders": {"iat": {"dim": 32}}}}),
        (TOKENS, {"tokens": {"encoders": {"iat": {}, "plain": {"counts": False}}, "serving": "plain"}}),
    ],
)
def test_what_changes_predictions_makes_another_version(model: dict[str, Any], other: dict[str, Any]) -> None:
    models = {"a": model, "b": {}, "both": {"ensemble": ["a", "b"]}}
    before = config_of(models)
    changed = {"models": {"a": model | other.pop("models", {}).get("a", {})} | {k: models[k] for k in ("b", "both")}}
    after = config_of(changed["models"], **other)
    assert before.model_version("a") != after.model_version("a")
    assert before.model_version("both") != after.model_version("both")


@pytest.mark.parametrize(
    ("model", "other"),
    [
        ({"counts": True}, {"counts": COUNTS | {"item": {"by": "item"}}}),
        ({"counts": ["item"]}, {"counts": COUNTS | {"item": COUNTS["item"] | {"serve": True}}}),
        ({"counts": ["item"]}, {"counts": COUNTS | {"user": {"by": "user", "as": "recency"}}}),
        ({}, {"tokens": {"encoders": {"iat": {"dim": 32}}}}),
        (TOKENS, {"tokens": {"encoders": {"iat": {}, "third": {}}}}),
    ],
)
def test_what_it_does_not_read_makes_no_other_version(model: dict[str, Any], other: dict[str, Any]) -> None:
    assert config_of({"a": model}).model_version("a") == config_of({"a": model}, **other).model_version("a")


def test_models_change_no_version_of_tokens_or_embeddings() -> None:
    without, beside = config_of({}), config_of({"a": {"counts": "all"}})
    assert without.version_of("iat") == beside.version_of("iat")
    assert without.embedding_version == beside.embedding_version


def test_a_version_is_the_name_and_eight_digits() -> None:
    assert Config(models={"my-net": Ranker()}).model_version("my-net").startswith("my-net-")
    assert len(Config(models={"a": Ranker()}).model_version("a")) == len("a-12345678")
    with pytest.raises(ConfigError, match=r"no model 'b'; tokenlake.yaml names \['a'\]"):
        Config(models={"a": Ranker()}).model_version("b")
    with pytest.raises(ConfigError, match=r"no model 'b'; tokenlake.yaml names none"):
        Config().model_version("b")


def config_of(models: dict[str, Any], **other: Any) -> Config:
    settings: dict[str, Any] = {
        "events": EVENTS,
        "tokens": {"encoders": {"iat": {}, "plain": {"counts": False}}},
        "counts": COUNTS,
        "embeddings": {},
        "models": models,
    }
    return Config.model_validate(settings | other)
