"""docs/cli.md is true: each command that answers has a documented shape, and its answer has that shape."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import click
import pytest
from click.testing import CliRunner, Result
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict, is_typeddict

from tests.commands import shop
from tests.fixtures.servers import Server
from tokenlake import cli
from tokenlake.tokens.store import TokenStore

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
#: What has no one result: said on the page.
WITHOUT = {"airflow", "bench", "demo"}
#: Exits with 1: the example has a leak.
CODES = {"audit": 1}
#: Whose numbers are learned, or differ from machine to machine.
LEARNED = {"evaluate", "neighbors"}
VARYING = {"bytes", "host", "idle_seconds", "id"}


@dataclass(frozen=True)
class Example:
    command: str
    words: tuple[str, ...]
    answer: Any


def examples() -> list[Example]:
    """Every command line of the page, with the answer below it."""
    found = []
    for section in re.split(r"^### ", PAGE, flags=re.M)[1:]:
        command = re.match(r"`tokenlake (.+)`", section)
        assert command is not None, section[:40]
        for line, answer in re.findall(r"```console\n\$ tokenlake ([^\n]+)\n```\n\n```json\n(.+?)```", section, re.S):
            found.append(Example(command[1], tuple(shlex.split(line)), json.loads(answer)))
    return found


def shapes() -> dict[str, TypeAdapter[Any]]:
    """The types of the page by name; strict: no key too many or too few, no integer as text, no NaN."""
    names: dict[str, Any] = {"Annotated": Annotated, "Any": Any, "Field": Field, "Literal": Literal}
    names |= {"NotRequired": NotRequired, "TypedDict": TypedDict}
    for block in re.findall(r"```python\n(.+?)```", PAGE, re.S):
        exec(compile(block, "docs/cli.md", "exec", dont_inherit=True), names)
    for each in names.values():
        if is_typeddict(each):
            each.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return {title(name): TypeAdapter(names[title(name)]) for name in sections()}


def sections() -> list[str]:
    return re.findall(r"^### `tokenlake (.+)`$", PAGE, re.M)


def title(command: str) -> str:
    """`datasets list` -> `DatasetsList`."""
    return "".join(word.strip("-").title() for word in command.split())


def commands() -> dict[str, click.Command]:
    """Every command that can be typed, by its words."""

    def walk(command: click.Command, words: list[str]) -> Iterator[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            yield " ".join(words), command
            return
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from walk(inner, [*words, name])

    return dict(walk(cli.app, []))


EXAMPLES, SHAPES = examples(), shapes()


@dataclass
class Shop:
    """The folder that the examples run in, and what each of them said."""

    folder: Path
    redis: str
    said: list[Result]

    def call(self, *words: object, columns: int | None = None) -> Result:
        env = None if columns is None else {"COLUMNS": str(columns)}
        with contextlib.chdir(self.folder):
            return CliRunner().invoke(cli.app, [str(word) for word in words], env=env)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("answers").resolve()
    shop.make(folder)
    (folder / "redis").mkdir()
    server = Server(folder / "redis")
    session = Shop(folder, server.url, [])
    for example in EXAMPLES:
        said = session.call(*(word.replace("redis://localhost:6379/0", server.url) for word in example.words))
        session.said.append(said)
    yield session
    server.kill()


def test_every_command_that_answers_has_a_shape_and_an_example() -> None:
    answering = {
        name for name, command in commands().items() if any("--json" in option.opts for option in command.params)
    }
    assert answering == set(commands()) - WITHOUT
    documented = {name.partition(" --")[0] for name in sections()}
    assert documented == answering == {example.command.partition(" --")[0] for example in EXAMPLES}
    assert len(EXAMPLES) == PAGE.count("```console")
    for name in WITHOUT:
        assert f"`{name}`" in PAGE.partition("have no `--json`")[0].rpartition("\n\n")[2]


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=lambda number: EXAMPLES[number].command)
def test_each_answer_has_its_shape_and_is_as_the_page_shows(session: Shop, number: int) -> None:
    example, said = EXAMPLES[number], session.said[number]
    assert said.exit_code == CODES.get(example.command, 0), said.output
    shape = SHAPES[title(example.command)]
    shape.validate_json(said.stdout)
    shape.validate_json(json.dumps(example.answer))
    told = json.loads(said.stdout.replace(str(session.folder), "/home/you"))
    differs = list(differences(example.answer, told, learned=example.command in LEARNED))
    assert not differs, differs


def differences(shown: Any, told: Any, *, learned: bool, at: str = "") -> Iterator[str]:
    """Where the page shows something else than what was said; its lists may be shorter, and times are others."""
    key = at.rpartition(".")[2]
    if isinstance(shown, dict) and isinstance(told, dict):
        if list(shown) != list(told):
            yield f"{at}: {list(shown)}, not {list(told)}"
        for name in set(shown) & set(told):
            yield from differences(shown[name], told[name], learned=learned, at=f"{at}.{name}")
    elif isinstance(shown, list) and isinstance(told, list):
        for i, each in enumerate(shown):
            if all(list(differences(each, other, learned=learned)) for other in told):
                yield f"{at}[{i}]: nothing like {each}"
    elif isinstance(shown, float) or is_instant(shown) or (learned and isinstance(shown, int)) or key in VARYING:
        if type(shown) is not type(told) or is_instant(shown) != is_instant(told):
            yield f"{at}: {shown!r}, not {told!r}"
    elif shown != told:
        yield f"{at}: {shown!r}, not {told!r}"


def is_instant(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value) is not None


def test_a_shape_refuses_what_is_not_its_own() -> None:
    for wrong in ({"written": []} | {"more": 1}, {}, {"written": [1]}):
        with pytest.raises(ValidationError):
            SHAPES["Init"].validate_python(wrong)


def test_verify_tells_the_fault_and_fails(session: Shop, tmp_path: Path) -> None:
    (store,) = (session.folder / "shop" / "tokens").glob("iat-*")
    shutil.copytree(store, tmp_path / "store")
    segment = next((tmp_path / "store" / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    said = session.call("verify", tmp_path / "store", "--json")
    assert said.exit_code == 1
    told = SHAPES["Verify"].validate_json(said.stdout)
    assert told["fault"]["error"] == "CorruptionError"
    assert segment.name in told["fault"]["message"]


def test_neighbors_tells_places_beside_weights(session: Shop) -> None:
    told = SHAPES["Neighbors"].validate_json(session.call("neighbors", "shop", 3, "--explore", "--json").stdout)
    assert {"community", "centrality", "followers"} <= set(told["similar"]) & set(told["similar"]["neighbors"][0])


def test_tails_tells_what_is_there_and_what_is_left(session: Shop, tmp_path: Path) -> None:
    store = TokenStore.create(tmp_path / "store", dim=1, tail=session.redis)
    store.append([1], [0], [[0.5]])
    (held,) = SHAPES["Tails"].validate_json(session.call("tails", session.redis, "--json").stdout)["stores"]
    assert (held["state"], held["folder"]) == ("in use", str(store.path))
    shutil.rmtree(store.path)
    said = session.call("tails", session.redis, "--remove", held["store"], "--yes", "--json")
    assert SHAPES["Tails"].validate_json(said.stdout) == {"removed": held["store"], "stores": []}


def test_an_error_leaves_standard_output_empty(session: Shop) -> None:
    for words, code in (
        (("versions", "nowhere"), 1),
        (("fetch", "shop", "me", "--before", "2024-03-02"), 2),
        (("drop", "shop", "iat"), 2),
        (("tails", "redis://localhost:1/0", "--remove", "x"), 2),
        (("sql", "shop", "-c", "select 1", "--format", "csv"), 2),
    ):
        said = session.call(*words, "--json")
        assert (said.exit_code, said.stdout) == (code, ""), words
