"""`MOONLARK_LOG=json`: a line a request or a step, that a machine reads, and nobody in it."""

import json
from datetime import UTC, datetime

import pytest

from infra.drills.local import LocalStore, api_of, local_store
from infra.drills.small_night import open_small_night
from ray_jobs.nightly.step import Night, Report, run_step
from serve.request_log import line, note
from sql import generations

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
    from fastapi.testclient import TestClient

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


def test_a_step_is_told_done_or_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLARK_LOG", "json")
    with local_store(items=20, seed=1) as store:
        night = begun(store)
        run_step(night, "export", lambda _: {"events": 7})

        def broken(_: Night) -> Report:
            raise ValueError("the event of anna-at-home is bad")

        with pytest.raises(ValueError, match="anna"):
            run_step(night, "embed", broken)
    said = capsys.readouterr().out
    done, failed = lines(said)
    assert (done["step"], done["outcome"], done["rows"]) == ("export", "done", 7)
    assert (failed["step"], failed["outcome"], failed["error"]) == (
        "embed",
        "failed",
        "ValueError",
    )
    assert done["generation"] == failed["generation"] == "n1"
    assert "anna" not in said


def begun(store: LocalStore) -> Night:
    night = open_small_night(store, "n1")
    generations.register(store.engine, "n1", encoder_id="e", catalog_seq=1, created_at_ms=1)
    return night
