"""What DuckDB's own tokens tell of a text: its words, shorter lists of constants, and a PIVOT with its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

_CONSTANTS = frozenset({duckdb.token_type.numeric_const, duckdb.token_type.string_const})
#: Words that end the ON clause of a PIVOT.
_AFTER_ON = frozenset({"using", "group", "order", "limit", "offset"})


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        start: offset in bytes of its first character in the text's UTF-8.
        end: offset in bytes after its last character.
        text: what stands there; keywords in lower case.
        quoted: whether it is a text or a quoted name, in which words mean nothing.
    """

    start: int
    end: int
    text: str
    quoted: bool = False


def tokens(text: str) -> list[Token]:
    """The tokens of a text without its comments.

    Args:
        text: SQL, also unfinished.

    Returns:
        The tokens in order.
    """
    raw, starts = text.encode(), duckdb.tokenize(text)
    if not starts:
        return []
    ends = [start for start, _ in starts[1:]] + [len(raw)]
    found = []
    for (start, kind), end in zip(starts, ends, strict=True):
        if kind == duckdb.token_type.comment:
            continue
        said = raw[start:end].rstrip().decode()
        quoted = kind == duckdb.token_type.string_const or said.startswith('"')
        word = said.lower() if kind == duckdb.token_type.keyword else said
        found.append(Token(start, start + len(said.encode()), word, quoted))
    return found


def shortened(text: str) -> str:
    """A text of which each `IN (1, 2, ...)` keeps its first constant only: it names the same tables and functions.

    Args:
        text: SQL, perhaps with very long lists.

    Returns:
        The shorter text, which asks another question.
    """
    raw, starts = text.encode(), duckdb.tokenize(text)
    pieces, kept = [], 0
    for i, (start, kind) in enumerate(starts):
        if kind != duckdb.token_type.keyword or start < kept or raw[start : start + 2].lower() != b"in":
            continue
        if (end := _end_of_constants(raw, starts, i + 1)) is not None:
            first = starts[i + 3][0]  # `in`, `(` and a constant come before
            pieces.append(raw[kept:first])
            kept = end
    return b"".join([*pieces, raw[kept:]]).decode()


def _end_of_constants(raw: bytes, starts: Sequence[tuple[int, duckdb.token_type]], i: int) -> int | None:
    """Where the `)` stands that ends a list of two constants or more from token `i`; None if it isn't such a list."""
    if len(starts) < i + 4 or raw[starts[i][0]] != ord("(") or starts[i + 1][1] not in _CONSTANTS:
        return None
    for start, kind in starts[i + 2 :]:
        if raw[start] == ord(")"):
            return start
        if kind not in _CONSTANTS and raw[start] not in b",-+":
            return None
    return None


def with_pivot_values(text: str) -> str | None:
    """A PIVOT that finds its own values, as one with a value written out: `PIVOT x ON (y) IN ('')`.

    Args:
        text: SQL that may begin with WITH.

    Returns:
        A text that names the same tables and functions, and that DuckDB can parse into one SELECT; None where no such
        PIVOT stands at the top.
    """
    words, depth, on = tokens(text), 0, None
    closings: list[tuple[int, str]] = []
    pivot = False
    for token in words:
        if token.quoted:
            continue
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
        if depth:
            continue
        if token.text in {"pivot", "pivot_wider"}:
            pivot = True
        elif pivot and token.text == "on" and on is None:
            on = token
            closings.append((token.end, " ("))
        elif on is not None and (token.text in _AFTER_ON or token.text == ";"):
            closings.append((token.start, ") IN ('') "))
            return _inserted(text, closings)
        elif on is not None and token.text == "in":
            return None
        elif on is not None and token.text == ",":
            closings += [(token.start, ") IN ('')"), (token.end, " (")]
    if on is None:
        return None
    return _inserted(text, [*closings, (words[-1].end, ") IN ('')")])


def _inserted(text: str, pieces: Sequence[tuple[int, str]]) -> str:
    raw, out, done = text.encode(), [], 0
    for place, piece in pieces:
        out += [raw[done:place], piece.encode()]
        done = place
    return b"".join([*out, raw[done:]]).decode()
