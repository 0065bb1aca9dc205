"""Promise 6 for ids that are put after somebody hid them: the ordinal is there before the item."""

from threading import Thread

from sqlalchemy import Engine

from sql.catalog import delete_item, put_items, read_changes, read_item
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent
from tests.contract.store_builder import NOW_MS, item, log, post, put, refused, seqs, view


def hide(event_id: str, item_id: str, user_id: str = "u1") -> NewEvent:
    return NewEvent(user_id, event_id, EventKind.HIDE, item_id)


def rows(engine: Engine) -> int:
    with engine.connect() as conn:
        count: int = conn.exec_driver_sql("SELECT count(*) FROM items").scalar_one()
    return count


def test_an_id_that_was_hidden_before_it_was_put_is_put_under_the_ordinal_of_the_hide(
    engine: Engine,
) -> None:
    post(engine, [hide("a", "later")], keep=True)
    (hidden,) = log(engine)
    with read_snapshot(engine) as conn:
        assert read_item(conn, "later") is None
        assert read_changes(conn, 0, 10) == []
    (result,) = put(engine, "later")
    assert (result.outcome, result.ordinal, result.change_seq) == ("created", hidden.ordinal, 1)
    with read_snapshot(engine) as conn:
        (change,) = read_changes(conn, 0, 10)
    assert (change.ordinal, change.replaced_ordinal) == (hidden.ordinal, None)
    (other,) = put(engine, "other")
    assert other.ordinal != hidden.ordinal


def test_a_versioned_put_of_such_an_id_is_not_stale_and_a_delete_finds_nothing(
    engine: Engine,
) -> None:
    post(engine, [view("a", "later")], keep=True)
    assert delete_item(engine, "later", 7, NOW_MS).outcome == "absent"
    (result,) = put_items(engine, [item("later", version=3)], NOW_MS)
    assert (result.outcome, result.version) == ("created", 3)


def test_an_event_on_a_deleted_id_has_the_ordinal_that_leads_to_the_next_one(
    engine: Engine,
) -> None:
    (before,) = put(engine, "i1")
    delete_item(engine, "i1", None, NOW_MS)
    post(engine, [hide("a", "i1")], keep=True)
    assert log(engine)[0].ordinal == before.ordinal
    put(engine, "i1")
    with read_snapshot(engine) as conn:
        found = read_item(conn, "i1")
    assert found is not None
    assert found.former_ordinals == (before.ordinal,)


def test_rows_are_made_with_stored_events_only_and_once_an_id(engine: Engine) -> None:
    nobody = NewEvent("u1", "x", EventKind.UNDO, undoes="never")
    answer, kept = post(
        engine,
        [*(view(f"a{n}", f"none{n}") for n in range(50)), nobody],
        [view("b", "one"), view("c", "one"), view("d", "two", "u2")],
        keep=True,
    )
    assert refused(answer) == [(50, "undoes", 409)]
    assert seqs(kept) == [1, 2, 1]
    assert rows(engine) == 2
    post(engine, [view("e", "one", "u3")], keep=True)
    assert rows(engine) == 2
    post(engine, [view("f", "three")], keep=False)
    assert rows(engine) == 2


def test_puts_and_kept_events_at_once_agree_on_every_ordinal(engine: Engine) -> None:
    ids = [f"n{n}" for n in range(40)]

    def act(user_id: str) -> None:
        for item_id in ids:
            post(engine, [hide(item_id, item_id, user_id)], keep=True)

    threads = [Thread(target=act, args=(user,)) for user in ("u1", "u2")]
    threads.append(Thread(target=lambda: [put(engine, item_id) for item_id in ids]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read_snapshot(engine) as conn:
        stored = {item_id: read_item(conn, item_id) for item_id in ids}
    for user in ("u1", "u2"):
        for event in log(engine, user):
            assert event.item_id is not None
            found = stored[event.item_id]
            assert found is not None
            assert event.ordinal == found.ordinal
    assert len({found.ordinal for found in stored.values() if found}) == len(ids)
