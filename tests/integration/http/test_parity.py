"""Promise 3 as a step and a figure: what replicas answer is what the night computes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from sqlalchemy import update

from ray_jobs.encoders.session import Session
from ray_jobs.nightly.parity import FAR, Answer, Parity, ParityBroken, check, store
from serve.day import Day
from sql.engine import read_snapshot, write
from sql.events import find_user
from sql.live_sessions import sample_users
from sql.sessions import SessionRow, read_session, write_sessions
from sql.tables import sessions, text_vectors
from tests.integration.http.conftest import ENCODER_ID, ITEMS, TEXT_DIM, Stack, words_vector

USERS = 12


class Words:
    """The stand-in of `conftest`, as the night has it."""

    encoder_id = ENCODER_ID
    dim = TEXT_DIM

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([words_vector(text) for text in texts])


def live(stack: Stack) -> None:
    """Some users did all that can be done; half of them have a stored session and a tail."""
    rng = np.random.default_rng(5)
    for number in range(USERS):
        for step in range(12):
            event: dict[str, Any] = {"user_id": f"u{number}", "event_id": f"e{step}"}
            if step % 4 == 3:
                event |= {"kind": "search", "text": f"space chess {number}"}
            elif step == 6:
                event |= {"kind": "undo", "undoes": "e2"}
            else:
                event |= {"kind": "rating", "value": float(step % 6)}
                event |= {"item_id": f"i{rng.integers(ITEMS)}"}
            answer = stack.replicas[step % 2].post("/v1/events", json=event)
            assert answer.status_code == 200, answer.text
            if step == 8 and number % 2:
                keep_session(stack, f"u{number}")


def keep_session(stack: Stack, user_id: str) -> SessionRow:
    day: Day = stack.replicas[0].app.state.day  # type: ignore[attr-defined]
    state = day.states.read(user_id)
    assert state.session is not None
    assert state.user is not None
    row = SessionRow(state.user.user_key, state.session.user_seq, state.session.to_bytes())
    write_sessions(stack.engine, "g1", [row], sleep=lambda _: None)
    return row


def spoil_session(stack: Stack, user_id: str, spoiled: Callable[[Session], Session]) -> None:
    """Of one that `live` stored."""
    with read_snapshot(stack.engine) as conn:
        user = find_user(conn, user_id)
        assert user is not None
        row = read_session(conn, "g1", user.user_key)
    assert row is not None
    state = spoiled(Session.from_bytes(row.state)).to_bytes()
    with write(stack.engine) as conn:
        conn.execute(
            update(sessions).where(sessions.c.user_key == user.user_key).values(state=state)
        )


def over_http(replica: TestClient) -> Any:
    def ask(user_id: str) -> Answer | None:
        answer = replica.get(f"/v1/users/{user_id}", params={"vector": True}).json()
        return Answer(
            answer["generation"], answer["user_seq"], np.array(answer["vector"], np.float32)
        )

    return ask


@pytest.mark.parametrize("through", ["store", "replica"])
def test_day_and_night_agree_and_the_figures_are_shown(stack: Stack, through: str) -> None:
    live(stack)
    ask = over_http(stack.replicas[1]) if through == "replica" else None
    measured = Parity(stack.engine, stack.root, "g1", ask)
    report = measured.report(Words(), users=100, seed=3)  # type: ignore[arg-type]
    check(report)
    assert (report["parity_users"], report["parity_users_with_tail"]) == (USERS, USERS)
    assert 0 < report["parity_max_abs_diff"] < 1e-5  # numpy and torch never agree to the bit
    assert report["canary_texts"] == 20 + 20
    assert report["canary_min_cosine"] > 0.999999
    store(stack.engine, "g1", report, at_ms=1_000)
    for replica in stack.replicas:
        shown = replica.get("/v1/status").json()["parity"]
        assert shown["max_abs_diff"] == report["parity_max_abs_diff"]
        assert (shown["users"], shown["canary_texts"]) == (USERS, 40)


def test_a_stored_session_that_is_wrong_is_found(stack: Stack) -> None:
    live(stack)
    spoil_session(stack, "u1", lambda kept: kept._replace(h=kept.h + np.float32(1e-3)))
    report = Parity(stack.engine, stack.root, "g1").compare_users(100, 0)
    assert 1e-5 < report["parity_max_abs_diff"] < FAR
    with pytest.raises(ParityBroken, match="user vectors differ"):
        check({**report, "canary_min_cosine": 1.0})


def test_a_stored_session_of_another_encoders_size_is_dropped(stack: Stack) -> None:
    live(stack)
    cached = over_http(stack.replicas[0])("u1")
    spoil_session(stack, "u1", lambda kept: kept._replace(h=kept.h[:3], c=kept.c[:3]))
    refolded = over_http(stack.replicas[1])("u1")
    assert refolded.user_seq == cached.user_seq
    np.testing.assert_array_equal(refolded.vector, cached.vector)


def test_a_replica_that_answers_something_else_is_found(stack: Stack) -> None:
    live(stack)
    honest = over_http(stack.replicas[0])

    def one_behind(user_id: str) -> Answer | None:
        answer = honest(user_id)
        return replace(answer, user_seq=answer.user_seq - 1)

    def nothing(user_id: str) -> Answer | None:
        return replace(honest(user_id), vector=None)

    behind = Parity(stack.engine, stack.root, "g1", one_behind).compare_users(3, 0)
    assert behind["parity_max_abs_diff"] > 1e-5
    silent = Parity(stack.engine, stack.root, "g1", nothing).compare_users(3, 0)
    assert silent["parity_max_abs_diff"] == FAR
    other = Parity(
        stack.engine, stack.root, "g1", lambda user: replace(honest(user), generation="g0")
    )
    with pytest.raises(ValueError, match="answers from g0"):
        other.compare_users(3, 0)


def test_a_search_that_was_embedded_by_another_bert_is_found(stack: Stack) -> None:
    live(stack)
    other = words_vector("something else").tobytes()
    with write(stack.engine) as conn:
        conn.execute(update(text_vectors).values(vector=other))
    report = Parity(stack.engine, stack.root, "g1").report(Words(), 10, 1)  # type: ignore[arg-type]
    assert report["canary_min_cosine"] < 0.9999
    assert report["parity_max_abs_diff"] > 1e-5  # against sessions that read the true vectors
    with pytest.raises(ParityBroken, match="embedded again"):
        check({**report, "parity_max_abs_diff": 0.0})


def test_the_sample_is_seeded_and_prefers_users_with_a_tail(stack: Stack) -> None:
    live(stack)
    for number in range(0, USERS, 2):
        keep_session(stack, f"u{number}")
    with read_snapshot(stack.engine) as conn:
        few, with_tail = sample_users(conn, "g1", 4, 2**62)
        assert with_tail == 4
        assert (few, with_tail) == sample_users(conn, "g1", 4, 2**62)
        every, with_tail = sample_users(conn, "g1", 100, 2**62)
    assert with_tail == USERS // 2
    assert {int(user[1:]) % 2 for user in every[:with_tail]} == {1}
    assert sorted(every) == sorted(f"u{n}" for n in range(USERS))


def test_a_user_whose_every_event_was_undone_has_no_vector_on_either_side(stack: Stack) -> None:
    client = stack.replicas[0]
    first = {"user_id": "u", "kind": "click", "item_id": "i1", "event_id": "a"}
    client.post("/v1/events", json=first)
    client.post("/v1/events", json={"user_id": "u", "kind": "undo", "undoes": "a"})
    report = Parity(stack.engine, stack.root, "g1").compare_users(10, 0)
    assert (report["parity_users"], report["parity_max_abs_diff"]) == (1, 0.0)
    assert client.get("/v1/users/u", params={"vector": True}).json()["vector"] is None
