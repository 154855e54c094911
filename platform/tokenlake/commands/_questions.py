"""Texts of questions: where one ends, which parameters it names, and how a file of them is read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import duckdb

from tokenlake.errors import NotFoundError, SchemaError
from tokenlake.lake.sql import lexer

if TYPE_CHECKING:
    from tokenlake.lake.database import Database

#: A statement with the values of its parameters.
Question: TypeAlias = tuple[str, Mapping[str, str | None] | None]
_COMMENT, _OPERATOR = duckdb.token_type.comment, duckdb.token_type.operator
#: First words of statements that have no answer.
_SILENT = frozenset({"set", "reset", "create", "drop"})


def cut(text: str) -> tuple[list[str], str]:
    """Cut a text at each `;` that ends a question: none in a text, a quoted name or a comment, as DuckDB reads them.

    Args:
        text: SQL, also unfinished.

    Returns:
        The whole questions with their `;`, and the beginning of the next one; empty if only blanks and comments follow.
    """
    raw, questions, start, words = text.encode(), [], 0, False
    for place, kind in duckdb.tokenize(text):
        if kind == _OPERATOR and raw[place] == ord(";"):
            if words:
                questions.append(raw[start : place + 1].decode().strip())
            start, words = place + 1, False
        elif kind != _COMMENT:
            words = True
    rest = raw[start:].decode()
    return questions, rest if words or _is_open(rest) else ""


def _is_open(comments: str) -> bool:
    """Whether the last of the comments goes on in the next line: then a word there is none of its own."""
    following = f"{comments}\nx"
    return duckdb.tokenize(following)[-1][0] != len(following.encode()) - 1


def has_answer(question: str) -> bool:
    """Whether a statement gives rows, judged by its first word."""
    words = lexer.tokens(question)
    return not words or words[0].text.lower() not in _SILENT


def assignments(given: Iterable[str]) -> dict[str, str]:
    """Values by name of texts `name=value`.

    Raises:
        NotFoundError: a text without `=`.
    """
    values = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise NotFoundError(f"{each!r} is no parameter; write name=value")
        values[name.strip().lstrip("$")] = value
    return values


def named(database: Database, question: str) -> frozenset[str]:
    """Names of the parameters in a question: `day` of `$day`, `1` of `$1` and of the first `?`."""
    statements = database.cursor().extract_statements(question)
    return frozenset(name for each in statements for name in each.named_parameters)


def parameters(
    database: Database, question: str, values: Mapping[str, str], how: str = "-p {}=VALUE"
) -> dict[str, str] | None:
    """The values of the parameters that a question names; None if it names none.

    Args:
        database: parses the question.
        question: one statement.
        values: parameter -> its value, a text that DuckDB casts to what the question needs.
        how: how a value is given, for the error's message.

    Raises:
        SchemaError: a parameter without a value.
    """
    if "$" not in question and "?" not in question:
        return None
    names = named(database, question)
    if missing := sorted(names - values.keys()):
        ways = ", ".join(how.format(name) for name in missing)
        raise SchemaError(f"the question names {', '.join(f'${name}' for name in missing)}, which has no value: {ways}")
    return {name: values[name] for name in names} or None


def text_of(path: Path | None) -> str:
    """The text of a file, or of the standard input: UTF-8, with or without a byte order mark.

    Raises:
        SchemaError: it is of another encoding.
    """
    raw = sys.stdin.buffer.read() if path is None else path.read_bytes()
    name = "standard input" if path is None else str(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        coding = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "ISO-8859-1"
        raise SchemaError(
            f"{name} is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}. Convert it, for example with "
            f"`iconv -f {coding} -t UTF-8 {path or 'FILE'}`"
        ) from None
