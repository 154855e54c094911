"""Logs: what is cut short was never acknowledged; what is changed is found."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlake.errors import CorruptionError
from tokenlake.storage import records

RECORDS = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=40)), min_size=1, max_size=5)


@given(RECORDS, st.data())
@settings(max_examples=200)
def test_what_is_whole_is_read_however_it_is_cut(written: list[tuple[int, bytes]], data: st.DataObject) -> None:
    packed = [records.pack(kind, payload) for kind, payload in written]
    whole = b"".join(packed)
    assert records.unpack(whole) == (written, len(whole), True)
    cut = data.draw(st.integers(0, len(whole) - 1))
    ends = [sum(map(len, packed[:n])) for n in range(len(packed) + 1)]
    held = max(n for n, end in enumerate(ends) if end <= cut)
    assert records.unpack(whole[:cut]) == (written[:held], ends[held], True)
    # A file system may have made the file longer than what it wrote.
    assert records.unpack(whole[: ends[held]] + bytes(64)) == (written[:held], ends[held], True)


@given(RECORDS, st.data())
@settings(max_examples=200)
def test_a_changed_byte_of_a_whole_record_is_found(written: list[tuple[int, bytes]], data: st.DataObject) -> None:
    whole = bytearray(b"".join(records.pack(kind, payload) for kind, payload in written))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found, size, sound = records.unpack(bytes(whole))
    assert not sound
    assert found == written[: len(found)]
    assert size <= at


def test_an_append_goes_behind_the_last_whole_record() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        records.append(path, 0, records.pack(1, b"one"))
        reader = records.LogReader(path)
        assert reader.read() == [(1, b"one")]
        with path.open("ab") as file:
            file.write(records.pack(2, b"cut short")[:-3])
        assert reader.has_more
        assert reader.read() == []
        records.append(path, reader.position, records.pack(3, b"three"))
        assert reader.read() == [(3, b"three")]
        assert not reader.has_more
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(CorruptionError, match=f"{path}: the checksum of the record at byte {len(b'one') + 32}"):
            records.LogReader(path).read()
