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

#: Name -> one line of description; `_MODULES` names the module that builds it.
DATASETS = {
    "complete-journey": "a year of grocery shopping: 2,469 households, 68,509 products, promotions (84.51°)",
    "movielens-100k": "100,000 film ratings of 943 users (GroupLens); --source also reads 1M, 20M and 25M",
}
_MODULES = {"complete-journey": "complete_journey", "movielens-100k": "movielens"}


def fetch(name: str, out: Path | str, **options: Any) -> DatasetReport:
    """Build a data set's event log in a folder.

    Args:
        name: one of `DATASETS`.
        out: folder to write to; a folder that already holds the same data set is not changed.
        **options: those of the data set's own `build`, such as `households` or `source`.

    Returns:
        A report on the folder's content.

    Raises:
        NotFoundError: there is no data set of that name.
        SchemaError: an unknown option, or a value out of range.
        SourceError: `out` holds other files.
        TransientError: a download failed.
        CorruptionError: a download has a wrong checksum.
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
