"""Names that people choose, in one space with names of our own."""

from __future__ import annotations

from collections.abc import Collection


def folded(name: str) -> str:
    """A column's name as SQL and Delta compare names: `Price` and `price` are one column.

    >>> folded("Price")
    'price'
    """
    return name.lower()


def quotable(name: str) -> bool:
    """Whether SQL can quote a name: any text but the empty one, one with NUL, and half a surrogate pair.

    >>> quotable('my "own" name'), quotable("")
    (True, False)
    """
    return bool(name) and "\0" not in name and name.encode("utf-8", "replace").decode("utf-8") == name


def unlike(name: str, taken: Collection[str]) -> str:
    """The name itself, or with as many underscores behind it as make it none of those that are taken.

    >>> unlike("scale", ["token"]), unlike("scale", ["token", "scale"])
    ('scale', 'scale_')
    """
    while name in taken:
        name += "_"
    return name
