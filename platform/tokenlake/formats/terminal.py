"""What a terminal would obey is shown instead: control characters, and those that reverse the direction of text."""

from __future__ import annotations

import re

# C0, DEL and C1; marks and overrides of direction; separators of lines; invisible characters and surrogates.
_UNSAFE = "\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
_ANY = re.compile(f"[\n{_UNSAFE}]")
_IN_LINES = re.compile(f"[{_UNSAFE}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: str) -> str:
    r"""A text for one line of a terminal: `\x1b` for an escape character, `\n` for a new line."""
    return text if text.isascii() and text.isprintable() else _ANY.sub(_visible, text)


def shown_in_lines(text: str) -> str:
    """The same for a text of several lines."""
    return _IN_LINES.sub(_visible, text)


def escaped_json(text: str) -> str:
    r"""A JSON document in which such characters are `\u202e`; those of ASCII but DEL are escaped already."""
    if text.isascii() and "\x7f" not in text:
        return text
    return _IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def width(text: str) -> int:
    """Cells of a terminal that a text takes; CJK and emoji take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, most: int) -> str:
    """A text of at most that many cells, with `…` in its middle for what is left out: its ends tell it from others."""
    if width(text) <= most:
        return text
    if most <= 1:
        return "…"[:most]
    tail = _ending(text, (most - 1) // 2)
    return _ending(text[::-1], most - 1 - width(tail))[::-1] + "…" + tail


def _ending(text: str, most: int) -> str:
    taken = len(text)
    while taken and width(text[-taken:]) > most:
        taken -= 1
    return text[-taken:] if taken else ""


def pad(text: str, cells: int, *, right: bool) -> str:
    """A text with blanks up to a width, before it if it stands on the right."""
    blanks = " " * (cells - width(text))
    return blanks + text if right else text + blanks
