"""The catalog: put, edit, version, delete, create again; its log, its texts and its vectors."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sqlalchemy import Engine

from sql.batch import batch_rows
from sql.catalog import (
    ItemBody,
    ItemRef,
    PutResult,
    catalog_seq,
    delete_item,
    items_by_ordinal,
    put_items,
    read_changes,
    read_item,
    read_item_vectors,
    read_items,
    read_refs,
    resolve_items,
    texts_by_digest,
    write_item_vectors,
)
from sql.catalog_reads import _texts_sql, _vectors_sql
from sql.engine import open_engine, read_snapshot, write
from sql.ids import BadInput
from tests.contract.store_builder import item, put, vector


def changes(engine: Engine) -> list[tuple[int, str, str, int, int | None]]:
    with read_snapshot(engine) as conn:
        return [
            (c.change_seq, c.op, c.item_id, c.ordinal, c.replaced_ordinal)
            for c in read_changes(conn, 0, 100)
        ]


def test_put_read_edit(engine: Engine) -> None:
    body = ItemBody(
        title="Ünïcode ☃ 😀",
        text="Text",
        category="c",
        attributes={"b": True, "i": 1, "f": 1.0, "s": "x", "l": ["p", "q"]},
        published_at_ms=-5,
    )
    new = item("i1", "First")
    new = type(new)("i1", body, "read by bert", "d1", 3, {})
    (created,) = put_items(engine, [new], 7)
    with read_snapshot(engine) as conn:
        stored = read_item(conn, "i1")
        assert texts_by_digest(conn, ["d1", "unknown"]) == {"d1": "read by bert"}
    assert stored is not None
    assert stored.body == body
    assert [type(v) for v in stored.body.attributes.values()] == [bool, float, int, list, str]
    assert (stored.text_digest, stored.version, stored.at_ms) == ("d1", 3, 7)

    (edited,) = put_items(engine, [item("i1", "Second", 4)], 8)
    assert (created.outcome, edited.outcome) == ("created", "updated")
    assert edited.ordinal == created.ordinal
    assert (created.change_seq, edited.change_seq) == (1, 2)


def test_results_and_changes_are_in_the_given_order(engine: Engine) -> None:
    results = put(engine, "b", "a", "c")
    assert [r.item_id for r in results] == ["b", "a", "c"]
    assert [r.change_seq for r in results] == [1, 2, 3]
    ordinals = [r.ordinal for r in results]
    assert ordinals == sorted(set(ordinals))
    assert [c[2] for c in changes(engine)] == ["b", "a", "c"]


def test_same_item_twice_in_one_call(engine: Engine) -> None:
    first, second, third = put_items(engine, [item("a", "1"), item("a", "2"), item("a", "2")], 1)
    assert [r.outcome for r in (first, second, third)] == ["created", "updated", "unchanged"]
    assert first.ordinal == second.ordinal == third.ordinal
    assert [c[:3] for c in changes(engine)] == [(1, "put", "a"), (2, "put", "a")]


def test_unchanged_body_makes_no_change_but_keeps_a_higher_version(engine: Engine) -> None:
    put_items(engine, [item("a", "T", 1)], 1)
    (same,) = put_items(engine, [item("a", "T", 5)], 2)
    assert same == PutResult("a", same.ordinal, 1, "unchanged", 5)
    assert put_items(engine, [item("a", "New", 4)], 3)[0].outcome == "stale_version"
    assert put_items(engine, [item("a", "T")], 3)[0].version == 5
    assert len(changes(engine)) == 1


def test_stale_version_stores_nothing_and_hinders_no_other(engine: Engine) -> None:
    put_items(engine, [item("a", "T", 5)], 1)
    stale, good = put_items(engine, [item("a", "Old", 4, e=vector(1)), item("b")], 2)
    assert (stale.outcome, stale.version, stale.change_seq) == ("stale_version", 5, 1)
    assert good.outcome == "created"
    with read_snapshot(engine) as conn:
        found = read_item(conn, "a")
        assert found is not None
        assert found.body.title == "T"
        old = item("a", "Old").text_digest
        assert texts_by_digest(conn, [old]) == {}
        assert read_item_vectors(conn, "e", [old]) == {}
    assert put_items(engine, [item("a", "None")], 3)[0].outcome == "updated"


def test_one_version_is_one_body(engine: Engine) -> None:
    put_items(engine, [item("a", "T", 5)], 1)
    assert put_items(engine, [item("a", "T", 5)], 2)[0].outcome == "unchanged"
    (other,) = put_items(engine, [item("a", "Equal", 5)], 3)
    assert (other.outcome, other.version, other.change_seq) == ("stale_version", 5, 1)
    first, second = put_items(engine, [item("a", "One", 6), item("a", "Two", 6)], 4)
    assert (first.outcome, second.outcome) == ("updated", "stale_version")
    with read_snapshot(engine) as conn:
        found = read_item(conn, "a")
    assert found is not None
    assert found.body.title == "One"


def test_a_withdrawn_item_keeps_its_ordinal_and_is_no_deleted_one(engine: Engine) -> None:
    (first,) = put_items(engine, [item("a", "T", 1)], 1)
    withdrawn = replace(item("a", "T", 2), body=ItemBody(title="T", available=False))
    (gone,) = put_items(engine, [withdrawn], 2)
    assert (gone.outcome, gone.ordinal) == ("updated", first.ordinal)
    with read_snapshot(engine) as conn:
        found = read_item(conn, "a")
        assert found is not None
        assert not found.body.available
        assert list(resolve_items(conn, ["a"])) == ["a"]
    (late,) = put_items(engine, [item("a", "T", 1)], 3)
    (back,) = put_items(engine, [item("a", "T", 3)], 4)
    assert (late.outcome, back.outcome, back.ordinal) == ("stale_version", "updated", first.ordinal)


def test_bodies_stored_before_there_was_available_are_equal_to_themselves() -> None:
    assert "available" not in ItemBody(title="T").canonical()
    assert '"available":false' in ItemBody(title="T", available=False).canonical()


def test_an_id_that_comes_back_knows_its_former_ordinals(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.catalog_log.MAX_FORMER_ORDINALS", 2)
    lives = []
    for n in range(4):
        lives += [r.ordinal for r in put_items(engine, [item("a", f"T{n}")], n)]
        put_items(engine, [item("a", f"edit {n}"), item(f"other{n}")], n)
        if n < 3:
            delete_item(engine, "a", None, n)
    with read_snapshot(engine) as conn:
        found = read_item(conn, "a")
        (page, *_) = (i for i in read_items(conn, -1, 100) if i.item_id == "a")
        of_a = [c for c in read_changes(conn, 0, 100) if c.item_id == "a" and c.op == "put"]
        (other, *_) = (c for c in read_changes(conn, 0, 100) if c.item_id == "other3")
    assert found is not None
    assert found.former_ordinals == page.former_ordinals == tuple(lives[1:3])
    assert other.former_ordinals == ()
    # Each change names what the id had before it, an edit like the put that made it.
    assert [(c.ordinal, c.former_ordinals) for c in of_a] == [
        (lives[0], ()),
        (lives[0], ()),
        (lives[1], ()),
        (lives[1], ()),
        (lives[2], (lives[1],)),
        (lives[2], (lives[1],)),
        (lives[3], (lives[1], lives[2])),
        (lives[3], (lives[1], lives[2])),
    ]


def test_delete_then_create_again_gives_a_new_ordinal(engine: Engine) -> None:
    (first,) = put_items(engine, [item("a", "T", 5)], 1)
    assert delete_item(engine, "a", 4, 2).outcome == "stale_version"
    gone = delete_item(engine, "a", 6, 2)
    assert (gone.outcome, gone.ordinal, gone.version) == ("deleted", first.ordinal, 6)
    assert delete_item(engine, "a", 6, 3).outcome == "unchanged"
    assert delete_item(engine, "never", None, 3).outcome == "absent"
    with read_snapshot(engine) as conn:
        assert read_item(conn, "a") is None
        assert resolve_items(conn, ["a"]) == {}
        assert items_by_ordinal(conn, [first.ordinal]) == {}

    late = put_items(engine, [item("a", "T", 5), item("a", "T", 6)], 4)
    assert [r.outcome for r in late] == ["stale_version"] * 2
    (again,) = put_items(engine, [item("a", "T", 7)], 5)
    assert (again.outcome, again.version) == ("created", 7)
    assert again.ordinal > first.ordinal
    assert changes(engine) == [
        (1, "put", "a", first.ordinal, None),
        (2, "delete", "a", first.ordinal, None),
        (3, "put", "a", again.ordinal, first.ordinal),
    ]


def test_ordinals_are_never_used_again(engine: Engine) -> None:
    seen = []
    for n in range(4):
        seen += [r.ordinal for r in put(engine, "a", f"b{n}")]
        delete_item(engine, "a", None, n)
    assert len({*seen}) == 8


def test_changes_and_items_are_read_in_pages(engine: Engine) -> None:
    put(engine, *"abcde")
    delete_item(engine, "c", None, 2)
    with read_snapshot(engine) as conn:
        assert catalog_seq(conn) == 6
        assert [c.change_seq for c in read_changes(conn, 2, 3)] == [3, 4, 5]
        (last,) = read_changes(conn, 5, 100)
        assert (last.op, last.body, last.text_digest) == ("delete", None, None)
        page = read_items(conn, -1, 2)
        rest = read_items(conn, page[-1].ordinal, 10)
        assert [i.item_id for i in (*page, *rest)] == ["a", "b", "d", "e"]
        refs = read_refs(conn, -1, 2, until_change_seq=4)
        later = read_refs(conn, refs[-1].ordinal, 10, until_change_seq=4)
        assert [*refs, *later] == [
            ItemRef(i.item_id, i.ordinal, i.text_digest)
            for i in (*page, *rest)
            if i.change_seq <= 4
        ]
        assert [ref.item_id for ref in later] == ["d"]
        assert list(items_by_ordinal(conn, [page[0].ordinal, 10**6])) == [page[0].ordinal]
        with pytest.raises(BadInput):
            read_items(conn, -1, 0)


def test_writers_at_once_leave_no_gap_and_share_no_number(engine: Engine) -> None:
    def some(writer: int) -> list[PutResult]:
        return [
            r
            for n in range(8)
            for r in put_items(engine, [item(f"{writer}-{n}"), item("shared", f"{writer}-{n}")], n)
        ]

    with ThreadPoolExecutor(4) as pool:
        results = [r for part in pool.map(some, range(4)) for r in part]
    made = sorted(r.change_seq for r in results)
    assert made == list(range(1, 4 * 8 * 2 + 1)) == [c[0] for c in changes(engine)]
    assert len({r.ordinal for r in results}) == 4 * 8 + 1


def test_vectors_by_digest_and_encoder(engine: Engine) -> None:
    put_items(engine, [item("a", "A", e1=vector(1, 2)), item("b", "B")], 1)
    a, b = (item("x", title).text_digest for title in "AB")
    assert write_item_vectors(engine, "e1", {a: vector(9), b: vector(3), "gone": vector(4)}) == 1
    assert write_item_vectors(engine, "e2", {a: vector(5)}) == 1
    with read_snapshot(engine) as conn:
        first = read_item_vectors(conn, "e1", [a, b, "gone"])
        second = read_item_vectors(conn, "e2", [a, b])
    assert {d: v.tolist() for d, v in first.items()} == {a: [1, 2], b: [3]}
    assert {d: v.tolist() for d, v in second.items()} == {a: [5]}
    assert first[a].dtype == np.float32


def test_bad_puts_are_refused_whole(engine: Engine) -> None:
    for bad in (item(""), item("a\x00"), item("b", "T", -1), item("c", e=vector(float("nan")))):
        with pytest.raises(BadInput):
            put_items(engine, [item("good"), bad], 1)
    assert changes(engine) == []
    with read_snapshot(engine) as conn:
        assert read_item(conn, "good") is None


@pytest.mark.parametrize(
    "body",
    [
        {"title": ""},
        {"title": "x" * 501},
        {"title": "t", "text": "x" * 20_001},
        {"title": "t", "colour": "red"},
        {"title": "nul \x00"},
        {"title": "t", "attributes": {"a": float("nan")}},
        {"title": "t", "attributes": {"a": float("inf")}},
        {"title": "t", "attributes": {"a": None}},
        {"title": "t", "attributes": {"a": {"b": 1}}},
        {"title": "t", "attributes": {f"a{n}": 1 for n in range(51)}},
    ],
)
def test_bad_bodies_are_refused(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ItemBody.model_validate(body)


def test_lookup_by_digest_uses_the_index(engine: Engine) -> None:
    """Postgres uses an index only for a comparison in its own collation."""
    with write(engine) as conn:
        statement = _texts_sql(conn.dialect.name).compile(engine)
        words = "EXPLAIN" if conn.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        batch = batch_rows([("d1",)])
        parameters = batch if conn.dialect.name == "postgresql" else tuple(batch.values())
        plan = str(conn.exec_driver_sql(f"{words} {statement}", parameters).all())
    assert "pk_texts" in plan or "SEARCH texts USING INDEX" in plan, plan


def test_a_batch_of_vectors_is_looked_up_by_key_and_not_scanned_for_each(
    migrated_sqlite: Path,
) -> None:
    """SQLite once took all vectors of the encoder and read the whole batch for each of them."""
    engine = open_engine(f"sqlite:///{migrated_sqlite}")
    statement = str(_vectors_sql("sqlite").compile(dialect=engine.dialect))
    with read_snapshot(engine) as conn:
        plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("[]",)).all()
    engine.dispose()
    steps = [row[3] for row in plan]
    assert "SCAN each" in steps[0]
    assert "encoder_id=? AND text_digest=?" in steps[1]
