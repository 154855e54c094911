"""The section `sql` of `tokenlake.yaml`: what questions in SQL may use."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from tokenlake.config.values import Duration, Strict


def _size(text: str) -> str:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[KMGT]i?B", text.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"{text!r} is no size; write a number and a unit, such as 512MB or 4GB")
    return text.strip()


#: A number of bytes with its unit: `512MB`, `4GB`, `1.5GiB`.
Size = Annotated[str, AfterValidator(_size)]


class Sql(Strict):
    """Limits of `tokenlake sql`, `lake.sql` and `lake.engine()`; at each of them a question ends with an error."""

    #: Memory of all questions of one process together; without it half of the machine's memory.
    memory: Size | None = None
    #: Disk for what does not fit into the memory, in the folder for temporary files.
    spill: Size = "10GB"
    #: Longest time of one question; without it there is none.
    timeout: Duration | None = Field(None, gt=dt.timedelta(0))
    #: Most threads of a question; without it as many as the machine has cores.
    threads: int | None = Field(None, ge=1)
