"""What Tab offers at the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tokenlake.commands import _own_queries
from tokenlake.commands._shell_commands import ALIASES, COMMANDS
from tokenlake.commands._shell_screen import MODES
from tokenlake.lake.sql import lexer

if TYPE_CHECKING:
    from tokenlake.commands._shell import Shell

#: Keywords of questions; DuckDB knows hundreds more.
KEYWORDS: tuple[str, ...] = tuple(
    re.findall(
        r"\w+",
        """
        all analyze and anti any as asc asof between by case cast cross current_date current_timestamp date day desc
        describe distinct else end except exclude exists explain false filter first following from full group having
        ilike in inner intersect interval is join last lateral left like limit month natural not null nulls offset on
        or order outer over partition pivot positional preceding qualify range recursive replace right rows sample
        select semi set show similar struct summarize table temp then timestamp true try_cast unbounded union unpivot
        using values when where window with year
        """,
    )
)
#: Where a word of a question begins: a `.` is part of one, as in `e.user_id`.
DELIMITERS = " \t\n(),;=<>+-*/%|!:[]{}"
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def candidates(shell: Shell, line: str, start: int, word: str) -> list[str]:
    """Words that may stand for the beginning of one.

    Args:
        shell: its lake, and the lines of the question before this one.
        line: the line, also what follows the word.
        start: where the word begins in it.
        word: what was typed of it, in any case.

    Returns:
        The words, in order.
    """
    before = line[:start].split()
    if not shell.pending and (command := ALIASES.get(_first(before), _first(before))) in COMMANDS:
        return _of_command(shell, command, line[:start], word)
    if not shell.pending and not before and word[:1] in {".", "\\"}:
        return _matching(COMMANDS if word[0] == "." else [each for each in ALIASES if each[0] == "\\"], word)
    # Without the word itself: a quote that is open would reach to the end.
    question = f"{shell.pending}\n{line[:start]} {line[start + len(word) :]}"
    return _matching((_qualified if "." in word else _words)(shell, question, word), word)


def _first(before: list[str]) -> str:
    return before[0].lower() if before else ""


def _matching(words: Iterable[str], word: str) -> list[str]:
    """The words that begin like one, in any case, with or without a quote."""
    beginning = word.lower().replace('"', "")
    return list(dict.fromkeys(each for each in words if each.lower().replace('"', "").startswith(beginning)))


def _of_command(shell: Shell, command: str, before: str, word: str) -> list[str]:
    """The rest of arguments: one ends with a blank only, and has delimiters in it."""
    done, _, begun = before.rpartition(" ")
    given = done.split()[1:]
    return [each[len(begun) :] for each in _matching(_arguments(shell, command, given, begun + word), begun + word)]


def _arguments(shell: Shell, command: str, given: list[str], word: str) -> Iterable[str]:
    sources: Mapping[str, Callable[[], Iterable[str]]] = {
        "object": lambda: [each.name for each in shell.database.objects()],
        "query": lambda: _of_query(shell, given),
        "mode": lambda: MODES,
        "switch": lambda: ("on", "off"),
        "command": lambda: [each[1:] for each in COMMANDS],
        "file": lambda: _files(word),
        "": lambda: (),
    }
    takes = COMMANDS[command].takes
    return sources[takes]() if takes == "query" or not given else ()


def _of_query(shell: Shell, given: list[str]) -> Iterable[str]:
    queries = _own_queries.saved_queries(shell.database.lake.root)
    if not given:
        return queries
    return [f"{each.name}=" for each in queries[given[0]].parameters] if given[0] in queries else ()


def _files(word: str) -> Iterator[str]:
    folder, _, _ = word.rpartition("/")
    beginning = f"{folder}/" if "/" in word else ""
    for path in sorted(Path(beginning or ".").expanduser().iterdir()):
        yield f"{beginning}{path.name}{'/' if path.is_dir() else ''}"


def _words(shell: Shell, question: str, word: str) -> Iterator[str]:
    """Columns of the tables in the question, then views and macros, then keywords."""
    names = [each.name for each in shell.database.objects()]
    for table in dict.fromkeys(_aliases(question, names).values()):
        yield from _columns(shell, table)
    yield from (f"{each.name}(" if each.kind == "macro" else each.name for each in shell.database.objects())
    yield from (each.upper() if word[:1].isupper() else each for each in KEYWORDS)


def _qualified(shell: Shell, question: str, word: str) -> Iterator[str]:
    """Columns of the table that stands before the point, by its name or by its alias."""
    owner, _, _ = word.rpartition(".")
    names = [each.name for each in shell.database.objects()]
    table = _aliases(question, names).get(owner.strip('"').lower())
    if table is not None:
        yield from (f"{owner}.{column}" for column in _columns(shell, table))


def _columns(shell: Shell, table: str) -> list[str]:
    names = [each.name for each in shell.database.columns(table)]
    return [name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"' for name in names]


def _aliases(question: str, names: Iterable[str]) -> dict[str, str]:
    """Tables of a question by the names that they have in it: their own ones, and their aliases."""
    known = {name.lower(): name for name in names}
    found: dict[str, str] = {}
    tokens = lexer.tokens(question)
    for i, token in enumerate(tokens):
        if (table := known.get(token.text.strip('"').lower())) is None:
            continue
        found[table.lower()] = table
        after = [each.text for each in tokens[i + 1 : i + 3]]
        alias = after[1:] if [each.lower() for each in after[:1]] == ["as"] else after[:1]
        if alias and re.fullmatch(r'"?\w+"?', alias[0]) and alias[0].lower() not in KEYWORDS:
            found[alias[0].strip('"').lower()] = table
    return found
