"""Online equals batch also after retention: the user vector is the fold of what the log holds."""

from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from ray_jobs.encoders.fold import FoldEvent, event_time, fold, user_vector
from ray_jobs.nightly.export import export
from ray_jobs.nightly.fold import trimmed_of
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, run_step
from ray_jobs.nightly.workspace import Workspace
from serve.day import Day
from sql.engine import read_snapshot
from sql.events import StoredEvent, find_user, read_tail
from sql.retention import Trim, trim_events
from sql.settings import StoreSettings
from tests.integration.http.conftest import ITEMS, Stack, words_vector

USER = "u"


def day_of(replica: TestClient) -> Day:
    day: Day = replica.app.state.day  # type: ignore[attr-defined]
    return day


def post(stack: Stack, **event: Any) -> int:
    answer = stack.replicas[0].post("/v1/events", json={"user_id": USER, **event})
    assert answer.status_code == 200, answer.text
    seq: int = answer.json()["events"][0]["user_seq"]
    return seq


def shown(stack: Stack, replica: int) -> dict[str, Any]:
    url = f"/v1/users/{USER}/recommendations"
    answer: dict[str, Any] = stack.replicas[replica].get(url, params={"k": ITEMS}).json()
    return answer


def log_of(stack: Stack) -> list[StoredEvent]:
    with read_snapshot(stack.engine) as conn:
        user = find_user(conn, USER)
        assert user is not None
        return read_tail(conn, user.user_key, 0, 1_000)


def folded(stack: Stack) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The user vector from nothing, of what stands in the log."""
    generation = day_of(stack.replicas[0]).watch.loaded["g1"]
    events = log_of(stack)
    vectors = generation.text_vectors(
        stack.engine, [e.text_digest for e in events if e.text_digest]
    )
    fed = [
        FoldEvent(
            user_seq=event.user_seq,
            kind=str(event.kind),
            ordinal=event.ordinal,
            vector=vectors[event.text_digest]
            if event.text_digest
            else words_vector(event.text)
            if event.text
            else None,
            value=event.value,
            undoes_seq=event.undoes_seq,
            at_ms=event_time(event.occurred_at_ms, event.received_at_ms),
        )
        for event in events
    ]
    vector_D = user_vector(generation.encoder, fold(generation.encoder, None, fed))
    assert vector_D is not None
    return vector_D


def test_both_replicas_answer_from_what_the_log_still_holds(stack: Stack) -> None:
    post(stack, kind="click", item_id="i1")
    post(stack, kind="hide", item_id="i5")
    post(stack, kind="search", text="space battle")
    post(stack, kind="click", item_id="i8", event_id="undone later")
    young = post(stack, kind="rating", item_id="i2", value=5)
    last = post(stack, kind="undo", undoes="undone later")
    before = [shown(stack, replica) for replica in (0, 1)]  # both have a session in memory
    horizon_ms = next(e.received_at_ms for e in log_of(stack) if e.user_seq == young)
    old = sum(e.received_at_ms < horizon_ms for e in log_of(stack))
    assert old == 4

    assert trim_events(stack.engine, horizon_ms, trim=Trim(pause_s=0)) == 3

    expected = folded(stack)
    for replica in (0, 1):
        state = day_of(stack.replicas[replica]).states.read(USER)
        assert state.vector is not None
        np.testing.assert_allclose(state.vector, expected, atol=1e-5)
        answer = shown(stack, replica)
        assert (answer["user_seq"], answer["degraded"]) == (last, [])
        listed = {item["item_id"] for item in answer["items"]}
        assert "i5" not in listed  # hidden, for good
        assert "i1" in listed  # seen, but that is forgotten
        assert "i1" not in {item["item_id"] for item in before[replica]["items"]}


def test_a_user_of_whom_nothing_is_left_is_answered_as_of_the_whole_log(stack: Stack) -> None:
    last = post(stack, kind="click", item_id="i1")
    shown(stack, 1)
    assert trim_events(stack.engine, 2**50, trim=Trim(pause_s=0)) == 1
    answer = shown(stack, 1)
    assert (answer["user_seq"], answer["basis"], answer["degraded"]) == (last, "popularity", [])
    assert post(stack, kind="click", item_id="i2") == last + 1
    assert (shown(stack, 1)["user_seq"], shown(stack, 1)["basis"]) == (last + 1, "session")


def test_the_night_knows_what_was_gone_when_it_folded(stack: Stack) -> None:
    post(stack, kind="click", item_id="i1")
    young = post(stack, kind="click", item_id="i2")
    horizon_ms = next(e.received_at_ms for e in log_of(stack) if e.user_seq == young)
    assert trim_events(stack.engine, horizon_ms, trim=Trim(pause_s=0)) == 1
    store = StoreSettings(database_url=str(stack.engine.url), artifact_root=stack.root)
    night = Night(stack.engine, store, NightSettings(), Workspace(stack.root, "night-1"))
    run_step(night, "export", export)
    (event,) = log_of(stack)
    assert trimmed_of(night.workspace) == {event.user_key: 1}
