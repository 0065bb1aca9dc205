"""Group commit: callers share a transaction, and nobody pays for another's failure."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from serve import feedback as feedback_module
from serve.counts import Counts
from serve.feedback import Feedback
from serve.problems import ProblemError, field_path
from serve.session_cache import CachedSession, SessionCache
from serve.settings import ServeSettings
from sql.errors import StoreBusy, StoreUnavailable
from sql.events import Appended, EventKind, NewEvent


def event(number: int) -> NewEvent:
    return NewEvent(user_id="u", event_id=f"e{number}", kind=EventKind.VIEW, item_id="i")


def run_posts(
    monkeypatch: pytest.MonkeyPatch, append: Any, posts: int, **settings: Any
) -> list[Any]:
    monkeypatch.setattr(feedback_module, "append", append)

    async def scenario() -> list[Any]:
        feedback = Feedback(None, ServeSettings(**settings), lambda: 1)  # type: ignore[arg-type]
        feedback.start()
        waiting = [
            feedback.post([event(number)], keep_unknown_items=False) for number in range(posts)
        ]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        await feedback.stop()
        return list(answers)

    return asyncio.run(scenario())


def test_concurrent_posts_share_a_transaction_and_each_gets_its_own_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups: list[int] = []

    def append(_: Any, requests: Sequence[Sequence[NewEvent]], **__: Any) -> list[Any]:
        groups.append(len(requests))
        return [[Appended(request[0].event_id, 1, False)] for request in requests]

    answers = run_posts(monkeypatch, append, 20)
    assert groups == [20]
    assert [answer[0].event_id for answer in answers] == [f"e{n}" for n in range(20)]


def test_a_group_that_fails_is_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(_: Any, requests: Sequence[Sequence[NewEvent]], **__: Any) -> list[Any]:
        if len(requests) > 1 or requests[0][0].event_id == "e1":
            raise StoreBusy("db", "locked")
        return [[Appended(requests[0][0].event_id, 1, False)]]

    answers = run_posts(monkeypatch, append, 3)
    assert answers[0][0].event_id == "e0"
    assert isinstance(answers[1], ProblemError)
    assert answers[1].status == 503
    assert answers[2][0].event_id == "e2"


def test_a_database_that_is_gone_is_asked_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def append(_: Any, requests: Sequence[Sequence[NewEvent]], **__: Any) -> list[Any]:
        asked.append(len(requests))
        raise StoreUnavailable("db", "connection refused")

    answers = run_posts(monkeypatch, append, 3)
    assert asked == [3]  # each alone would take as long again, once a post
    assert [(answer.status, answer.retry_after_s) for answer in answers] == [(503, 1)] * 3


def test_a_transaction_that_hangs_is_answered_in_time_and_what_waits_behind_it_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go, asked = threading.Event(), []

    def append(_: Any, requests: Sequence[Sequence[NewEvent]], **__: Any) -> list[Any]:
        asked.append([request[0].event_id for request in requests])
        let_go.wait(20)
        return [[Appended(request[0].event_id, 1, False)] for request in requests]

    monkeypatch.setattr(feedback_module, "append", append)

    counts = Counts()

    async def scenario() -> list[Any]:
        settings = ServeSettings(commit_timeout_s=0.05, feedback_queue=1)
        feedback = Feedback(None, settings, lambda: 1, counts=counts)  # type: ignore[arg-type]
        feedback.start()
        answers = [
            await asyncio.gather(
                feedback.post([event(number)], keep_unknown_items=False), return_exceptions=True
            )
            for number in range(2)
        ]
        let_go.set()
        answers.append([await feedback.post([event(2)], keep_unknown_items=False)])
        await feedback.stop()
        return [answer for (answer,) in answers]

    first, second, third = asyncio.run(scenario())
    for refused in (first, second):
        assert (refused.status, refused.retry_after_s) == (503, 1)
        assert "not known" in refused.detail
    assert third[0].event_id == "e2"
    assert asked == [["e0"], ["e2"]]  # e1 was refused before its transaction began
    assert counts.events == {"stored": 2, "failed": 1}


def test_a_full_queue_is_refused_at_once_with_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    def append(_: Any, requests: Sequence[Sequence[NewEvent]], **__: Any) -> list[Any]:
        return [[Appended(request[0].event_id, 1, False)] for request in requests]

    answers = run_posts(monkeypatch, append, 3, feedback_queue=2)
    assert isinstance(answers[2], ProblemError)
    assert (answers[2].status, answers[2].retry_after_s) == (503, 1)
    assert answers[0][0].user_seq == 1


def test_the_path_of_a_field_reads_as_in_the_body() -> None:
    assert field_path(("body", "batch", "events", 3, "click", "item_id")) == "events[3].item_id"
    assert field_path(("query", "k")) == "k"


def test_a_session_of_an_erased_user_gives_way_to_the_new_one() -> None:
    class Fake:
        def __init__(self, user_seq: int) -> None:
            self.user_seq = user_seq

    cache = SessionCache(2)
    old, new = CachedSession(1, Fake(9)), CachedSession(2, Fake(1))  # type: ignore[arg-type]
    cache.put("g", "u", old)
    cache.put("g", "u", CachedSession(1, Fake(5)))  # type: ignore[arg-type]
    assert cache.of_user("u", ["g"]) == {"g": old}
    cache.put("g", "u", new)
    assert cache.of_user("u", ["g"]) == {"g": new}
    for user in ("a", "b"):
        cache.put("g", user, old)
    assert cache.of_user("u", ["g"]) == {}
