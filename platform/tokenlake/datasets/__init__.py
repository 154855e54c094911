"""Public data sets and a simulator, as event logs.

>>> from tokenlake import datasets
>>> report = datasets.fetch("complete-journey", "journey", households=400)  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenlake.errors import NotFoundError, SchemaError

if TYPE_CHECKING:
    from tokenlake.datasets._output import DatasetReport

__all__ = ["DATASETS", "DatasetReport", "fetch"]

#: name -> its one line of description; `_MODULES` says where it is built.
DATASETS = {
    "complete-journey": "a year of grocery shopping: 2,469 households, 68,509 products, promotions (84.51°)",
    "movielens-100k": "100,000 film ratings of 943 users (GroupLens); --source also reads 1M, 20M and 25M",
}
_MODULES = {"complete-journey": "complete_journey", "movielens-100k": "movielens"}


def fetch(name: str, out: Path | str, **options: Any) -> DatasetReport:
    """Build a data set's event log in a folder.

    Args:
        name: one of `DATASETS`.
        out: folder to write to; one that already holds exactly this is left as it is.
        **options: those of the data set's own `build`, such as `households` or `source`.

    Returns:
        What the folder holds.

    Raises:
        NotFoundError: no data set of that name.
        SchemaError: an option that this data set does not have, or out of range.
        SourceError: `out` holds something else.
        TransientError: a download failed.
        CorruptionError: a download is not what it should be.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise NotFoundError(f"no data set {name!r}; there are {sorted(DATASETS)}{hint}")
    build = importlib.import_module(f"tokenlake.datasets.{_MODULES[name]}").build
    known = [option for option in inspect.signature(build).parameters if option != "out"]
    if unknown := sorted(options.keys() - set(known)):
        raise SchemaError(f"{name} has no option {unknown}; it has {known}")
    report: DatasetReport = build(out, **options)
    return report


def __getattr__(name: str) -> Any:
    if name == "DatasetReport":
        return importlib.import_module("tokenlake.datasets._output").DatasetReport
    raise AttributeError(f"module 'tokenlake.datasets' has no attribute {name!r}")
