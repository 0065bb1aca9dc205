"""Items and their filters equal a plain dictionary, through any sequence of changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.shards import item_block, items
from ray_jobs.shards.errors import CorruptArtifact, MissingArtifact
from ray_jobs.shards.items import Item, ItemTable, attributes_json, read_items, write_items

NAMES = ["genre", "year", "ü", 'a"b', "new"]
scalars = st.one_of(
    st.sampled_from(["Drama", "1", "genre", "ü", ""]),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0, 1.5]),
)
values = st.one_of(scalars, st.lists(st.sampled_from(["Drama", "Comedy", "1"]), max_size=3))
attribute_dicts = st.dictionaries(st.sampled_from(NAMES), values, max_size=4)
categories = st.sampled_from([None, "film", "book"])


@st.composite
def item(draw: st.DrawFn) -> Item:
    ordinal = draw(st.integers(0, 25))
    return Item(
        ordinal=ordinal,
        item_id=f"i{ordinal}",
        title=draw(st.sampled_from(["A", "Łódź", ""])),
        category=draw(categories),
        attributes_json=attributes_json(draw(attribute_dicts)),
        published_at_ms=draw(st.sampled_from([None, 0, 1_700_000_000_000])),
        text_digest="0" * 32,
        event_count=draw(st.integers(0, 3)),
        available=draw(st.sampled_from([True, True, False])),
        former_ordinals=tuple(sorted(draw(st.sets(st.integers(0, 30), max_size=2)))),
    )


item_lists = st.lists(item(), max_size=12, unique_by=lambda one: one.ordinal)
batches = st.lists(st.tuples(item_lists, st.sets(st.integers(0, 30), max_size=6)), max_size=8)
filters = st.dictionaries(st.sampled_from(NAMES), scalars, max_size=2)


def same(stored: object, wanted: object) -> bool:
    """JSON equality: numbers by value, and a bool is no number."""
    if isinstance(stored, bool) or isinstance(wanted, bool):
        return stored is wanted
    return isinstance(stored, str) == isinstance(wanted, str) and stored == wanted


def admits(one: Item, category: str | None, wanted: dict) -> bool:
    if not one.available:
        return False
    if category is not None and one.category != category:
        return False
    for name, value in wanted.items():
        stored = one.attributes.get(name)
        members = stored if isinstance(stored, list) else [stored]
        if stored is None or not any(same(member, value) for member in members):
            return False
    return True


@given(
    night=item_lists, day=batches, category=categories, wanted=filters, seal_at=st.integers(1, 9)
)
@settings(max_examples=200, deadline=None)
def test_a_table_equals_a_dictionary_through_any_changes(night, day, category, wanted, seal_at):
    expected = {one.ordinal: one for one in night}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "SEAL_AT", seal_at)
        patch.setattr(items, "MAX_LAYERS", 2)
        table = ItemTable.of(night)
        for puts, deletes in day:
            before = (table, dict(expected))
            table = table.with_changes(puts, deletes)
            for ordinal in deletes:
                expected.pop(ordinal, None)
            expected.update({one.ordinal: one for one in puts})
            old, old_expected = before
            assert old.live_ordinals().tolist() == available(old_expected.values())
    assert table.get_many(range(32)) == [expected.get(ordinal) for ordinal in range(32)]
    mask = table.matching(category, wanted)
    assert len(mask) == table.ordinal_span
    assert np.flatnonzero(mask).tolist() == sorted(
        ordinal for ordinal, one in expected.items() if admits(one, category, wanted)
    )


def available(some) -> list[int]:
    return sorted(one.ordinal for one in some if one.available)


@given(night=item_lists, day=batches, asked=st.sets(st.integers(0, 32), max_size=8))
@settings(max_examples=200, deadline=None)
def test_ordinals_follow_their_ids_into_later_lives(night, day, asked):
    table, pairs = ItemTable.of(night), set()
    for puts in (night, *(puts for puts, _ in day)):
        pairs |= {(former, one.ordinal) for one in puts for former in one.former_ordinals}
    for puts, deletes in day:
        table = table.with_changes(puts, deletes)
    ordinals = np.array(sorted(asked), dtype=np.int64)
    later = {now for former, now in pairs if former in asked}
    assert table.with_returned(ordinals).tolist() == sorted(asked | later)


def test_a_file_of_format_1_has_nothing_withdrawn_and_nothing_returned(tmp_path: Path):
    write_items(tmp_path, [Item(4, "i", "t", None, "{}", None, "0" * 32)])
    path = tmp_path / "items.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["available", "former_ordinals"]), path)
    table = read_items(tmp_path)
    assert table.get(4) == Item(4, "i", "t", None, "{}", None, "0" * 32)
    assert table.live_ordinals().tolist() == [4]
    assert len(table.returned_R2) == 0


@settings(max_examples=60, deadline=None)
@given(night=item_lists, day=batches, asked=st.sets(st.integers(0, 30)), seal_at=st.integers(1, 9))
def test_categories_of_ordinals_are_those_of_the_items(night, day, asked, seal_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(items, "SEAL_AT", seal_at)
        table = ItemTable.of(night)
        for puts, deletes in day:
            table = table.with_changes(puts, deletes)
    names = {"film": 3, "stage": 1}
    ordinals = np.array(sorted(asked), np.int64)
    found = dict(zip(ordinals.tolist(), table.category_index(ordinals, names), strict=True))
    for ordinal, index in found.items():
        now = table.get(ordinal)
        if now is not None:
            assert index == (3 if now.category == "film" else -1)


@given(night=item_lists)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, night):
    folder = tmp_path_factory.mktemp("items")
    assert write_items(folder, night) == len(night)
    table = read_items(folder)
    assert [table.get(one.ordinal) for one in night] == night
    assert table.live_ordinals().tolist() == available(night)
    assert table.blocks[0].withdrawn.tolist() == sorted(
        {o.ordinal for o in night} - {*available(night)}
    )
    counts = table.event_counts()
    assert [counts[one.ordinal] for one in night] == [one.event_count for one in night]


def test_foreign_json_is_made_canonical(tmp_path: Path):
    """The attribute index looks for a name's bytes; escaped names must not hide from it."""
    foreign = '{ "\\u00fc" : ["x", "y"] }'
    write_items(tmp_path, [Item(4, "i", "t", None, foreign, None, "0" * 32)])
    assert np.flatnonzero(read_items(tmp_path).matching(attributes={"ü": "y"})).tolist() == [4]


def test_names_from_requests_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(item_block, "MAX_INDEXED_ATTRIBUTES", 3)
    table = ItemTable.of([Item(1, "i", "t", None, '{"a":1}', None, "0" * 32)])
    for number in range(20):
        assert not table.matching(attributes={f"name{number}": 1}).any()
    assert len(table.blocks[0]._postings) == 3
    assert table.matching(attributes={"a": 1}).any()


def test_bad_items_are_refused(tmp_path: Path):
    good = Item(1, "i", "t", None, "{}", None, "0" * 32)
    with pytest.raises(ValueError, match="repeat"):
        write_items(tmp_path, [good, good])
    with pytest.raises(ValueError, match="negative"):
        write_items(tmp_path, [Item(-1, "i", "t", None, "{}", None, "0" * 32)])
    for broken in ("[]", "{", "1"):
        with pytest.raises(ValueError, match=r"JSON|unexpected|expected"):
            write_items(tmp_path, [Item(1, "i", "t", None, broken, None, "0" * 32)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_items_file_is_refused(tmp_path: Path):
    with pytest.raises(MissingArtifact):
        read_items(tmp_path)
    path = tmp_path / "items.parquet"
    path.write_bytes(b"junk")
    with pytest.raises(CorruptArtifact):
        read_items(tmp_path)
    pq.write_table(pa.table({"ordinal": [1]}), path)
    with pytest.raises(CorruptArtifact):
        read_items(tmp_path)
