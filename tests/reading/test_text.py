"""Text files beside a reader that takes one line at a time, in plain Python, and one character at a time."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fixtures.fake_lake import FakeLake
from tokenlake.errors import SourceError
from tokenlake.lake.ingest import ingest
from tokenlake.reading import lines as reading_lines
from tokenlake.reading.chunks import File
from tokenlake.reading.source import open_source
from tokenlake.reading.text import BLANK, NULLS, RAGGED, STRAY, Dialect

NAMES = ["a", "b", "c"]


def values_of(line: str, delimiter: str, *, quotes: bool) -> list[str | None] | None:
    """What a line says, one character at a time; None where a quote or a carriage return is out of place."""
    out: list[str | None] = []
    text, quoted, state = "", False, "start"
    for character in [*line, "end"]:
        ends = character in (delimiter, "end")
        if state == "inside":
            if character == "end":
                return None
            if character == '"':
                state = "maybe"
            else:
                text += character
            continue
        if state == "maybe" and character == '"':
            text, state = text + '"', "inside"
            continue
        if ends:
            out.append(text if quoted or text not in NULLS else None)
            text, quoted, state = "", False, "start"
            continue
        if state == "maybe" or character == "\r":
            return None
        if state == "start" and quotes and character == '"':
            quoted, state = True, "inside"
            continue
        text, state = text + character, "plain"
    return out


def oracle(
    text: str, delimiter: str, *, quotes: bool
) -> tuple[dict[int, list[str | None]], dict[int, tuple[str, str]]]:
    """Rows and broken lines by their numbers."""
    rows: dict[int, list[str | None]] = {}
    broken: dict[int, tuple[str, str]] = {}
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        values = values_of(line, delimiter, quotes=quotes)
        if line == "":
            broken[number] = (line, BLANK)
        elif values is None:
            broken[number] = (line, STRAY)
        elif len(values) != len(NAMES):
            broken[number] = (line, RAGGED)
        else:
            rows[number] = values
    return rows, broken


def read(file: File) -> tuple[dict[int, list[str | None]], dict[int, tuple[str, str]]]:
    rows: dict[int, list[str | None]] = {}
    broken: dict[int, tuple[str, str]] = {}
    for chunk in file.chunks(NAMES):
        assert chunk.rows.num_rows == len(chunk.numbers)
        found = [list(row.values()) for row in chunk.rows.to_pylist()]
        rows |= dict(zip(chunk.numbers.tolist(), found, strict=True))
        broken |= {line.number: (line.text, line.reason) for line in chunk.broken}
    return rows, broken


pieces = st.sampled_from(
    ['"', '""', ",", "\t", "\n", "\r\n", "\r", "a", "é", "\0", " ", "NULL", "\\N", "null", "1", "€"]
)
texts = st.lists(pieces, max_size=60).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module", params=[7, 1 << 20], ids=["small", "large"])
def blocks(request: pytest.FixtureRequest) -> Iterator[int]:
    """Blocks that end within lines and characters, and one that holds all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_lines, "BLOCK_BYTES", request.param)
        yield request.param


@settings(max_examples=200, deadline=None)
@given(text=texts, delimiter=st.sampled_from(",\t"), quotes=st.sampled_from([None, True, False]))
@example(text='1,"x\ny",2\n3,4,5\n', delimiter=",", quotes=None)
@example(text='"a\rb",1,2\r\n\r\n\n7,8,9', delimiter=",", quotes=None)
@example(text='1,2,12" pipe\n"12"" pipe",,NULL\n"NULL",2,""\n', delimiter=",", quotes=None)
@example(text='1\t"x\t2\n3\t"\t5\n', delimiter="\t", quotes=None)
def test_every_line_is_a_row_or_is_told(
    text: str, delimiter: str, quotes: bool | None, folder: Path, blocks: int
) -> None:
    path = folder / ("x.csv" if delimiter == "," else "x.tsv")
    path.write_bytes((delimiter.join(NAMES) + "\n" + text).encode())
    (file,) = open_source(path, dialect=Dialect(quotes=quotes), typed=False).files
    rows, broken = read(file)
    quoted = delimiter == "," if quotes is None else quotes
    assert (rows, broken) == oracle(text, delimiter, quotes=quoted)
    assert len(rows) + len(broken) == text.count("\n") + (text[-1:] not in ("\n", ""))


words = st.sampled_from(
    ["1", "2", "x", '"', '"x', 'x"', '"x"', '""', "a b", "NULL", '"NULL"', "", "y,z", '"y,z"', "\t"]
)
events = st.lists(st.tuples(words, words, words), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(rows=events, name=st.sampled_from(["log.csv", "log.tsv"]))
def test_events_duplicates_and_quarantined_rows_are_all_lines(
    rows: list[tuple[str, str, str]], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lake") / name
    delimiter = "," if name.endswith("csv") else "\t"
    lines = [delimiter.join([user, item, "2024-01-01T00:00:00", word]) for user, item, word in rows]
    path.write_text("\n".join([delimiter.join(["u", "i", "t", "word"]), *lines]) + "\n")
    config = {"user": "u", "item": "i", "timestamp": "t", "features": {"word": "categorical"}}
    lake = FakeLake(path.parent / "lake", config)
    report = ingest(lake, path)
    assert report.accepted + report.duplicates + report.quarantined == len(lines)
    assert lake.quarantine.count() == report.quarantined
    for row in lake.quarantine.read().to_pylist():
        told = json.loads(row["row"])
        if "line" in told:
            assert told["line"] == lines[row["row_number"] - 1]
    again = ingest(lake, path)
    assert (again.accepted, again.quarantined) == (0, report.quarantined)


def names_and_rows(path: Path, **dialect: Any) -> tuple[list[str], list[list[str | None]]]:
    (file,) = open_source(path, dialect=Dialect(**dialect), typed=False).files
    names = file.schema.names
    return names, [list(row.values()) for chunk in file.chunks(names) for row in chunk.rows.to_pylist()]


TEXT = "name,ü\n€,1\n,2\n"
EXPECTED = (["name", "ü"], [["€", "1"], [None, "2"]])


@pytest.mark.parametrize(
    ("content", "dialect"),
    [
        (TEXT.encode(), {}),
        (TEXT.encode("utf-8-sig"), {}),
        (TEXT.encode("utf-8-sig"), {"encoding": "utf-8"}),
        (TEXT.encode("utf-16"), {}),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), {}),
        (TEXT.encode("utf-32"), {}),
        (TEXT.encode("utf-16-le"), {"encoding": "utf-16-le"}),
        (TEXT.encode("cp1252"), {"encoding": "cp1252"}),
        (TEXT.replace("\n", "\r\n").encode(), {}),
        (TEXT.replace("\n", "\r").encode(), {}),
        (TEXT[:-1].encode(), {}),
        (b"\n\r\n" + TEXT.encode(), {}),
        (gzip.compress(TEXT.encode(), mtime=0), {}),
        (gzip.compress(TEXT[:8].encode(), mtime=0) + gzip.compress(TEXT[8:].encode(), mtime=0), {}),
        (bz2.compress(TEXT.encode("utf-16")), {}),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "x.CSV.GZ", "x.csv.bz2"])
def test_encodings_and_packings(content: bytes, dialect: dict[str, Any], name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert names_and_rows(tmp_path / name, **dialect) == EXPECTED


def test_packed_as_arrow_packs(tmp_path: Path) -> None:
    for codec, name in (("zstd", "x.csv.zst"), ("gzip", "x.Tsv.Gz")):
        with pa.CompressedOutputStream(str(tmp_path / name), codec) as file:
            file.write(TEXT.replace(",", "\t" if "sv.G" in name else ",").encode())
        assert names_and_rows(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("content", "dialect", "message"),
    [
        (TEXT.encode("cp1252"), {}, "not text in UTF-8 .*tell its encoding"),
        (("a,b\n" + "x,y\n" * 400_000 + "é,1\n").encode("latin-1"), {}, "not text in UTF-8"),
        (TEXT.encode("utf-16-le"), {}, "UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), {}, "NUL bytes in its header"),
        (TEXT.encode("utf-16") + b"x", {}, "not text in utf-16"),
        (TEXT.encode(), {"encoding": "nothing"}, "expected one that Python knows"),
        (b"\n\n", {}, "holds no line"),
        (b'a,"b\n1,2\n', {}, "a quote in its header"),
    ],
)
def test_text_that_is_refused(content: bytes, dialect: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        names_and_rows(tmp_path / "x.csv", **dialect)


def test_a_header_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('"a,b","c""d",e\n1,2,3\n')
    assert names_and_rows(tmp_path / "x.csv") == (["a,b", 'c"d', "e"], [["1", "2", "3"]])
    (tmp_path / "x.tsv").write_text('"a"\tb"\n1\t2\n')
    assert names_and_rows(tmp_path / "x.tsv") == (['"a"', 'b"'], [["1", "2"]])


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_lines, "LONGEST_LINE", 1000)
    (tmp_path / "x.csv").write_text("a,b\n" + "x" * 5000)
    with pytest.raises(SourceError, match="a line of more than 1,000 bytes"):
        names_and_rows(tmp_path / "x.csv")


def test_types_by_what_all_values_say(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        "i,f,truth,day,naive,instant,word,nothing,quoted,big,mixed\n"
        '1,1.5,true,2024-01-01,2024-01-01T05:06,2024-01-01T01:00:00+01:00,x,,"1",9007199254740993,1\n'
        '-2,3,False,2024-01-02,2024-01-02,2024-01-01 00:00:00.1234567Z,007,NULL,"2",0.5,x\n\n'
    )
    found = open_source(tmp_path / "x.csv").read()
    micros = pa.timestamp("us")
    assert found.schema.types == [
        pa.int64(), pa.float64(), pa.bool_(), pa.date32(), micros, pa.timestamp("us", "UTC"), pa.string(), pa.null(),
        pa.int64(), pa.string(), pa.string(),
    ]  # fmt: skip
    assert found["f"].to_pylist() == [1.5, 3.0]
    assert found["word"].to_pylist() == ["x", "007"]
    assert found["instant"].cast(pa.int64()).to_pylist() == [1704067200000000, 1704067200123456]
    assert open_source(tmp_path / "x.csv").read(["word", "i"]).to_pylist()[1] == {"word": "007", "i": -2}


def test_broken_lines_are_refused_where_there_is_no_quarantine(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n1,2\n3,"4\n')
    with pytest.raises(SourceError, match=r"x\.csv, line 2 behind the header: a quote.*'3,\"4'"):
        open_source(tmp_path / "x.csv").read()
