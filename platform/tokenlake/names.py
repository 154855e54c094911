"""User-defined column names, and how to keep them apart from Tokenlake's own names."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def folded(name: str) -> str:
    """A column's name in the form in which SQL and Delta compare names: `Price` and `price` are one column.

    >>> folded("Price")
    'price'
    """
    return name.lower()


def quotable(name: str) -> bool:
    """Whether SQL can quote a name: any text except an empty one, one with NUL, and one with a lone surrogate.

    >>> quotable('my "own" name'), quotable("")
    (True, False)
    """
    return bool(name) and "\0" not in name and name.encode("utf-8", "replace").decode("utf-8") == name


def unlike(name: str, taken: Collection[str]) -> str:
    """The name, with underscores appended until it is not in `taken`.

    >>> unlike("scale", ["token"]), unlike("scale", ["token", "scale"])
    ('scale', 'scale_')
    """
    while name in taken:
        name += "_"
    return name


def apart(wanted: Sequence[str], taken: Collection[str]) -> list[str]:
    """Make names unique: underscores are appended to a name that is taken; of equal names the first one is kept.

    >>> apart(["price", "token", "token_", "price"], taken=["token"])
    ['price', 'token__', 'token_', 'price_']
    """
    kept, used = {name for name in wanted if name not in taken}, set(taken)
    out = []
    for name in wanted:
        out.append(unlike(name, used | kept) if name in used else name)
        used.add(out[-1])
    return out
