"""Reads YAML, and explains errors in terms of the YAML file instead of Python."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tokenlake.config.models import KINDS
from tokenlake.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """Read a file's top-level mapping.

    Raises:
        ConfigError: the file is missing, or is not a mapping in YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); `tokenlake init {path.parent}` writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    try:
        data = yaml.load(text, _OnceEach) or {}  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a mapping was expected, got {type(data).__name__}")
    return data


def explain(path: Path, error: ValidationError, model: type[BaseModel]) -> str:
    """A message with every invalid field of a file of a model; for a misspelt setting, its block's nearest is suggested."""
    lines = []
    for e in error.errors():
        place = ".".join(str(part) for part in e["loc"] if part not in KINDS)
        lines.append(f"  {place or '(whole file)'}: {_explain_field(e, _settings(model, e['loc'][:-1]))}")
    return f"{path} cannot be used:\n" + "\n".join(lines)


class _OnceEach(yaml.SafeLoader):
    """A YAML loader in which a repeated key is an error; by default the last one wins silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # the base's own signature
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        "while reading a mapping", node.start_mark, f"{key.value!r} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _settings(model: type[BaseModel], place: tuple[int | str, ...]) -> set[str]:
    """Names of the settings of a block, as they are written in the file; none where the place is no block."""
    blocks: list[Any] = [model]
    for part in place:
        if part in KINDS:
            blocks = [KINDS[part]]
            continue
        inner = [_written(block).get(str(part)) if _is_block(block) else block for block in blocks]
        blocks = [found for kind in inner for found in _blocks_of(kind)] or blocks
    return {name for block in blocks if _is_block(block) for name in _written(block)}


def _written(block: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in block.model_fields.items()}


def _blocks_of(kind: Any) -> list[Any]:
    """The blocks that a type names anywhere, such as `Encoder` of `dict[str, Encoder]`."""
    if _is_block(kind):
        return [kind]
    return [block for part in get_args(kind) for block in _blocks_of(part)]


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _explain_field(error: ErrorDetails, known: set[str]) -> str:
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, known, n=1)
        return "no such setting" + (f"; did you mean {close[0]!r}?" if close else "")
    if error["type"] in {"dict_type", "model_type"}:
        return f"a mapping (`name: value`) was expected, got {error['input']!r}"
    if name == "[key]":
        return f"{error['input']!r} is no name; YAML reads on, off, yes and no as true and false: put it in quotes"
    return error["msg"].removeprefix("Value error, ")
