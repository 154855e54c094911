"""Vocabularies: which row of an embedding table stands for which raw value. They grow with the days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenlake.errors import CorruptionError, NotFoundError, SchemaError
from tokenlake.features.keys import Ints, KeyIndex, factorize, flat
from tokenlake.storage.arrays import read_arrays, write_arrays

_FORMAT = 1


class Vocabulary:
    """Rows of the raw values of each feature; row 0 is for values out of vocabulary, and for none at all.

    A value keeps its row forever; new ones get the next rows in order of first appearance.

    Attributes:
        widths: length of each vector feature, fixed when it is first grown; 0 where there was none to be seen, and
            the model then goes without that feature.

    >>> vocabulary = Vocabulary()
    >>> vocabulary.grow("genre", pa.array(["rock", "jazz", "rock", None]))
    2
    >>> vocabulary.lookup("genre", pa.array(["jazz", "polka", None]))
    array([2, 0, 0])
    """

    def __init__(self) -> None:
        self._keys: dict[str, KeyIndex] = {}
        self.widths: dict[str, int] = {}

    def sizes(self) -> dict[str, int]:
        """Rows of each feature's table, row 0 included."""
        return {name: len(keys) + 1 for name, keys in self._keys.items()}

    def grow(self, name: str, values: pa.Array | pa.ChunkedArray) -> int:
        """Add the values that are not in the vocabulary yet.

        Args:
            name: the feature; a new one starts empty.
            values: integers or strings, all of them the same over the feature's life; nulls are nothing.

        Returns:
            How many were added.

        Raises:
            SchemaError: values of another type than before.
        """
        keys = self._keys.setdefault(name, KeyIndex())
        _, distinct = factorize(flat(values))
        before = len(keys)
        keys.add(distinct)
        return len(keys) - before

    def lookup(self, name: str, values: pa.Array | pa.ChunkedArray) -> Ints:
        """Return the row of each value, int64.

        Raises:
            NotFoundError: no feature of that name was ever grown.
            SchemaError: values of another type than the vocabulary's.
        """
        if name not in self._keys:
            raise NotFoundError(f"no vocabulary of {name!r}; there are {sorted(self._keys)}")
        codes, distinct = factorize(flat(values))
        rows = np.append(self._keys[name].find(distinct) + 1, 0)  # the last one is for null, code -1
        return rows[codes]

    def values(self, name: str) -> pa.Array:
        """Values of rows 1, 2, ..."""
        if name not in self._keys:
            raise NotFoundError(f"no vocabulary of {name!r}; there are {sorted(self._keys)}")
        return self._keys[name].values()

    def fix_width(self, name: str, width: int) -> int:
        """Fix a vector feature's length, if none was fixed before; returns the one that holds.

        Raises:
            SchemaError: vectors of another length than the fixed one; none (0) are always welcome.
        """
        fixed = self.widths.setdefault(name, width)
        if fixed and width and width != fixed:
            raise SchemaError(f"vectors of {width} numbers given for {name!r}, which has {fixed}")
        return fixed

    def save(self, path: Path) -> None:
        """Write all vocabularies to an Arrow IPC file, atomically."""
        arrays = {name: keys.values() for name, keys in self._keys.items()}
        write_arrays(path, arrays, {"format": _FORMAT, "widths": self.widths})

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            NotFoundError: there is no such file.
            CorruptionError: the file is damaged.
        """
        arrays, header = read_arrays(path)
        if header.get("format") != _FORMAT:
            raise CorruptionError(
                f"{path} is no vocabulary of this release; the checkpoint beside it must be trained again"
            )
        vocabulary = cls()
        vocabulary._keys = {name: KeyIndex(values) for name, values in arrays.items()}
        vocabulary.widths = header["widths"]
        return vocabulary
