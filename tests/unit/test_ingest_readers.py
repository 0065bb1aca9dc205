"""Every format gives the same rows; a bad line is one rejected row, a bad file an error."""

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.ingest import readers
from infra.ingest.errors import UnreadableFile
from infra.ingest.readers import TextOptions, open_rows
from infra.ingest.rejects import Rejects
from sql.ids import BadInput


def read(path: Path, **text: Any) -> list[tuple[int, Any]]:
    with open_rows(path, TextOptions(**text)) as source:
        return [(n, c.accepted if isinstance(c, BadInput) else c) for n, c in source.rows]


def test_csv_keeps_ids_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfitem_id,title\n007,"one\ntwo, three"\n\n8,x,y\n9,z\n')
    assert read(path) == [
        (2, {"item_id": "007", "title": "one\ntwo, three"}),  # of lines 2 and 3; 4 is blank
        (5, "2 columns, as the header; it has 3"),
        (6, {"item_id": "9", "title": "z"}),
    ]


def test_delimiter_encoding_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "b.csv").write_bytes("a;b\ncafé;2\n".encode("latin-1"))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    assert read(tmp_path / "a.tsv") == [(2, {"a": "1", "b": "2"})]
    latin = read(tmp_path / "b.csv", delimiter=";", encoding="latin-1")
    assert latin == [(2, {"a": "café", "b": "2"})]
    assert read(tmp_path / "c.csv.gz") == [(2, {"a": "1"})]


def test_bytes_that_are_no_text_reach_the_rules_as_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\ncaf\xe9\n")
    assert read(path) == [(2, {"a": "caf\udce9"})]


def test_json_lines_name_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_CHARACTERS", 60)
    path = tmp_path / "a.jsonl"
    good = json.dumps({"a": 1, "attributes": {"b": [1]}})
    path.write_text(f'{good}\n\n[1]\n{{"a": NaN}}\n{{"a": "{"x" * 200}"}}\n{{"a": 2}}')
    rows = read(path)
    assert [number for number, _ in rows] == [1, 3, 4, 5, 6]
    assert rows[0][1] == {"a": 1, "attributes": {"b": [1]}}
    assert rows[1][1] == "a JSON object"
    assert "NaN is no JSON" in rows[2][1]
    assert "at most 60 characters" in rows[3][1]
    assert rows[4][1] == {"a": 2}
    with open_rows(path) as source:
        assert source.columns == ("a", "attributes")


def test_a_key_that_is_there_twice_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "a": 2}\n')
    ((number, accepted),) = read(path)
    assert number == 1
    assert "'a' is there twice" in accepted


def test_json_lines_with_too_many_different_keys_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_JSON_COLUMNS", 2)
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "b": 2}\n{"c": 3}\n')
    with pytest.raises(UnreadableFile, match="more than 2"):
        read(path)


def test_a_row_of_csv_that_cannot_be_read_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a,b\n1,{'x' * 11}\n3,4\n")
    before = csv.field_size_limit(10)
    try:
        with open_rows(path) as source:
            (number, bad), good = source.rows
    finally:
        csv.field_size_limit(before)
    assert isinstance(bad, BadInput)
    assert (number, bad.value) == (2, f"1,{'x' * 11}\n")
    assert good == (3, {"a": "3", "b": "4"})


def test_parquet_gives_python_values_also_of_nanoseconds(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    nanoseconds = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", "UTC"))
    pq.write_table(pa.table({"a": ["x"], "l": [["p", "q"]], "t": nanoseconds}), path)
    moment = datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    assert read(path) == [(1, {"a": "x", "l": ["p", "q"], "t": moment})]
    with open_rows(path) as source:
        assert (source.columns, source.total) == (("a", "l", "t"), 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xlsx", b"", "unknown format"),
        ("a.parquet", b"PAR1 no", "damaged"),
        ("a.csv.gz", b"no gzip", "damaged"),
        ("a.csv", b"", "header"),
        ("a.csv", b"a,a\n1,2\n", "header"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=reason) as caught:
        read(tmp_path / name)
    assert caught.value.path == tmp_path / name
    assert caught.value.hint


def test_an_absent_file_and_an_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no such file"):
        read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("a\n1\n")
    with pytest.raises(UnreadableFile, match="latin-9000"):
        read(tmp_path / "b.csv", encoding="latin-9000")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_rejects_file_has_the_line_the_reason_and_the_row(tmp_path: Path) -> None:
    path, source = tmp_path / "rejected" / "a.jsonl", tmp_path / "a.csv"
    source.write_text("kind,x\n\nviewed,nan\nview,1,2\nview,1\n")
    with Rejects(path) as rejects:
        with open_rows(source) as read:
            for number, row in read.rows:
                if isinstance(row, BadInput):
                    rejects.add(number, [row])
        rejects.add(3, [BadInput("kind", "viewed", "view"), BadInput("x", float("nan"), "y")])
        with open_rows(source) as read:
            rejects.write(read.rows)
    assert rejects.rows == 2
    row = {"kind": "viewed", "x": "nan"}
    kept = {"row": row, "row_is_cut": False}
    assert lines(path)[:2] == [
        {"line": 3, "field": "kind", "value": "viewed", "reason": "accepted: view", **kept},
        {"line": 3, "field": "x", "value": "nan", "reason": "accepted: y", **kept},
    ]
    assert (lines(path)[2]["line"], lines(path)[2]["row"]) == (4, ["view", "1", "2"])
    with Rejects(path):
        pass
    assert not path.exists()  # no stale one


def test_a_run_that_broke_off_leaves_its_reasons(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt), Rejects(path) as rejects:
        rejects.add(3, [BadInput("x", 1, "y")])
        raise KeyboardInterrupt
    assert [(line["line"], line["field"]) for line in lines(path)] == [(3, "x")]


@pytest.mark.parametrize(
    "row",
    [
        {f"c{n}": "x" * 5_000 for n in range(1_000)},
        {"c": "x" * 900_000},
        BadInput("row", ["x" * 5_000] * 1_000, "2 columns"),
        BadInput("row", "x" * 900_000, "a JSON object"),
        {"n" * 9_000: float("nan")},
    ],
)
def test_what_is_kept_of_a_row_is_bounded(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "a.jsonl"
    with Rejects(path) as rejects:
        rejects.add(1, [BadInput("c", "x" * 900_000, "y")])
        rejects.write(iter([(1, row)]))
    (line,) = lines(path)
    assert line["row_is_cut"]
    assert line["row"]
    assert path.stat().st_size < 15_000


def test_values_of_parquet_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    with Rejects(path) as rejects:
        rejects.add(1, [BadInput("x", 1, "y")])
        rejects.write(iter([(1, {"t": moment, "l": ["a"], "n": None})]))
    (line,) = lines(path)
    assert line["row"] == {"t": "2024-01-02 00:00:00+00:00", "l": ["a"], "n": None}
