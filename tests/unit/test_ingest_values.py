"""What a cell means: times in four spellings, lists, numbers, and the options that name columns."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from infra.ingest.columns import EVENT_FIELDS, ITEM_FIELDS, Columns
from infra.ingest.errors import BadColumns
from infra.ingest.values import as_bool, as_int, as_list, as_text, as_time_ms, is_missing
from sql.ids import BadInput

AT = 1_700_000_000_000


@pytest.mark.parametrize(
    "value",
    [
        1_700_000_000,
        "1700000000",
        1_700_000_000.0,
        1_700_000_000_000,
        "1700000000000",
        "2023-11-14T22:13:20Z",
        "2023-11-14 22:13:20",
        "2023-11-15T00:13:20+02:00",
        datetime(2023, 11, 14, 22, 13, 20),
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_one_moment_in_every_accepted_spelling(value: Any) -> None:
    assert as_time_ms("occurred_at", value) == AT


def test_a_day_is_its_midnight_in_utc_and_fractions_of_a_second_are_kept() -> None:
    assert as_time_ms("t", date(1970, 1, 2)) == 86_400_000
    assert as_time_ms("t", "1970-01-02") == 86_400_000
    assert as_time_ms("t", "1.25") == 1250


@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        True,
        -1,
        float("inf"),
        1_700_000_000_000_000,  # microseconds
        50_000_000_000,  # milliseconds of 1971, which would be seconds of 3554
        "2345-01-01",
        [1],
    ],
)
def test_a_time_that_would_be_misread_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="occurred_at"):
        as_time_ms("occurred_at", value)


def test_texts_numbers_and_lists() -> None:
    assert [as_text("f", v) for v in ("007", 7, 7.0, 7.5)] == ["007", "7", "7", "7.5"]
    assert as_int("f", "9007199254740993") == 9007199254740993  # not through a float
    assert as_int("f", "12.0") == 12
    assert as_list("Comedy  Drama", " ") == ["Comedy", "Drama"]
    assert as_list("a|b", None) == "a|b"
    assert as_list(["a", None, 3], None) == ["a", "3"]
    assert [as_bool("f", v) for v in ("Yes", "0", True)] == [True, False, True]
    assert [is_missing(v) for v in (None, "", float("nan"), 0, "0", [])] == [True] * 3 + [False] * 3
    for call in (lambda: as_text("f", [1]), lambda: as_int("f", "1.5"), lambda: as_bool("f", "?")):
        with pytest.raises(BadInput):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": ["item_id"]}, "--map 'item_id'"),
        ({"maps": ["itemid=x"]}, "no such field"),
        ({"defaults": ["attributes.year=3"]}, "no such field"),
        ({"types": ["year=integer"]}, "--type year=integer"),
        ({"lists": ["genres="]}, "--list"),
    ],
)
def test_a_malformed_option_is_refused_with_what_is_accepted(
    options: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(BadColumns, match=message) as caught:
        Columns.parse(**options)
    assert "accepted" in str(caught.value)


def test_a_mapped_column_must_be_in_the_file() -> None:
    with pytest.raises(BadColumns, match=r"movieId.*accepted: a, b"):
        Columns.parse(maps=["item_id=movieId"]).check(EVENT_FIELDS, ["a", "b"])
    with pytest.raises(BadColumns, match="genres"):
        Columns.parse(lists=["genres=|"]).check(ITEM_FIELDS, ["item_id", "title"])


def test_columns_that_are_not_used_are_named() -> None:
    columns = Columns.parse(maps=["item_id=movieId", "attributes.year=y"], lists=["genres=|"])
    available = ["movieId", "title", "genres", "y", "imdb", "attributes.new"]
    assert columns.check(ITEM_FIELDS, available) == ["imdb"]


def test_attributes_come_from_objects_prefixes_and_options() -> None:
    columns = Columns.parse(maps=["attributes.year=y"], lists=["genres=|"])
    row = {"attributes": {"a": 1, "gone": None}, "attributes.b": "x", "genres": "C|D", "y": "1995"}
    assert columns.pick_attributes(row) == {"a": 1, "b": "x", "genres": "C|D", "year": "1995"}


def test_a_default_fills_only_what_is_missing() -> None:
    columns = Columns.parse(defaults=["kind=view"], maps=["user_id=u"])
    assert columns.pick(EVENT_FIELDS, {"u": "1", "kind": ""})["kind"] == "view"
    assert columns.pick(EVENT_FIELDS, {"u": "1", "kind": "click"})["kind"] == "click"


def test_a_mapping_of_two_files_is_for_the_one_that_has_its_column() -> None:
    columns = Columns.parse(maps=["text=description", "item_id=movieId"])
    items, events = ["item_id", "title", "description"], ["user_id", "movieId", "kind"]
    of_items, of_events = columns.of_each(items, events)
    assert of_items.check(ITEM_FIELDS, items) == of_events.check(EVENT_FIELDS, events) == []
    nowhere = Columns.parse(maps=["text=descripton"])
    with pytest.raises(BadColumns, match="descripton"):
        nowhere.of_each(items, events)
