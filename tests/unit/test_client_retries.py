"""The retry table of `infra.client.retry`, row by row, on a clock that is advanced, not slept."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from infra.client import (
    ApiError,
    Conflict,
    Gone,
    Invalid,
    LimitReached,
    Moonlark,
    NotAllowed,
    NotFound,
    RetryPolicy,
    ServerFailed,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from infra.client.retry import OUR_HEADER

OURS = {OUR_HEADER: "r-1", "Content-Type": "application/problem+json"}
STORED = {
    "events": [{"event_id": "e1", "user_id": "u1", "user_seq": 1, "duplicate": False}],
    "request_id": "r-1",
}
CLICK = {"user_id": "u1", "kind": "click", "item_id": "i1"}


@dataclass
class Clock:
    """Time that passes only in `sleep`."""

    now_s: float = 100.0
    slept_s: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def policy(self, max_tries: int = 12) -> RetryPolicy:
        return RetryPolicy(
            max_tries=max_tries, clock=lambda: self.now_s, sleep=self.sleep, jitter=lambda: 0.0
        )


class Server:
    """Gives the answers in order, the last one forever; keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def problem(status: int, **headers: str) -> httpx.Response:
    document = {
        "title": "no",
        "status": status,
        "detail": "because",
        "errors": [{"field": "k", "value": 0, "accepted": "1 to 500"}],
        "hint": "try k=1",
    }
    return httpx.Response(status, headers={**OURS, **headers}, json=document)


def stored() -> httpx.Response:
    return httpx.Response(200, headers={OUR_HEADER: "r-1"}, json=STORED)


def connect(server: Server, clock: Clock, **options: float) -> Moonlark:
    return Moonlark(
        "http://moonlark.test",
        retry=clock.policy(),
        transport=httpx.MockTransport(server),
        **options,
    )


@pytest.mark.parametrize(
    "first",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("server disconnected"),
        httpx.ReadTimeout("slow"),
        httpx.Response(404, text="<html>not found</html>"),
        httpx.Response(429),
        httpx.Response(500),
        httpx.Response(502),
        httpx.Response(504),
        problem(503),
        problem(503, **{"Retry-After": "1"}),
        problem(429, **{"Retry-After": "1"}),
    ],
    ids=lambda answer: f"{getattr(answer, 'status_code', type(answer).__name__)}",
)
def test_what_is_not_moonlarks_last_word_is_tried_again(
    first: httpx.Response | Exception,
) -> None:
    server = Server(first, stored())
    answer = connect(server, Clock()).post_events([CLICK])
    assert answer.events[0].user_seq == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Invalid),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotFound),
        (405, Invalid),
        (409, Conflict),
        (410, Gone),
        (413, Invalid),
        (422, Invalid),
        (429, LimitReached),  # without Retry-After: the limit of a day
        (500, ServerFailed),
    ],
)
def test_moonlarks_own_refusal_is_final(status: int, error: type[ApiError]) -> None:
    server, clock = Server(problem(status)), Clock()
    with pytest.raises(error) as caught:
        connect(server, clock).post_events([CLICK])
    assert type(caught.value) is error
    assert len(server.requests) == 1
    assert clock.slept_s == []


def test_an_error_carries_the_problem_documents_fields() -> None:
    with pytest.raises(Invalid) as caught:
        connect(Server(problem(422)), Clock()).post_events([CLICK])
    error = caught.value
    assert (error.status, error.title, error.detail) == (422, "no", "because")
    assert error.hint == "try k=1"
    assert error.request_id == "r-1"
    assert [(e.field, e.value, e.accepted) for e in error.errors] == [("k", 0, "1 to 500")]
    assert "k = 0: accepted is 1 to 500" in str(error)


def test_a_retried_post_sends_the_very_same_event_ids() -> None:
    server = Server(httpx.ReadTimeout("slow"), httpx.Response(502), stored())
    connect(server, Clock()).post_events([CLICK, {**CLICK, "event_id": "mine"}])
    sent = [json.loads(request.content)["events"] for request in server.requests]
    assert len(sent) == 3
    assert sent[0] == sent[1] == sent[2]
    assert len(sent[0][0]["event_id"]) == 32
    assert sent[0][1]["event_id"] == "mine"
    # A retry that comes after an erasure must still say that it happened before.
    assert datetime.fromisoformat(sent[0][0]["occurred_at"]).tzinfo is not None


def test_retry_after_is_waited_for_in_both_its_forms() -> None:
    in_three = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    clock = Clock()
    server = Server(
        problem(503, **{"Retry-After": "2"}), problem(503, **{"Retry-After": in_three}), stored()
    )
    connect(server, clock).post_events([CLICK])
    assert clock.slept_s[0] == 2.0
    assert 1.5 <= clock.slept_s[1] <= 3.0


def test_a_retry_after_beyond_the_deadline_fails_at_once() -> None:
    server, clock = Server(problem(503, **{"Retry-After": "60"})), Clock()
    with pytest.raises(Unavailable):
        connect(server, clock, timeout_s=10).post_events([CLICK])
    assert len(server.requests) == 1
    assert clock.slept_s == []


def test_the_deadline_bounds_all_tries_together() -> None:
    clock = Clock()

    def slow(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"]["read"])
        clock.now_s += 3
        raise httpx.ReadTimeout("slow")

    timeouts: list[float] = []
    client = Moonlark(
        "http://moonlark.test",
        timeout_s=10,
        retry=clock.policy(),
        transport=httpx.MockTransport(slow),
    )
    with pytest.raises(Unreachable) as caught:
        client.status()
    assert caught.value.tries == 4
    # each try may last its share, and no longer than what is left of the ten seconds
    assert timeouts == pytest.approx([3.0, 3.0, 3.0, 0.3])
    timeouts.clear()
    with pytest.raises(Unreachable):
        client.put_items([{"item_id": "i1", "title": "long to embed"}])
    assert timeouts[0] == pytest.approx(10.0)


def test_the_number_of_tries_is_bounded() -> None:
    server, clock = Server(httpx.ConnectError("refused")), Clock()
    client = Moonlark(
        "http://moonlark.test",
        timeout_s=1e6,
        retry=clock.policy(max_tries=5),
        transport=httpx.MockTransport(server),
    )
    with pytest.raises(Unreachable) as caught:
        client.status()
    assert len(server.requests) == 5
    assert clock.slept_s == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert caught.value.hint
    assert "moonlark serve" in caught.value.hint


def test_a_proxys_404_that_stays_is_never_reported_as_a_missing_item() -> None:
    with pytest.raises(Unreachable):
        connect(Server(httpx.Response(404)), Clock()).item("i1")


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"live": 3}', b"[]"], ids=["no JSON", "another shape", "a list"]
)
def test_an_answer_that_is_not_understood_says_so(body: bytes) -> None:
    server = Server(httpx.Response(200, headers={OUR_HEADER: "r"}, content=body))
    with pytest.raises(UnexpectedAnswer) as caught:
        connect(server, Clock()).status()
    assert caught.value.hint
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda m: m.post_events([]), "events"),
        (lambda m: m.post_events([CLICK] * 501), "events"),
        (lambda m: m.put_items([]), "items"),
        (lambda m: m.recommend("u", as_of=datetime(2026, 1, 1)), "as_of"),
        (lambda m: m.post_events([{**CLICK, "occurred_at": datetime(2026, 1, 1)}]), "occurred_at"),
        (lambda m: m.post_events([{**CLICK, "value": float("nan")}]), "JSON"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is_sent(
    call: Callable[[Moonlark], object], field: str
) -> None:
    server = Server(stored())
    with pytest.raises(ValueError, match=field):
        call(connect(server, Clock()))
    assert server.requests == []


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", ""])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Moonlark(url)
