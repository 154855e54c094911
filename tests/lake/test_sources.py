import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from tests.fixtures.fake_lake import FakeLake
from tests.lake.events import EVENTS, T0, simple
from tokenlake.errors import ChangedError, SchemaError, SourceError
from tokenlake.lake.ingest import ingest
from tokenlake.lake.validate import Validator

HEADER = "user_id,item_id,timestamp,kind,clicked\n"
LINES = HEADER + "1,10,2017-03-01T00:00:00Z,a,1\n2,11,2017-03-01T00:00:01Z,,0\n"


@pytest.fixture
def lake(tmp_path: Path) -> FakeLake:
    return FakeLake(tmp_path / "lake", EVENTS)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_kind_of_file_gives_the_same_events(tmp_path: Path) -> None:
    source = simple(50)
    pq.write_table(source, tmp_path / "a.parquet")
    lines = [",".join(map(str, row.values())) for row in source.to_pylist()]
    text = "user_id,item_id,timestamp,kind,clicked\n" + "\n".join(lines) + "\n"
    write(tmp_path / "a.csv", text)
    write(tmp_path / "a.tsv", text.replace(",", "\t"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    lakes = []
    for name in ("a.parquet", "a.csv", "a.tsv", "a.csv.gz"):
        lakes.append(FakeLake(tmp_path / f"lake-{name}", EVENTS))
        assert ingest(lakes[-1], tmp_path / name).accepted == 50
    assert all(other.rows() == lakes[0].rows() for other in lakes)
    assert ingest(lakes[0], source).duplicates == 50


def test_folders_globs_and_lists(tmp_path: Path, lake: FakeLake) -> None:
    for day in range(3):
        folder = tmp_path / "raw" / f"d{day}"
        folder.mkdir(parents=True)
        pq.write_table(simple(30).slice(day * 10, 10), folder / "x.parquet")
    write(tmp_path / "raw" / "_SUCCESS", "")
    write(tmp_path / "raw" / "notes.md", "no events")
    assert ingest(lake, str(tmp_path / "raw" / "d[01]" / "*.parquet")).accepted == 20
    both = [tmp_path / "raw" / "d0" / "x.parquet", str(tmp_path / "raw" / "*" / "x.parquet")]
    report = ingest(lake, both)
    assert (report.accepted, report.duplicates) == (10, 20)
    assert ingest(lake, tmp_path / "raw").duplicates == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "is empty"),
        ("empty.parquet", b"", "is empty"),
        ("no.parquet", b"PAR2 nonsense", "cannot be read"),
        ("x.json", b"{}", "expected .parquet"),
        ("semicolons.csv", LINES.replace(",", ";").encode(), "looks separated by semicolons"),
        ("tabs.csv", LINES.replace(",", "\t").encode(), "looks separated by tabs"),
        ("latin.csv", LINES.replace(",a,", ",é,").encode("latin-1"), "(?i)utf-?8"),
        ("cut.csv.gz", gzip.compress(LINES.encode() * 1000, mtime=0)[:60], "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path, lake: FakeLake) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        ingest(lake, tmp_path / name)
    assert name in str(caught.value)
    assert not lake.events.exists
    assert not lake.quarantine.exists


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_parquet(keep: float, tmp_path: Path, lake: FakeLake) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(simple(5000), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(SourceError, match="cannot be read"):
        ingest(lake, path)
    assert not lake.events.exists


def test_corrupt_pages_change_nothing(tmp_path: Path, lake: FakeLake) -> None:
    good, bad = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(simple(5000), good)
    pq.write_table(simple(5000), bad)
    content = bytearray(bad.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    bad.write_bytes(content)
    with pytest.raises(SourceError, match=r"b\.parquet cannot be read"):
        ingest(lake, [good, bad])
    assert not lake.events.exists


def test_nothing_there(tmp_path: Path, lake: FakeLake) -> None:
    (tmp_path / "nothing").mkdir()
    for source, message in (
        (tmp_path / "none.csv", "does not exist"),
        (str(tmp_path / "*.csv"), "matches no file"),
        (tmp_path / "nothing", "holds no"),
        ([], "empty list"),
        (5, "int given"),
    ):
        with pytest.raises(SourceError, match=message):
            ingest(lake, source)


def test_missing_columns(tmp_path: Path, lake: FakeLake) -> None:
    path = write(tmp_path / "a.csv", LINES.replace("user_id", "User_Id").replace("clicked", "klicked"))
    with pytest.raises(
        SchemaError, match=r"lacks 2 .*'user_id', 'clicked'.*did you mean 'User_Id' for 'user_id', 'klicked'"
    ):
        ingest(lake, path)
    with pytest.raises(SchemaError, match="more than once"):
        ingest(lake, write(tmp_path / "b.csv", LINES.replace("kind", "clicked")))


def test_a_header_alone(tmp_path: Path, lake: FakeLake) -> None:
    report = ingest(lake, write(tmp_path / "a.csv", HEADER))
    assert (report.accepted, report.duplicates, report.quarantined, report.days) == (0, 0, 0, ())
    pq.write_table(simple(0), tmp_path / "a.parquet")
    assert ingest(lake, tmp_path / "a.parquet").accepted == 0
    assert not lake.events.exists


def test_lines_that_do_not_split(tmp_path: Path, lake: FakeLake) -> None:
    text = (
        LINES + "3,4\n" + '5,"6\n7",2017-03-01T00:00:02Z,a,1\n' + "8,9,2017-03-01T00:00:03Z,b,maybe\n" + "x,y,z,,,,\n"
    )
    report = ingest(lake, write(tmp_path / "a.csv", text))
    assert report.accepted + report.quarantined == 7
    table = lake.quarantine.read().sort_by("row_number")
    assert table["row_number"].to_pylist()[0] == 3
    assert table["row_number"].to_pylist()[-1] == 7
    assert '"clicked": "maybe"' in table["row"].to_pylist()[-2]
    assert ingest(lake, tmp_path / "a.csv").accepted == 0
    assert lake.quarantine.count() == report.quarantined


def test_ids_that_look_like_numbers(tmp_path: Path) -> None:
    def lines(*users: str) -> str:
        return HEADER + "".join(f"{user},1,2017-03-01,a,1\n" for user in users)

    strings = FakeLake(tmp_path / "strings", EVENTS)
    ingest(strings, write(tmp_path / "a.csv", lines("007", "7", "12")))
    assert {r["user_id"] for r in strings.rows()} == {"007", "7", "12"}
    ingest(strings, write(tmp_path / "b.csv", lines("8", "9")))
    assert "8" in {r["user_id"] for r in strings.rows()}
    numbers = FakeLake(tmp_path / "numbers", EVENTS)
    ingest(numbers, tmp_path / "b.csv")
    report = ingest(numbers, tmp_path / "a.csv")
    assert {r["user_id"] for r in numbers.rows()} == {7, 8, 9, 12}
    assert report.reasons == {"user id is no integer (without leading zeros), and this lake's are": 1}
    huge = FakeLake(tmp_path / "huge", EVENTS)
    ingest(huge, write(tmp_path / "c.csv", lines(str(2**63), "5")))
    assert {r["user_id"] for r in huge.rows()} == {str(2**63), "5"}
    with pytest.raises(SchemaError, match="user ids are int64"):
        ingest(strings, simple(2))


def test_text_vectors_and_lists(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path / "lake", {"features": {"tags": "multi", "image": "vector"}})
    path = write(
        tmp_path / "a.csv",
        "user_id,item_id,timestamp,tags,image\n"
        '1,1,2017-03-01,a|b,"[0.5, 1]"\n2,1,2017-03-01,,0.5|2\n3,1,2017-03-01,a||c,0.5|x\n4,1,2017-03-01,x,1\n5,1,2017-03-01,x,\n',
    )
    report = ingest(lake, path)
    assert (report.accepted, report.quarantined) == (3, 2)
    rows = {r["user_id"]: r for r in lake.rows()}
    assert rows[1]["tags"] == ["a", "b"]
    assert rows[2]["tags"] is None
    assert [rows[i]["image"] for i in (1, 2, 5)] == [[0.5, 1.0], [0.5, 2.0], None]
    assert set(report.reasons) == {"image is no list of numbers", "image has another length than 2"}


def test_arrow_layouts(tmp_path: Path, lake: FakeLake) -> None:
    plain = simple(20)
    other = (
        plain.set_column(3, "kind", plain["kind"].dictionary_encode())
        .set_column(0, "user_id", plain["user_id"].cast(pa.int16()))
        .set_column(4, "clicked", plain["clicked"].cast(pa.bool_()))
    )
    assert ingest(lake, plain).accepted == 20
    assert ingest(lake, other).duplicates == 20
    assert ingest(lake, plain.set_column(3, "kind", plain["kind"].cast(pa.large_string()))).duplicates == 20


def test_quotes_of_tabs_and_null_words(tmp_path: Path) -> None:
    config = {"user": "u", "item": "i", "timestamp": "t", "features": {"word": "categorical"}}
    lines = ['"null"\tx\t2024-01-01\t12" pipe', 'anna\ty\t2024-01-02\t"open', "\\N\tz\t2024-01-03\tNULL"]
    path = write(tmp_path / "LOG.TSV", "u\ti\tt\tword\n" + "\n".join(lines))
    lake = FakeLake(tmp_path / "plain", config)
    assert ingest(lake, path).quarantined == 1
    assert {r["user_id"]: r["word"] for r in lake.rows()} == {'"null"': '12" pipe', "anna": '"open'}
    told = FakeLake(tmp_path / "told", config)
    assert ingest(told, path, quotes=True).quarantined == 2
    assert {r["user_id"]: r["word"] for r in told.rows()} == {"null": '12" pipe'}
    assert '"line": "anna' in "".join(told.quarantine.read()["row"].to_pylist())


def test_an_encoding_that_is_told(tmp_path: Path, lake: FakeLake) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(LINES.replace(",a,", ",é,").encode("latin-1"))
    with pytest.raises(SourceError, match=r"not text in UTF-8.*Nothing was changed"):
        ingest(lake, path)
    assert ingest(lake, path, encoding="latin-1").accepted == 2
    assert {r["kind"] for r in lake.rows()} == {"é", None}
    path.write_text(LINES.replace(",a,", ",é,"), encoding="utf-16")
    assert ingest(lake, path).duplicates == 2


FAR = {
    "milliseconds as seconds": pa.array([T0, T0 + 1, (T0 + 2) * 1000], pa.timestamp("s")),
    "nanoseconds as microseconds": pa.array([T0 * 10**6, (T0 + 1) * 10**6, T0 * 10**9], pa.timestamp("us")),
    "infinity": pa.array([T0 * 10**3, (T0 + 1) * 10**3, 2**63 - 1], pa.timestamp("ms", "UTC")),
    "minus infinity": pa.array([T0 * 10**6, (T0 + 1) * 10**6, 1 - 2**63], pa.timestamp("us", "Europe/Berlin")),
    "a far day": pa.array([T0 // 86_400, T0 // 86_400 + 1, 2**31 - 1], pa.date32()),
}


@pytest.mark.parametrize("name", list(FAR))
@pytest.mark.parametrize("timezone", ["UTC", "America/New_York"])
def test_a_time_beyond_the_years_is_one_bad_row(name: str, timezone: str, tmp_path: Path) -> None:
    lake = FakeLake(
        tmp_path / "lake", EVENTS | {"timezone": timezone, "latest": "9999-12-31", "earliest": "0001-01-02"}
    )
    table = simple(3).set_column(2, "timestamp", FAR[name])
    pq.write_table(table, tmp_path / "a.parquet")
    stream = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    for source in (tmp_path / "a.parquet", table, stream):
        report = ingest(lake, source)
        assert (report.accepted + report.duplicates, report.quarantined) == (2, 1)
        (reason,) = report.reasons
        assert reason.startswith("timestamp is ")
        if source is table:
            assert f'"timestamp": "{FAR[name][2].value} ' in report.samples[0][1]


def test_a_label_that_is_known_too_far_away(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path / "lake", {"labels": {"clicked": {"known_at": "seen"}}, "latest": "9999-12-31"})
    seen = pa.array([T0 + 5, T0 * 1000, T0 * 1000], pa.timestamp("s"))
    table = simple(3).set_column(4, "clicked", [[1, 1, 0]]).append_column("seen", seen)
    report = ingest(lake, table)
    assert (report.accepted, report.quarantined) == (2, 1)


def test_old_timestamps_of_spark(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path / "lake", EVENTS)
    times = pa.array([T0 * 10**6, -(10**16) * 2, 253_402_300_799_999_999], pa.timestamp("us"))
    path = tmp_path / "a.parquet"
    pq.write_table(simple(3).set_column(2, "timestamp", times), path, use_deprecated_int96_timestamps=True)
    report = ingest(lake, path)
    assert report.reasons == {
        "timestamp is before events.earliest (1990-01-01)": 1,
        "timestamp is after events.latest (2100-01-01)": 1,
    }
    assert lake.rows()[0]["timestamp"].year == 2017


def test_views_with_a_bad_row(lake: FakeLake) -> None:
    views = pa.table(
        {
            "user_id": pa.array(["a", "b", None], pa.string_view()),
            "item_id": pa.array(["x", "y", "z"], pa.string_view()),
            "timestamp": pa.array(["2020-01-01", "2020-01-02", "2020-01-03"], pa.string_view()),
            "kind": pa.array(["p", None, "q"], pa.string_view()),
            "clicked": pa.array(["1", "0", "1"], pa.string_view()),
        }
    )
    report = ingest(lake, views)
    assert (report.accepted, report.quarantined) == (2, 1)


def test_files_of_a_folder_may_lack_features_and_labels(tmp_path: Path, lake: FakeLake) -> None:
    whole, folder = simple(4), tmp_path / "raw"
    folder.mkdir()
    pq.write_table(whole.slice(0, 1).drop_columns(["kind", "clicked"]), folder / "a.parquet")
    pq.write_table(
        whole.slice(1, 1).set_column(0, "user_id", whole["user_id"][1:2].cast(pa.int16())), folder / "b.parquet"
    )
    write(folder / "c.csv", "user_id,item_id,timestamp,clicked\n5,6,2017-03-01,1\n")
    report = ingest(lake, folder)
    assert report.accepted == 3
    assert {r["user_id"]: (r["kind"], r["clicked"]) for r in lake.rows()} == {
        0: (None, None),
        1: ("a", 1),
        5: (None, 1),
    }
    assert [note for note in report.notes if "missing" in note] == [
        f"missing in all rows of {folder / 'a.parquet'}, which has no such column: 'kind', 'clicked'",
        f"missing in all rows of {folder / 'c.csv'}, which has no such column: 'kind'",
    ]
    pq.write_table(whole.drop_columns(["user_id"]), folder / "d.parquet")
    with pytest.raises(SchemaError, match=r"d\.parquet lacks 1 .*'user_id'"):
        ingest(lake, folder)


def test_delta_tables_and_partitions(tmp_path: Path, lake: FakeLake) -> None:
    write_deltalake(tmp_path / "delta", simple(9))
    write_deltalake(tmp_path / "delta", simple(4), mode="overwrite")
    assert ingest(lake, tmp_path / "delta").accepted == 4
    hive = tmp_path / "hive"
    pq.write_to_dataset(simple(4), hive, partition_cols=["kind"])
    assert ingest(lake, hive).duplicates == 4


def test_frames(lake: FakeLake) -> None:
    frame = simple(5).to_pandas()
    assert ingest(lake, [frame, frame.astype({"kind": "category", "user_id": "uint64"})]).duplicates == 5


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_that_is_written_while_it_is_read(
    name: str, in_place: bool, tmp_path: Path, lake: FakeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(path: Path, user: int) -> None:
        table = simple(50).set_column(0, "user_id", [[user] * 50])
        if name.endswith("csv"):
            pcsv.write_csv(table, path)
        else:
            pq.write_table(table, path)

    put(tmp_path / name, 1)
    check, times = Validator.check, iter(range(9))

    def meddle(*given: Any) -> Any:
        if next(times) == 0:
            put(tmp_path / (name if in_place else f".{name}"), 2)
            if not in_place:
                (tmp_path / f".{name}").replace(tmp_path / name)
        return check(*given)

    monkeypatch.setattr(Validator, "check", meddle)
    assert ingest(lake, tmp_path / name).accepted == 50
    assert {row["user_id"] for row in lake.rows()} == {2 if in_place else 1}


def test_a_file_that_is_written_all_the_time(tmp_path: Path, lake: FakeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", LINES)
    check, users = Validator.check, iter(range(99))

    def meddle(*given: Any) -> Any:
        write(path, HEADER + f"{next(users)},1,2017-03-01,a,1\n" * 2)
        return check(*given)

    monkeypatch.setattr(Validator, "check", meddle)
    with pytest.raises(ChangedError, match=r"a\.csv was written while it was read"):
        ingest(lake, path)
    assert not lake.events.exists
