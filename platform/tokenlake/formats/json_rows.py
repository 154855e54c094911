"""JSON: an array of objects, one a line."""

from __future__ import annotations

import json
from typing import IO

from tokenlake.formats import terminal, values
from tokenlake.formats.answer import Answer
from tokenlake.formats.layout import Layout
from tokenlake.formats.rows import texts

_SEPARATOR = ",\n"


def write(answer: Answer, file: IO[str], layout: Layout) -> None:
    """Write all rows; a repeated name of a column gets a number, as in `a, a_1`."""
    fields = [
        f"{values.quoted(_key(name))}, {values.json_text(f'#{number}', kind)}"
        for number, (name, kind) in enumerate(zip(answer.distinct_names, answer.kinds, strict=True), 1)
    ]
    row = ", ', ', ".join(fields)
    between = "[\n"
    for text in texts(answer, f"concat(',', chr(10), '{{', {row}, '}}')"):
        file.write(between + terminal.escaped_json(text[len(_SEPARATOR) :]))
        between = _SEPARATOR
    file.write("\n]\n" if between == _SEPARATOR else "[]\n")


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) + ": "
