"""`MOONLARK_LOG=json`: a line a request or a step, that a machine reads, and nobody in it."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from infra.drills.local import LocalStore, api_of, local_store
from infra.drills.small_night import open_small_night
from ray_jobs.nightly.step import Night, Report, run_step
from serve.request_log import line, note
from sql import generations

CLIENT = "httpx2"
"""Who logs what the test client of Starlette asks for."""
AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)


def test_a_request_is_told_with_what_answered_it_and_without_who_asked() -> None:
    state = {"request_id": "r1", "key": "a secret", "route": "x"}
    answer = {
        "user_id": "anna",
        "items": [{"item_id": "i1", "title": "a film"}],
        "generation": "g7",
        "user_seq": 12,
        "catalog_seq": 3,
        "degraded": ["shard_gone"],
    }
    note(state, answer)
    told = line(state, "/v1/users/{user_id}/recommendations", "GET", 200, 0.0031, AT)
    assert told.endswith(b"\n")
    assert json.loads(told) == {
        "at": "2026-01-02T03:04:05.678Z",
        "request_id": "r1",
        "route": "/v1/users/{user_id}/recommendations",
        "method": "GET",
        "status": 200,
        "ms": 3.1,
        "generation": "g7",
        "user_seq": 12,
        "catalog_seq": 3,
        "degraded": ["shard_gone"],
    }


def lines(said: str) -> list[dict[str, object]]:
    return [json.loads(each) for each in said.splitlines() if each.startswith("{")]


def test_a_replica_writes_a_line_for_each_request_only_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_store(items=20, seed=1) as store:
        store.publish("g0", 1)
        for log, expected in (("text", 0), ("json", 2)):
            monkeypatch.setenv("MOONLARK_LOG", log)
            with TestClient(api_of(store), base_url="http://127.0.0.1") as client:
                client.get("/v1/users/anna-at-home/recommendations")
                client.get("/v1/users/anna-at-home/recommendations?offset=1")
            said = capsys.readouterr().out
            told = lines(said)
            assert len(told) == expected
            assert "anna" not in said
    assert [each["generation"] for each in told] == ["g0", "g0"]
    assert [each["user_seq"] for each in told] == [0, 0]


def click(user_id: str, event_id: str) -> dict[str, str]:
    return {"kind": "click", "user_id": user_id, "item_id": "i3", "event_id": event_id}


ANNA, BOB = "anna-at-home", "bob-at-home"
ASKED: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("POST", "/v1/events", click(ANNA, "e1"), {"user_seq": 1}),
    ("POST", "/v1/events?on_unknown_item=keep", click(ANNA, "e2"), {"user_seq": 2}),
    ("POST", "/v1/events", {"events": [click(ANNA, "e3"), click(ANNA, "e4")]}, {"user_seq": 4}),
    ("POST", "/v1/events", {"events": [click(ANNA, "e5"), click(BOB, "e6")]}, {}),
    ("POST", "/v1/search", {"text": "anna", "user_id": ANNA}, {"generation": "g0", "user_seq": 5}),
    ("POST", "/v1/search", {"text": "anna"}, {"generation": "g0", "user_seq": 0}),
    ("GET", "/v1/items/i3/similar", None, {"generation": "g0"}),
    ("GET", "/v1/trending", None, {"generation": "g0"}),
    ("GET", f"/v1/users/{ANNA}", None, {"generation": "g0", "user_seq": 5}),
    ("POST", "/v1/recommendations", {"users": [ANNA, BOB]}, {"generation": "g0"}),
    (
        "POST",
        "/v1/recommendations",
        {"events": [{"kind": "click", "item_id": "i3"}]},
        {"generation": "g0"},
    ),
    ("PUT", "/v1/items/anna-1", {"title": "anna"}, {"catalog_seq": 21}),
    ("PUT", "/v1/items", {"items": [{"item_id": "anna-2", "title": "anna"}]}, {"catalog_seq": 22}),
    ("GET", "/v1/items/anna-2", None, {"catalog_seq": 22}),
    ("DELETE", "/v1/items/anna-1", None, {"catalog_seq": 23}),
]
"""A request, and what its line tells at least; a generation where one is named here alone."""

REFUSED: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/events", {**click(ANNA, "e7"), "kind": "anna"}, 422),
    ("POST", "/v1/events", {**click(ANNA, "e7"), "item_id": "anna-9"}, 422),
    ("POST", "/v1/search", {"text": "anna", "k": 0}, 422),
    ("GET", f"/v1/users/{ANNA}-else", None, 404),
    ("GET", "/v1/items/anna-9", None, 404),
]
"""A request, and its status."""


def test_each_line_tells_what_its_answer_was_made_of_and_names_nobody(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOONLARK_LOG", "json")
    # The client's, who may name whom it asks for, in a process where a test before logs all.
    monkeypatch.setattr(logging.getLogger(CLIENT), "disabled", True)
    with local_store(items=20, seed=1) as store:
        store.publish("g0", 1)
        with TestClient(api_of(store), base_url="http://127.0.0.1") as client:
            for method, path, body, _ in ASKED:
                answer = client.request(method, path, json=body)
                assert answer.status_code == 200, (path, answer.text)
            for method, path, body, status in REFUSED:
                assert client.request(method, path, json=body).status_code == status, path

            def broken(*_: object, **__: object) -> None:
                raise RuntimeError("a bug")

            monkeypatch.setattr("serve.feedback.append", broken)
            assert client.post("/v1/events", json=click(ANNA, "e8")).status_code == 503
    captured = capsys.readouterr()
    said = captured.out
    told = lines(said)[: len(ASKED)]
    others = [each["status"] for each in lines(said)[len(ASKED) :]]
    assert others == [*(status for *_, status in REFUSED), 503]
    assert "a post of 1 events was not stored" in caplog.text
    assert "anna" not in captured.err + caplog.text
    for (method, path, _, expected), line_told in zip(ASKED, told, strict=True):
        assert expected.items() <= line_told.items(), (method, path, line_told)
        assert ("generation" in line_told) == ("generation" in expected), (method, path)
    assert "user_seq" not in told[3], "of two users neither"
    assert "anna" not in said


def test_a_step_is_told_done_or_failed(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOONLARK_LOG", "json")
    with local_store(items=20, seed=1) as store:
        night = begun(store)
        run_step(night, "export", lambda _: {"events": 7})

        def broken(_: Night) -> Report:
            raise ValueError("the event of anna-at-home is bad")

        with pytest.raises(ValueError, match="anna"):
            run_step(night, "embed", broken)
    captured = capsys.readouterr()
    said = captured.out
    done, failed = lines(said)
    assert (done["step"], done["outcome"], done["rows"]) == ("export", "done", 7)
    assert (failed["step"], failed["outcome"], failed["error"]) == (
        "embed",
        "failed",
        "ValueError",
    )
    assert done["generation"] == failed["generation"] == "n1"
    assert "anna" not in said + captured.err + caplog.text


def begun(store: LocalStore) -> Night:
    night = open_small_night(store, "n1")
    generations.register(store.engine, "n1", encoder_id="e", catalog_seq=1, created_at_ms=1)
    return night
