"""Names that people choose, in one space with names of our own."""

from __future__ import annotations

from collections.abc import Collection, Sequence


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


def apart(wanted: Sequence[str], taken: Collection[str]) -> list[str]:
    """A name for each wanted one: none that is taken, no two alike; of equal ones the first keeps its own.

    >>> apart(["price", "token", "token_", "price"], taken=["token"])
    ['price', 'token__', 'token_', 'price_']
    """
    kept, used = {name for name in wanted if name not in taken}, set(taken)
    out = []
    for name in wanted:
        out.append(unlike(name, used | kept) if name in used else name)
        used.add(out[-1])
    return out
