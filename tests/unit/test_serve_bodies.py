"""A body is bounded in size, time and depth before it is parsed."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive

from serve.bodies import MAX_DEPTH, Bodies, check_json, depth
from serve.problems import ProblemError

JSON = [(b"content-type", b"application/json")]


def sender(*chunks: bytes, stalls: bool = False) -> Receive:
    waiting = list(chunks)

    async def receive() -> Message:
        if stalls and not waiting:
            await asyncio.Event().wait()
        chunk = waiting.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": stalls or bool(waiting)}

    return receive


def status_of(bodies: Bodies, receive: Receive, headers: object = ()) -> int:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(bodies.read({"type": "http", "headers": list(headers)}, receive))
    return caught.value.status


def test_a_body_is_read_whole_and_held_until_it_is_let_go() -> None:
    bodies = Bodies(10, 100, 5.0)
    scope = {"type": "http", "headers": []}
    body = asyncio.run(bodies.read(scope, sender(b"abc", b"", b"defg")))
    assert (body, bodies.held_bytes) == (b"abcdefg", 7)
    bodies.let_go(body)
    assert bodies.held_bytes == 0


def test_a_body_too_large_is_413_by_its_length_or_as_it_comes_and_nothing_is_held() -> None:
    bodies = Bodies(10, 100, 5.0)
    assert status_of(bodies, sender(b"x"), [(b"content-length", b"11")]) == 413
    assert status_of(bodies, sender(b"x"), [(b"content-length", b"9" * 5_000)]) == 413
    assert status_of(bodies, sender(b"x" * 6, b"x" * 5)) == 413
    assert bodies.held_bytes == 0


def test_a_body_that_dribbles_is_408_and_nothing_is_held() -> None:
    bodies = Bodies(10, 100, 0.01)
    assert status_of(bodies, sender(b"x", b"y", stalls=True)) == 408
    assert bodies.held_bytes == 0


def test_many_bodies_at_once_are_503_beyond_the_bound_of_memory() -> None:
    bodies = Bodies(10, 15, 5.0)
    held = asyncio.run(bodies.read({"type": "http", "headers": []}, sender(b"x" * 10)))
    assert status_of(bodies, sender(b"y" * 6)) == 503
    bodies.let_go(held)
    assert asyncio.run(bodies.read({"type": "http", "headers": []}, sender(b"y" * 6))) == b"y" * 6


def counted(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inner, list):
        return 0
    return 1 + max(map(counted, inner), default=0)


texts = st.text(st.sampled_from('[]{}"\\,:a\n'), max_size=8)
values = st.recursive(
    texts | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=40,
)


@given(values, st.integers(MAX_DEPTH + 1, 60))
def test_the_depth_is_that_of_the_value_whatever_its_strings_hold(value: object, more: int) -> None:
    # Enough brackets that they are not merely counted.
    wide = [value, [[]] * more]
    assert depth(json.dumps(wide).encode()) == counted(wide)


def test_no_body_takes_more_than_one_pass() -> None:
    # With a pattern that goes back, each of these takes minutes.
    for body in (
        b'"' + b'\\"' * 500_000 + b"[" * 40,
        b"[" * 40 + b'"\\' * 500_000,
        b"[" * 1_000_000,
    ):
        assert depth(body) >= 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * 33 + b"]" * 33, "at most 32"),
        (b"[" * 1_000_000, "at most 32"),
        (b'{"a":1,"b":2,"a":3}', "'a' is repeated"),
        (b'{"a":{"b":1,"b":1}}', "'b' is repeated"),
        (b"{" + b",".join(b'"%x":0' % n for n in range(100_000)) + b"}", "at most 64 keys"),
        (b'{"a":[[' + b"0," * 1_000 + b"0]]}", "at most 1000 members"),
        (b"[" + b"{}," * 1_000 + b"{}]", "at most 1000 members"),
        (b'"\xff"', "byte 1"),
        (b'{"a":', "Expecting value"),
        (b"1" * 5_000, "4300"),
        ('\ufeff{"a":1}'.encode(), "BOM"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
        (b"[\0[\0[\0", "JSON"),
    ],
)
def test_what_is_not_plain_json_is_422_and_says_why(body: bytes, says: str) -> None:
    with pytest.raises(ProblemError) as caught:
        check_json(JSON, body)
    assert caught.value.status == 422
    assert says in caught.value.errors[0].accepted


def test_what_is_plain_json_passes() -> None:
    for body in (b"[" * 32 + b"]" * 32, b'{"a":{"a":NaN}}', b'"\\ud800"', b"1e999"):
        check_json(JSON, body)


@pytest.mark.parametrize(
    "value",
    [
        *("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"),
        *("application/jsonx", "text/json", "application/json; charset=utf-16", "json", "\xff"),
    ],
)
def test_another_content_type_is_415_and_names_the_one(value: str) -> None:
    with pytest.raises(ProblemError) as caught:
        check_json([(b"content-type", value.encode("latin-1"))] if value else [], b"{}")
    assert caught.value.status == 415
    assert "application/json" in str(caught.value.hint)


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/problem+json;charset=utf8",
    ],
)
def test_json_by_any_of_its_names_passes(value: str) -> None:
    check_json([(b"content-type", value.encode())], b"{}")
