"""Every format gives the same rows; a bad line is one rejected row, a bad file an error."""

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
        (1, {"item_id": "007", "title": "one\ntwo, three"}),
        (2, "2, as the header"),
        (3, {"item_id": "9", "title": "z"}),
    ]


def test_delimiter_encoding_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "b.csv").write_bytes("a;b\ncafé;2\n".encode("latin-1"))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    assert read(tmp_path / "a.tsv") == [(1, {"a": "1", "b": "2"})]
    latin = read(tmp_path / "b.csv", delimiter=";", encoding="latin-1")
    assert latin == [(1, {"a": "café", "b": "2"})]
    assert read(tmp_path / "c.csv.gz") == [(1, {"a": "1"})]


def test_bytes_that_are_no_text_reach_the_rules_as_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\ncaf\xe9\n")
    assert read(path) == [(1, {"a": "caf\udce9"})]


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


def test_the_rejects_file_has_a_line_a_reason_and_no_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "rejected" / "a.jsonl"
    with Rejects(path) as rejects:
        reasons = [BadInput("kind", "viewed", "view"), BadInput("x", float("nan"), "y")]
        rejects.add(3, reasons)
    assert rejects.rows == 1
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"row": 3, "field": "kind", "value": "viewed", "reason": "accepted: view"},
        {"row": 3, "field": "x", "value": "nan", "reason": "accepted: y"},
    ]
    with Rejects(path):
        pass
    assert not path.exists()
