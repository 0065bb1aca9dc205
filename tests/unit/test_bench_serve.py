"""The bench `serve`, without its stack: the made store is one that the day opens, the floors read
it, wrong answers are found out, and what the page says comes from the figures."""

from pathlib import Path

import numpy as np
import orjson
import pytest

from infra.bench.process_memory import ProcessMemory
from infra.bench.report import Ratio
from infra.bench.rounds import in_turn
from infra.bench.serving.floors import (
    commits_alone,
    recall_alone,
    search_alone,
    snapshot_alone,
)
from infra.bench.serving.made_catalog import user_id
from infra.bench.serving.made_store import GENERATION, MadeStore, build
from infra.bench.serving.page import ratios, tables, wrong
from infra.bench.serving.phases import BARE, Figures, Loop
from infra.bench.serving.requests import Asker
from infra.bench.serving.sender import Sent, Visit, _what_is_wrong, pooled
from ray_jobs.encoders.fold import user_vector
from ray_jobs.encoders.session import Session
from ray_jobs.shards.search import live_vectors_of, search
from serve.loaded_generation import LoadedGeneration
from sql.engine import open_engine
from sql.snapshot import read_recommendation

ITEMS, USERS = 400, 30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MadeStore:
    folder = tmp_path_factory.mktemp("made")
    build(folder, ITEMS, USERS, "made", 24)
    return MadeStore(folder, ITEMS, USERS)


def test_a_made_user_is_near_to_what_they_did(store: MadeStore, tmp_path: Path) -> None:
    engine = open_engine(store.copy_sqlite(tmp_path / "run.db"))
    generation = LoadedGeneration.open(store.root, GENERATION)
    assert generation.priors is not None
    everything = np.arange(ITEMS, dtype=np.int64)
    _, vectors_ND = live_vectors_of(generation.shards, generation.view.delta, everything)
    nearer = []
    for number in range(USERS):
        found = read_recommendation(engine, user_id(number), [GENERATION], {GENERATION: "made"})
        assert found.base == "session"
        assert found.session is not None
        session = Session.from_bytes(found.session.state)
        vector_D = user_vector(generation.encoder, session)
        assert vector_D is not None
        assert len(search(generation.shards, generation.view.delta, vector_D, 20)[0]) == 20
        cosines = vectors_ND @ vector_D
        nearer.append((cosines[session.recent[-5:]].mean() - cosines.mean()) / cosines.std())
    assert np.mean(nearer) > 1, "all of a small catalog lies in one topic"
    engine.dispose()


def test_the_floors_run_on_a_copy_of_the_store(store: MadeStore, tmp_path: Path) -> None:
    url = store.copy_sqlite(tmp_path / "run.db")
    engine = open_engine(url)
    users = [user_id(number) for number in range(5)]
    calls = {
        "search": search_alone(engine, store.directory, users, 20),
        "snapshot": snapshot_alone(url, users),
    }
    times = in_turn(calls, rounds=2, label="floors")
    assert all(found.wall_s > 0 for found in times.values())
    assert recall_alone(engine, store.directory, users, 20) == 1, (
        "a small catalog's shards are exact"
    )
    assert len(commits_alone(url, tmp_path, rate=200.0, seconds=0.1, seed=1)) == 20
    engine.dispose()


def test_an_answer_that_breaks_a_promise_is_found_out() -> None:
    def bodies(user_seq: int, shown: str, degraded: list[str]) -> list[bytes]:
        answer = {"user_seq": user_seq, "items": [{"item_id": shown}], "degraded": degraded}
        return [orjson.dumps({"events": [{"user_seq": 7}]}), orjson.dumps(answer)]

    visit = Visit((), "i1", listed=1)
    assert _what_is_wrong(bodies(7, "i2", []), visit) is None
    assert "older" in str(_what_is_wrong(bodies(6, "i2", []), visit))
    assert "clicked" in str(_what_is_wrong(bodies(7, "i1", []), visit))
    assert "degraded" in str(_what_is_wrong(bodies(7, "i2", ["user_behind"]), visit))
    assert "1 items instead of 20" in str(_what_is_wrong(bodies(7, "i2", []), Visit((), "", 20)))
    # A list alone, of a user whose event was stored before.
    assert _what_is_wrong(bodies(0, "i2", [])[1:], visit) is None
    assert "clicked" in str(_what_is_wrong(bodies(0, "i1", [])[1:], visit))


def test_requests_are_http_with_the_key() -> None:
    asker = Asker("secret", "run")
    visit = asker.visit(3, 4, 5)
    head, _, body = visit.requests[0].partition(b"\r\n\r\n")
    assert b"authorization: Bearer secret" in head
    assert f"content-length: {len(body)}".encode() in head
    assert orjson.loads(body) == {
        "user_id": "u3",
        "kind": "click",
        "item_id": "i4",
        "event_id": "run-5",
    }
    assert (visit.clicked, visit.listed) == ("i4", 20)


def loop(count: int, cpu_ms: float, group: str, wall_s: float = 1.0) -> Loop:
    ends = np.full((count, 1), 0.01)
    return Loop([Sent(ends, {}, wall_s, 0.0)], {group: count * cpu_ms / 1000})


def made_figures() -> Figures:
    two = Sent(np.array([[0.01, 0.03], [0.02, 0.04]]), {}, 1.0, 0.0)
    one = Sent(np.full((10, 1), 0.004), {}, 1.0, 0.0)
    return Figures(
        loops={
            "lists": loop(500, 2.6, "gateway"),
            "noop": loop(1000, 0.4, "noop"),
            "noop fastapi": loop(900, 0.5, "noop fastapi"),
            "events": loop(700, 1.0, "gateway"),
            "batches": loop(120, 9.0, "gateway", wall_s=2.0),
            "visits": loop(90, 4.0, "gateway"),
            BARE: loop(4000, 0.1, BARE),
        },
        floors={"search": 1.5, "snapshot": 0.1},
        at_half={"lists": one, "noop": one, "visits": two, "events": one},
        searches=two,
        commits_s=[0.002] * 10,
        stored=11_000,
        distinct=11_000,
        idle=ProcessMemory(2, 1),
        worked=ProcessMemory(4, 3),
    )


def test_the_ratios_are_those_of_the_figures() -> None:
    figures = made_figures()
    found = {
        ratio.name.partition(": ")[2]: ratio
        for ratio in ratios("made", figures, is_judged=True, is_smaller=True)
    }
    assert found["a recommendation"].value == pytest.approx(2.6 / (0.4 + 1.5 + 0.1))
    assert found["a recommendation"].is_reached
    assert found["recommendations/s"].value == pytest.approx(0.5)
    assert found["acknowledgement"].value == pytest.approx(2.0)
    assert found["events in batches"].value == pytest.approx(0.55)  # a post twice is stored once
    assert found["stored"].is_reached
    assert found["event to answer"].value == pytest.approx(0.04 / 0.05)
    assert found["refused or wrong"].is_reached
    figures.stored += 1  # one was applied twice
    again = ratios("made", figures, is_judged=True, is_smaller=True)
    assert not next(ratio for ratio in again if ratio.name.endswith("stored")).is_reached
    unjudged = ratios("made", figures, is_judged=False, is_smaller=False)
    assert not any(ratio.goal for ratio in unjudged)
    assert len(tables("made", figures)) == 3
    assert not wrong("made", figures)


def test_one_refusal_in_ten_is_no_p99() -> None:
    figures = made_figures()
    figures.at_half["events"] = Sent(np.full((9, 1), 0.004), {"503 b''": 1}, 1.0, 0.0)
    found = {
        ratio.name.partition(": ")[2]: ratio
        for ratio in ratios("made", figures, is_judged=True, is_smaller=False)
    }
    assert found["acknowledgement"].value == float("inf")
    assert not found["acknowledgement"].is_reached
    assert not found["refused or wrong"].is_reached
    assert any("1 times 503" in told for told in wrong("made", figures))
    rows = {row[0]: row for row in tables("made", figures)[2].rows}
    assert rows["event, acknowledged"][2:] == ("4.0", "refused")
    kept = found["acknowledgement"].model_dump_json()
    assert Ratio.model_validate_json(kept) == found["acknowledgement"]


def test_rounds_are_pooled_with_what_failed_in_them() -> None:
    whole = pooled(
        [
            Sent(np.array([[0.1, 0.2]]), {"0 b''": 1}, 1.0, 0.1),
            Sent(np.array([[0.3, 0.6], [0.3, 0.5]]), {"0 b''": 1, "503 b''": 1}, 3.0, 0.2),
        ]
    )
    assert (whole.sent, whole.failed, whole.per_s) == (6, 3, 0.75)
    assert whole.whole_ms(0.4) == pytest.approx(600)
    assert whole.part_ms(1, 0.4) == pytest.approx(300)
    assert whole.part_ms(1, 0.5) == float("inf")
