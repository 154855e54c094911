"""What DuckDB's own tokens tell of a text: its words, shorter lists of constants, and a PIVOT with its values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

_CONSTANTS = frozenset({duckdb.token_type.numeric_const, duckdb.token_type.string_const})
_IN = re.compile(rb"in\b", re.IGNORECASE)
#: First characters of what `shortened` leaves out.
_PLAIN = b"',-+.0123456789"
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
    raw = text.encode()
    starts = duckdb.tokenize(text)
    ends = [*(start for start, _ in starts[1:]), len(raw)][: len(starts)]
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
    """A text of which each `IN (1, 2, ...)` keeps its first constant only: it names the same tables and functions, operators apart.

    Args:
        text: SQL, perhaps with very long lists.

    Returns:
        The shorter text, which asks another question.
    """
    raw, starts = text.encode(), duckdb.tokenize(text)
    pieces, kept = [], 0
    for i, (start, kind) in enumerate(starts):
        if kind != duckdb.token_type.keyword or start < kept or not _IN.match(raw, start):
            continue
        if (end := _end_of_constants(raw, starts, i + 1)) is not None:
            first = starts[i + 3][0]  # `in`, `(` and a constant come before
            pieces.append(raw[kept:first])
            kept = end
    return b"".join([*pieces, raw[kept:]]).decode()


def _end_of_constants(raw: bytes, starts: Sequence[tuple[int, duckdb.token_type]], i: int) -> int | None:
    """Where the `)` stands that ends a list of two constants or more from token `i`; None if it isn't such a list.

    Only plain texts and numbers count, and no comments: about `$tag$` and comments a tokenizer and a parser may disagree.
    """
    if len(starts) < i + 4 or raw[starts[i][0]] != ord("(") or starts[i + 1][1] not in _CONSTANTS:
        return None
    for start, kind in starts[i + 2 :]:
        if raw[start] == ord(")"):
            return start
        if kind == duckdb.token_type.comment or raw[start] not in _PLAIN:
            return None
    return None


def with_pivot_values(text: str) -> str:
    """A PIVOT that finds its own values, as one with a value written out: `PIVOT x ON (y) IN ('')`.

    Args:
        text: SQL that may begin with WITH.

    Returns:
        A text that names the same tables and functions, and that DuckDB can parse into one SELECT; the text itself where
        no such PIVOT stands at the top.
    """
    words, depth, pivot, on = tokens(text), 0, False, False
    pieces: list[tuple[int, str]] = []
    for token in words:
        if token.quoted:
            continue
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
        if depth:
            continue
        if on and (token.text in _AFTER_ON or token.text == ";"):
            return _inserted(text, [*pieces, (token.start, ") IN ('') ")])
        if on and token.text == ",":
            pieces += [(token.start, ") IN ('')"), (token.end, " (")]
        elif pivot and not on and token.text == "on":
            on = True
            pieces.append((token.end, " ("))
        pivot |= token.text in {"pivot", "pivot_wider"}
    return _inserted(text, [*pieces, (words[-1].end, ") IN ('')")]) if on else text


def _inserted(text: str, pieces: Sequence[tuple[int, str]]) -> str:
    raw, out, done = text.encode(), [], 0
    for place, piece in pieces:
        out += [raw[done:place], piece.encode()]
        done = place
    return b"".join([*out, raw[done:]]).decode()
