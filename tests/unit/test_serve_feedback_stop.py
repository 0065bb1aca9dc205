"""The one writer of a replica: it outlives what it cannot store, and leaves nobody waiting."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serve import feedback as feedback_module
from serve.feedback import Feedback
from serve.problems import ProblemError
from serve.settings import ServeSettings
from sql.events import Appended, EventKind, NewEvent, Problem, Rejected

Requests = Sequence[Sequence[NewEvent]]


def event(name: str) -> NewEvent:
    return NewEvent(user_id="u", event_id=name, kind=EventKind.VIEW, item_id="i")


def stored(_: Any, requests: Requests, **__: Any) -> list[Any]:
    return [[Appended(e.event_id, 1, False) for e in request] for request in requests]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Feedback]:
    def start(append: Any, **settings: Any) -> Feedback:
        monkeypatch.setattr(feedback_module, "append", append)
        made = Feedback(None, ServeSettings(**settings), lambda: 1)  # type: ignore[arg-type]
        made.start()
        return made

    return start


def test_a_bug_in_the_store_costs_its_post_and_not_the_writer(started: Any) -> None:
    def append(_: Any, requests: Requests, **__: Any) -> list[Any]:
        if any(e.event_id == "poison" for request in requests for e in request):
            raise OverflowError("int too large")
        return stored(_, requests)

    async def scenario() -> None:
        feedback = started(append)
        posts = [
            feedback.post([event(name)], keep_unknown_items=False) for name in ("a", "poison", "b")
        ]
        answers = await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), 5)
        assert isinstance(answers[1], ProblemError)
        assert answers[1].status == 503
        assert [answers[0][0].event_id, answers[2][0].event_id] == ["a", "b"]
        later = await asyncio.wait_for(feedback.post([event("c")], keep_unknown_items=False), 5)
        assert later == [Appended("c", 1, False)]
        await feedback.stop()

    asyncio.run(scenario())


def test_stopping_answers_the_group_in_flight_the_ones_behind_it_and_the_late(
    started: Any,
) -> None:
    entered, release = threading.Event(), threading.Event()

    def append(_: Any, requests: Requests, **__: Any) -> list[Any]:
        entered.set()
        release.wait(5)
        time.sleep(0.05)
        return stored(_, requests)

    async def scenario() -> None:
        feedback = started(append)
        flying = asyncio.create_task(feedback.post([event("a")], keep_unknown_items=False))
        await asyncio.to_thread(entered.wait, 5)
        behind = asyncio.create_task(feedback.post([event("b")], keep_unknown_items=False))
        await asyncio.sleep(0.01)
        stopping = asyncio.create_task(feedback.stop())
        await asyncio.sleep(0.01)
        release.set()
        await asyncio.wait_for(stopping, 5)
        await asyncio.sleep(0)
        assert flying.done(), "stop() waits for the transaction"
        assert await flying == [Appended("a", 1, False)]
        with pytest.raises(ProblemError, match="events were not stored"):
            await asyncio.wait_for(behind, 5)
        with pytest.raises(ProblemError, match="events were not stored"):
            await asyncio.wait_for(feedback.post([event("c")], keep_unknown_items=False), 5)

    asyncio.run(scenario())


def test_a_group_has_a_size_and_each_caller_its_own_rule(started: Any) -> None:
    groups: list[tuple[int, list[bool]]] = []

    def append(_: Any, requests: Requests, **given: Any) -> list[Any]:
        groups.append((sum(map(len, requests)), given["keep_unknown_items"]))
        return stored(_, requests)

    async def scenario() -> None:
        feedback = started(append, group_commit_events=5)
        posts = [
            feedback.post([event(f"{n}{m}") for m in range(2)], keep_unknown_items=n % 2 == 0)
            for n in range(5)
        ]
        posts.append(feedback.post([event(f"big{m}") for m in range(9)], keep_unknown_items=False))
        answers = await asyncio.gather(*posts)
        assert [len(answer) for answer in answers] == [2] * 5 + [9]
        await feedback.stop()

    asyncio.run(scenario())
    assert groups == [(4, [True, False]), (4, [True, False]), (2, [True]), (9, [False])]


def test_a_refusal_is_of_one_caller_and_a_caller_who_left_is_no_trouble(started: Any) -> None:
    refusal = Rejected((Problem(0, "item_id", "i", "an item of the catalog", 404),))

    def append(_: Any, requests: Requests, **__: Any) -> list[Any]:
        return [refusal if r[0].event_id == "bad" else stored(_, [r])[0] for r in requests]

    async def scenario() -> None:
        feedback = started(append)
        posts = [
            asyncio.create_task(feedback.post([event(name)], keep_unknown_items=False))
            for name in ("gone", "bad", "good")
        ]
        await asyncio.sleep(0)
        posts[0].cancel()
        answers = await asyncio.gather(*posts, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [refusal, [Appended("good", 1, False)]]
        await feedback.stop()

    asyncio.run(scenario())
