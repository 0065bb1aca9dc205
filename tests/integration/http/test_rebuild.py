"""`moonlark explain`: a past answer is rebuilt, whatever happened since, or it is said why not."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select, update
from typer.testing import CliRunner, Result

from infra.cli.explain import WAIT_S, NoExposure, wait_for_exposure
from infra.cli.main import app
from ray_jobs.ranking.explain import TOLERANCE
from serve.day import Day
from sql.engine import read_snapshot
from sql.exposures import Exposure, ShownItem, write_exposures
from sql.tables import events, exposures, item_vectors
from sql.transactions import write
from tests.integration.http.conftest import ITEMS, Stack
from tests.integration.http.test_anonymous import history


@pytest.fixture(autouse=True)
def _environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    url = stack.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("MOONLARK_DATABASE_URL", url)
    monkeypatch.setenv("MOONLARK_ARTIFACT_ROOT", str(stack.root))


def post(stack: Stack, *new: dict[str, Any]) -> None:
    body = {"events": [{"user_id": "u", **event} for event in new]}
    answer = stack.replicas[0].post("/v1/events", json=body)
    assert answer.status_code == 200, answer.text


def asked(stack: Stack, user: str = "u", **params: Any) -> dict[str, Any]:
    answer = stack.replicas[1].get(f"/v1/users/{user}/recommendations", params={"k": 8, **params})
    assert answer.status_code == 200, answer.text
    day: Day = stack.replicas[1].app.state.day  # type: ignore[attr-defined]
    day.write_behind.flush()
    body: dict[str, Any] = answer.json()
    return body


def explain(stack: Stack, request_id: str, status: int = 0) -> tuple[dict[str, Any], Result]:
    shown, told = (
        CliRunner().invoke(app, ["explain", request_id, *form]) for form in ([], ["--json"])
    )
    assert shown.exit_code == told.exit_code == status, shown.output
    document: dict[str, Any] = json.loads(told.stdout) if told.stdout else {}
    return document, shown


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_past_answer_is_rebuilt_after_more_events_edits_deletes_and_a_switch(
    stack: Stack, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    answers = []
    for number, event in enumerate(history(rng, 40)):
        post(stack, event)
        if number % 6 == 0:
            item_id = f"i{rng.integers(20)}"
            put = stack.replicas[0].put(f"/v1/items/{item_id}", json={"title": f"rose {number}"})
            assert put.status_code == 200, put.text
            answers.append(asked(stack, offset=number % 4))
    for number in range(20, 30):
        assert stack.replicas[0].delete(f"/v1/items/i{number}").status_code == 200
    assert stack.replicas[0].put("/v1/items/i21", json={"title": "another"}).status_code == 200
    stack.publish("g2", seed=2)
    stack.wait_until_loaded("g2")
    stack.flip("g2")
    answers.append(asked(stack))
    post(stack, {"kind": "click", "item_id": "i2"})
    assert {answer["generation"] for answer in answers} == {"g1", "g2"}
    for answer in answers:
        document, result = explain(stack, answer["request_id"])
        assert document["agrees"]
        assert document["reasons"] == []
        assert document["max_abs_difference"] <= TOLERANCE
        for name in ("generation", "user_seq", "catalog_seq", "degraded", "request_id"):
            assert document[name] == answer[name]
        assert document["user_id"] == "u"
        assert document["events"] == answer["user_seq"] >= document["effective_events"]
        shown = [(item["item_id"], item["score"]) for item in document["items"]]
        assert shown == [(item["item_id"], item["score"]) for item in answer["items"]]
        for item in document["items"]:
            assert item["parts"] == {"cosine": item["score"]}
            assert abs(item["rebuilt_cosine"] - item["score"]) <= TOLERANCE
            assert item["item_id"] in result.output


def test_boosts_and_pins_are_parts_of_the_explanation_and_of_the_past_answer(
    stack: Stack,
) -> None:
    for name, policy in (
        ("b", {"kind": "boost", "weight": 0.5, "attribute": {"name": "n", "value": 3}}),
        ("p", {"kind": "pin", "item_id": "i9", "position": 2}),
    ):
        assert stack.replicas[0].put(f"/v1/policies/{name}", json=policy).status_code == 200
    click = {"kind": "click", "item_id": "i1"}
    post(stack, click)
    answer = asked(stack, k=12, explain=True)
    parts = [item["explanation"]["parts"] for item in answer["items"]]
    for item, part in zip(answer["items"], parts, strict=True):
        total = part["cosine"] + part["boost"]
        assert abs(item["score"] - total) < 1e-6
    assert {part["boost"] for part in parts} == {0.0, 0.5}
    assert [part["pin"] for part in parts] == [0, 2, *[0] * 10]
    assert answer["items"][1]["item_id"] == "i9"
    body = {"events": [click], "k": 12, "explain": True}
    (inline,) = stack.replicas[0].post("/v1/recommendations", json=body).json()["results"]
    ours = [(i["item_id"], i["score"], i["explanation"]["parts"]) for i in inline["items"]]
    theirs = [(i["item_id"], i["score"], i["explanation"]["parts"]) for i in answer["items"]]
    assert ours == theirs
    assert inline["policy_seq"] == answer["policy_seq"] == 2
    for name in ("b", "p"):
        assert stack.replicas[0].delete(f"/v1/policies/{name}").status_code == 200
    document, result = explain(stack, answer["request_id"])
    stored = [{name: value for name, value in part.items() if value} for part in parts]
    assert [item["parts"] for item in document["items"]] == stored
    assert document["params"]["policy_seq"] == 2
    assert "policy_seq 2" in result.output
    assert document["max_abs_difference"] <= TOLERANCE


def test_a_stored_score_that_is_not_the_folds_ends_with_1(stack: Stack) -> None:
    post(stack, {"kind": "click", "item_id": "i1"})
    answer = asked(stack)
    with write(stack.engine) as conn:
        stored = json.loads(conn.execute(exposures.select()).one()._mapping["items"])
        stored[2][3]["cosine"] += 0.001
        conn.execute(update(exposures).values(items=json.dumps(stored)))
    document, result = explain(stack, answer["request_id"], status=1)
    assert not document["agrees"]
    assert abs(document["max_abs_difference"] - 0.001) < TOLERANCE
    differences = [abs(item["difference"]) > TOLERANCE for item in document["items"]]
    assert differences == [number == 2 for number in range(8)]
    assert "are not the stored ones" in result.output


def test_what_retention_took_is_said(stack: Stack) -> None:
    search = {"kind": "search", "text": "space battle"}
    post(stack, {"kind": "click", "item_id": "i1"}, search, {"kind": "click", "item_id": "i2"})
    assert stack.replicas[0].put("/v1/items/i5", json={"title": "garden"}).status_code == 200
    answer = asked(stack, k=ITEMS)
    with write(stack.engine) as conn:
        conn.execute(delete(events).where(events.c.user_seq == 1))
        conn.execute(delete(item_vectors))
    document, _ = explain(stack, answer["request_id"], status=1)
    said = "; ".join(document["reasons"])
    assert "1 of the 3 events are gone (retention)" in said
    assert "the texts of 1 items are gone" in said
    (gone,) = (item for item in document["items"] if item["item_id"] == "i5")
    assert gone["rebuilt_cosine"] is gone["difference"] is None


def test_texts_that_were_not_embedded_at_the_time_are_said(stack: Stack) -> None:
    stack.bert_is_there = False
    post(stack, {"kind": "click", "item_id": "i1"}, {"kind": "search", "text": "space battle"})
    marked = asked(stack)
    assert marked["degraded"] == ["text_not_embedded"]
    stack.bert_is_there = True
    healed = asked(stack)
    document, result = explain(stack, marked["request_id"], status=1)
    assert document["reasons"] == ["texts that were not embedded at the time are now"]
    assert "degraded: text_not_embedded" in result.output
    assert explain(stack, healed["request_id"])[0]["reasons"] == []


def test_a_list_by_popularity_says_that_there_is_no_cosine_in_it(stack: Stack) -> None:
    document, result = explain(stack, asked(stack, user="new")["request_id"])
    assert document["max_abs_difference"] is None
    assert document["user_id"] is None
    assert "by popularity" in result.output
    assert all("popularity" in item["parts"] for item in document["items"])


def test_a_score_is_recorded_as_it_was_answered_in_the_fewest_digits(stack: Stack) -> None:
    post(stack, {"kind": "click", "item_id": "i1"})
    answer = asked(stack)
    with read_snapshot(stack.engine) as conn:
        items = json.loads(conn.execute(select(exposures.c["items"])).scalar_one())
    stored = [score for _, score, *_ in items]
    assert [float(np.float32(score)) for score in stored] == [i["score"] for i in answer["items"]]
    assert all(len(f"{abs(score)!r}") < len("0.1234567890") for score in stored)


def test_an_exposure_of_0_1_is_rebuilt_by_its_scores(stack: Stack) -> None:
    post(stack, {"kind": "click", "item_id": "i1"})
    answer = asked(stack)
    with write(stack.engine) as conn:
        old = [[item["item_id"], item["score"]] for item in answer["items"]]
        conn.execute(update(exposures).values(items=json.dumps(old)))
    document, _ = explain(stack, answer["request_id"])
    assert len([item for item in document["items"] if item["difference"] is not None]) == 8


def test_without_the_files_or_the_exposure_the_next_command_is_named(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("infra.cli.explain.WAIT_S", 0.0)
    _, missing = explain(stack, "nothing", status=3)
    assert "no answer with request_id 'nothing'" in missing.output
    post(stack, {"kind": "click", "item_id": "i1"})
    answer = asked(stack)
    shutil.move(tmp_path / "generations" / "g1", tmp_path / "elsewhere")
    _, gone = explain(stack, answer["request_id"], status=1)
    assert "g1 are gone" in gone.output
    assert "moonlark generations" in gone.output
    shutil.move(tmp_path / "elsewhere", tmp_path / "generations" / "g1")
    assert stack.replicas[0].delete("/v1/users/u").status_code == 200
    explain(stack, answer["request_id"], status=3)


def test_an_exposure_that_is_about_to_be_written_is_waited_for(stack: Stack) -> None:
    late = Exposure("late", None, "g1", 0, ITEMS, 1, [ShownItem("i1", 0.5)])
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 1:
            write_exposures(stack.engine, [late])

    found = wait_for_exposure(stack.engine, "late", sleep=sleep, clock=lambda: now[0])
    assert found == late
    assert 1 < now[0] < WAIT_S
    with pytest.raises(NoExposure, match="'never'"):
        wait_for_exposure(stack.engine, "never", sleep=sleep, clock=lambda: now[0])


@pytest.mark.parametrize("as_of", ["2020-01-01T00:00:00Z", "9000-01-01T00:00:00Z"])
def test_an_exposure_is_as_old_as_its_answer_whatever_moment_was_asked_for(
    stack: Stack, as_of: str
) -> None:
    post(stack, {"kind": "click", "item_id": "i1"})
    asked(stack, as_of=as_of)
    with read_snapshot(stack.engine) as conn:
        (at_ms,) = conn.execute(select(exposures.c.at_ms)).scalars()
    assert abs(at_ms - time.time() * 1000) < 600_000, "retention goes by it"
