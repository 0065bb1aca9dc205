"""`moonlark doctor` names each fault that is put into a store, and says nothing of a sound one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, text, update
from typer.testing import CliRunner

from infra.cli import doctor
from infra.cli.main import app
from infra.doctor.artefacts import full_since_ms, look_at_artefacts
from infra.doctor.day import HEADER, NOTHING_KNOWN, Known, look_at_day
from infra.doctor.findings import Finding, Look, agreed
from infra.doctor.store import known_to, look_at_store, open_store
from infra.drills.catalog import item_put
from infra.drills.local import LocalStore, local_store
from infra.drills.stack import now_ms
from sql import activity, catalog, generations
from sql.engine import read_snapshot, write
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.errors import StoreUnavailable
from sql.event_rules import HOUR_MS
from sql.events import EventKind, NewEvent, append
from sql.tables import generations as table
from sql.tables import live

URL = "http://doctor.test"


@pytest.fixture
def store() -> Iterator[LocalStore]:
    """g0, then g1 live; a replica that has both."""
    with local_store(items=30, seed=1) as made:
        made.publish("g0", 1)
        made.publish("g1", 2)
        generations.heartbeat(made.engine, "r1", ["g1", "g0"])
        yield made


def looked(store: LocalStore) -> Look:
    return look_at_store(store.engine) + look_at_artefacts(store.engine, store.root, deep=False)


def age(store: LocalStore) -> None:
    with write(store.engine) as conn:
        conn.execute(update(table).values(created_at_ms=now_ms() - 40 * 3_600_000))


def fail(as_: str) -> Callable[[LocalStore], None]:
    def inject(store: LocalStore) -> None:
        generations.register(
            store.engine, "n1", encoder_id="e", catalog_seq=1, created_at_ms=now_ms() + 1_000
        )
        generations.fail(store.engine, "n1", "train: it broke")
        told = {"failed_as": as_, "failed_at_ms": 1_700_000_000_000}
        generations.add_metrics(store.engine, "n1", told)

    return inject


def failed_rebuild(store: LocalStore) -> None:
    fail("GateRefused")(store)
    generations.add_metrics(store.engine, "n1", {generations.REBUILDS: "g0"})


def left(step: str, *, is_tried_again: bool = False) -> Callable[[LocalStore], None]:
    found = generations.Unfinished(step, "it broke", 1_700_000_000_000, is_tried_again)
    return lambda store: generations.keep_unfinished(store.engine, "g1", found)


def erased(hours_ago: float) -> Callable[[LocalStore], None]:
    """A user, of whom no job has rewritten the copies since."""

    def inject(store: LocalStore) -> None:
        at_ms = now_ms() - int(hours_ago * 3_600_000)
        erase_user(store.engine, Ledger.open(store.root), "anna", at_ms=at_ms)

    return inject


def silent(store: LocalStore) -> None:
    """A night that began after g1 and was killed nine hours ago."""
    at_ms = now_ms() + 1_000
    generations.register(store.engine, "n1", encoder_id="e", catalog_seq=1, created_at_ms=at_ms)
    generations.report_step(store.engine, "n1", at_ms - 9 * 3_600_000)


def held_by_the_night(store: LocalStore) -> None:
    flip(store, "g0", hold=True, who=generations.BY_NIGHT)


def broken(store: LocalStore) -> None:
    found = generations.Verified(None, "shard-0: a bad byte", now_ms())
    generations.keep_verified(store.engine, "g1", found)


def unseen(store: LocalStore) -> None:
    """Live for four hours, and no look came."""
    with write(store.engine) as conn:
        conn.execute(update(live).values(at_ms=now_ms() - 4 * 3_600_000))


def measured(**figures: float) -> Callable[[LocalStore], None]:
    return lambda store: void(generations.add_metrics(store.engine, "g1", figures))


def dropped(store: LocalStore) -> None:
    for generation_id, figure in (("g0", 0.2), ("g1", 0.05)):
        generations.add_metrics(store.engine, generation_id, {"ndcg@10": figure})


def void(_: object) -> None:
    return None


def came(store: LocalStore, minutes_ago: float, kind: EventKind = EventKind.CLICK) -> int:
    """An event that came so long ago; when that was."""
    at_ms = now_ms() - int(minutes_ago * 60_000)
    about = {"item_id": "i1"} if kind is EventKind.CLICK else {"text": "words"}
    event = NewEvent("anna", f"e{at_ms}", kind, **about, occurred_at_ms=at_ms)
    append(store.engine, [[event]], received_at_ms=at_ms)
    return at_ms


def quiet(store: LocalStore) -> None:
    came(store, 80)


def hold(store: LocalStore) -> None:
    flip(store, "g0", hold=True)


def flip(store: LocalStore, to: str, *, hold: bool, who: str = "anna") -> None:
    generations.flip(
        store.engine,
        to,
        expected_flip=2,
        who=who,
        why="worse lists",
        hold=hold,
        at_ms=now_ms(),
        override=True,
    )


def flipped(name: str) -> Callable[[LocalStore], None]:
    def inject(store: LocalStore) -> None:
        path = store.root / "generations" / "g1" / name
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])

    return inject


def gone(store: LocalStore) -> None:
    (store.root / "generations" / "g1" / "items.parquet").unlink()


def leases(ready: list[str], refused: dict[str, str]) -> Callable[[LocalStore], None]:
    return lambda store: generations.heartbeat(store.engine, "r2", ready, refused=refused)


def without_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 5, "total": 100})
    monkeypatch.setattr("infra.doctor.artefacts.shutil.disk_usage", lambda _: usage)


def test_an_empty_store_is_told_as_one() -> None:
    with local_store(items=0, seed=1) as empty:
        look = looked(empty)
    (finding,) = look.findings
    assert (finding.runbook, finding.what) == ("GenerationOld", "no generation was ever published")
    assert finding.users == "Lists are answered 503 until the first generation is published."
    assert {"no event came in yet", "no night began yet"} <= set(look.seen)
    assert not {"events come in", "the last nights"} & set(look.seen)


def test_a_sound_store_has_no_finding(store: LocalStore) -> None:
    look = looked(store)
    assert look.findings == ()
    assert look.not_seen == ()
    assert len(look.seen) >= 8


@pytest.mark.parametrize(
    ("inject", "name", "said"),
    [
        (quiet, "EventsStopped", "no event came in for 1.3 hours"),
        (hold, "HoldSet", "anna"),
        (age, "GenerationOld", "g1 is 40 hours old"),
        (fail("GateRefused"), "GateRefused", "it broke"),
        (fail("DataRefused"), "NightDataRefused", "it broke"),
        (fail("MemoryError"), "NightFailed", "it broke"),
        (left("prune"), "NightFailed", "g1: after its publish, prune: it broke"),
        (erased(37), "ErasureOpen", "an erasure was asked for 37 hours ago"),
        (held_by_the_night, "NightRolledBack", "night set a hold"),
        (broken, "LiveBroken", "g1: shard-0: a bad byte"),
        (unseen, "LiveBroken", "did not look at g1 for 4.0 hours"),
        (silent, "NightStuck", "n1 is building, and no step of it was heard of for 9 h"),
        (measured(parity_max_abs_diff=1e-3), "ParityBroken", "1.0e-03 apart"),
        (measured(canary_min_cosine=0.99), "ParityBroken", "0.990000"),
        (measured(index_recall=0.9), "IndexRecallLow", "0.900"),
        (flipped("weights.safetensors"), "LiveGenerationRefused", "weights.safetensors"),
        (flipped("MANIFEST.json"), "LiveGenerationRefused", "not the manifest that was sealed"),
        (gone, "LiveGenerationRefused", "items.parquet"),
        (dropped, "AccuracyDropped", "0.050; the best of the week had 0.200"),
        (leases(["g0"], {}), "ReplicasBehind", "1 of 2 replicas"),
        (leases([], {"g1": "a bad byte"}), "LiveGenerationRefused", "a bad byte"),
    ],
)
def test_each_fault_is_named_with_what_users_see(
    store: LocalStore, inject: Callable[[LocalStore], None], name: str, said: str
) -> None:
    inject(store)
    (finding,) = looked(store).findings
    assert finding.runbook == name
    assert said in finding.what
    assert finding.users.endswith(".")


@pytest.mark.parametrize(
    "inject", [failed_rebuild, left("verify", is_tried_again=True), erased(35)]
)
def test_what_is_nobodys_to_mend_yet_is_no_finding(
    store: LocalStore, inject: Callable[[LocalStore], None]
) -> None:
    inject(store)
    assert looked(store).findings == ()


def test_what_failed_after_the_publish_is_told_until_its_step_is_done(store: LocalStore) -> None:
    left("parity")(store)
    (finding,) = look_at_store(store.engine).findings
    assert finding.since_ms == 1_700_000_000_000
    assert finding.users == "The night's generation is live, and was not checked to the end."
    generations.finish_step(store.engine, "g1", "verify")
    assert len(look_at_store(store.engine).findings) == 1, "parity is not done yet"
    generations.finish_step(store.engine, "g1", "parity")
    assert look_at_store(store.engine).findings == ()


def test_a_failed_night_is_told_with_its_time_until_one_is_published(store: LocalStore) -> None:
    fail("GateRefused")(store)
    (finding,) = look_at_store(store.engine).findings
    assert finding.since_ms == 1_700_000_000_000
    with write(store.engine) as conn:
        later = update(table).where(table.c.generation_id == "g1")
        conn.execute(later.values(created_at_ms=now_ms() + 5_000))
    assert look_at_store(store.engine).findings == ()


def test_events_that_came_within_the_alerts_limit_are_no_silence(store: LocalStore) -> None:
    came(store, 300)
    came(store, 70)
    assert looked(store).findings == ()


def test_a_search_is_an_event_and_history_that_was_brought_in_is_none(store: LocalStore) -> None:
    told_ms = came(store, 200, EventKind.SEARCH)
    event = NewEvent("bert", "h1", EventKind.CLICK, "i1", occurred_at_ms=1_700_000_000_000)
    append(store.engine, [[event]], received_at_ms=now_ms(), history=True)
    (finding,) = looked(store).findings
    assert (finding.runbook, finding.since_ms) == ("EventsStopped", told_ms)
    came(store, 0)
    assert looked(store).findings == ()


def test_a_log_that_takes_too_long_to_read_is_known_by_the_hour(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_ms = came(store, 300)
    read, asked = read_snapshot, []

    @contextmanager
    def slow(engine: Engine) -> Iterator[Connection]:
        asked.append(1)
        if len(asked) == 2:
            raise StoreUnavailable("the log", "statement timeout")
        with read(engine) as conn:
            yield conn

    monkeypatch.setattr(activity, "read_snapshot", slow)
    assert activity.last_event_ms(store.engine, now_ms()) == (at_ms // HOUR_MS + 1) * HOUR_MS


def test_a_full_disk_is_named(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    without_disk(monkeypatch)
    (finding,) = looked(store).findings
    assert finding.runbook == "DiskAlmostFull"


AT_MS = 1_800_000_000_000

STATUS: dict[str, Any] = {
    "live": {"generation": "g1"},
    "loaded": [
        {
            "generation": "g1",
            "generation_catalog_seq": 30,
            "items": 100,
            "delta_items": 1,
            "unembedded_items": 0,
        }
    ],
    "write_behind_dropped": 0,
}


def asked(
    known: Known = NOTHING_KNOWN, header: str = HEADER, **answers: tuple[int, dict[str, Any]]
) -> Look:
    """What the doctor says of an API that answers so."""
    usual = {"readyz": (200, {}), "status": (200, STATUS), "search": (200, {"degraded": []})}

    def answer(request: httpx.Request) -> httpx.Response:
        status, body = {**usual, **answers}[request.url.path.rsplit("/", 1)[-1]]
        return httpx.Response(status, json=body, headers={header: "r"})

    transport = httpx.MockTransport(answer)
    return look_at_day(URL, None, transport, known=known, now_ms=lambda: AT_MS)


def test_an_api_that_is_well_has_no_finding() -> None:
    assert asked().findings == ()
    assert asked().not_seen == ()


def test_what_is_wrong_with_the_api_is_named() -> None:
    behind = {**STATUS, "loaded": [{**STATUS["loaded"][0], "behind_ms": 61_000}]}
    old = {**STATUS, "loaded": [{**STATUS["loaded"][0], "delta_items": 50}]}
    cases = {
        "DatabaseGone": {"readyz": (503, {"title": "the store did not answer"})},
        "LiveGenerationRefused": {"readyz": (503, {"title": "not ready", "detail": "x"})},
        "WriteBehindDropping": {"status": (200, {**STATUS, "write_behind_dropped": 3})},
        "DeltaLarge": {"status": (200, old)},
        "CatalogBehind": {"status": (200, behind)},
        "ListsSlow": {"status": (200, {**STATUS, "recent": {"slow_lists": (100, 3)}})},
        "EventsSlow": {"status": (200, {**STATUS, "recent": {"slow_events": (3, 3)}})},
        "ShardGone": {"search": (200, {"degraded": ["shard_gone"]})},
        "EncoderGone": {"search": (503, {"title": "the text encoder does not answer"})},
        "ErrorsHigh": {"search": (500, {"title": "internal error"})},
    }
    for name, answers in cases.items():
        assert [found.runbook for found in asked(**answers).findings] == [name]


def test_few_slow_lists_among_many_are_no_finding() -> None:
    recent = {"slow_lists": (2, 2), "errors": (1_000, 10), "slow_events": (5, 0)}
    assert asked(status=(200, {**STATUS, "recent": recent})).findings == ()


def test_what_one_of_two_replicas_knows_is_found_whichever_answers_first() -> None:
    leases = [{"replica_id": name} for name in ("a", "b", "shards0-c")]
    well = {**STATUS, "replica": "a", "replicas": leases}
    sick = {**well, "replica": "b", "write_behind_dropped": 3}
    for turns in ([well, sick], [sick, well]):
        answers = cycle(turns)

        def answer(request: httpx.Request, answers: Iterator[Any] = answers) -> httpx.Response:
            last = request.url.path.rsplit("/", 1)[-1]
            body = next(answers) if last == "status" else {"degraded": []}
            return httpx.Response(200, json=body, headers={HEADER: "r"})

        look = look_at_day(URL, None, httpx.MockTransport(answer), now_ms=lambda: AT_MS)
        assert [found.runbook for found in look.findings] == ["WriteBehindDropping"]
        assert look.not_seen == ()
    alone = asked(status=(200, well))
    assert [each.what for each in alone.not_seen] == ["b"]


def test_since_when_is_told_wherever_something_knows(store: LocalStore) -> None:
    catalog.put_items(store.engine, [item_put(f"n{n}", "new") for n in range(9)], AT_MS - 70_000)
    catalog.put_items(store.engine, [item_put("last", "new")], AT_MS)
    known = known_to(store.engine)
    assert known.last_heard_ms is None, "a replica is heard of"
    loaded = {**STATUS["loaded"][0], "items": 30}
    at = "2027-01-15T08:00:00Z"  # AT_MS
    troubles = {"shard_gone": at, "items_not_embedded": at, "errors": at}
    status = {**STATUS, "troubles": troubles}
    cases: dict[str, tuple[int, dict[str, Any]]] = {
        "CatalogBehind": (AT_MS - 61_000, {"loaded": [{**loaded, "behind_ms": 61_000}]}),
        "DeltaLarge": (AT_MS - 70_000, {"loaded": [{**loaded, "delta_items": 10}]}),
        "EncoderGone": (AT_MS, {"loaded": [{**loaded, "unembedded_items": 1}]}),
        "WriteBehindDropping": (
            AT_MS,
            {"write_behind_dropped": 3, "write_behind_dropped_at": at},
        ),
    }
    for name, (since_ms, told) in cases.items():
        (found,) = asked(known, status=(200, {**status, **told})).findings
        assert (found.runbook, found.since_ms) == (name, since_ms)
    for name, answer in (
        ("ShardGone", (200, {"degraded": ["shard_gone"]})),
        ("ErrorsHigh", (500, {"title": "internal error"})),
    ):
        (found,) = asked(status=(200, status), search=answer).findings
        assert (found.runbook, found.since_ms) == (name, AT_MS)


def test_what_one_look_knows_of_when_it_began_the_others_are_told() -> None:
    gone, other = Finding("DatabaseGone", "it is away"), Finding("HoldSet", "held")
    look = Look((gone, other, Finding("DatabaseGone", "/readyz: 503", AT_MS)))
    assert [each.since_ms for each in agreed(look).findings] == [AT_MS, None, AT_MS]


def test_an_api_that_is_gone_is_gone_since_a_replica_was_last_heard_of(store: LocalStore) -> None:
    generations.heartbeat(store.engine, "r1", ["g1"], at_ms=AT_MS)
    (found,) = asked(known_to(store.engine), readyz=(404, {}), header="other").findings
    assert (found.runbook, found.since_ms) == ("NothingAnswers", AT_MS)


def test_a_disk_is_full_since_the_file_that_filled_it(tmp_path: Path) -> None:
    for name, at_s in (("old", 100), ("filled", 200), ("since", 300)):
        (tmp_path / name).write_bytes(b"x" * 4)
        os.utime(tmp_path / name, (at_s, at_s))
    assert full_since_ms(tmp_path, free=3, total=100) == 200_000
    assert full_since_ms(tmp_path, free=1, total=1_000) is None, "something else fills it"


def test_an_api_that_nobody_answers_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    for transport in (
        httpx.MockTransport(refuse),
        httpx.MockTransport(lambda _: httpx.Response(404)),  # a proxy's own
        httpx.MockTransport(lambda _: httpx.Response(200, json=["not", "ours"])),
        httpx.MockTransport(lambda _: httpx.Response(200, json=None)),
        httpx.MockTransport(lambda _: httpx.Response(502, content=b"\xff{")),
    ):
        (finding,) = look_at_day(URL, None, transport).findings
        assert finding.runbook == "NothingAnswers"
        assert "live" not in finding.what
        (finding,) = look_at_day(URL, None, transport, known=Known(replicas=2)).findings
        assert "2 replicas live: it is what stands before them" in finding.what


def test_what_the_proxy_refuses_by_itself_is_told_as_its_own() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/readyz":  # never refused
            return httpx.Response(200, headers={HEADER: "r"})
        return httpx.Response(503, json={"title": "too many requests at once"})

    (finding,) = look_at_day(URL, None, httpx.MockTransport(answer)).findings
    assert finding.runbook == "ErrorsHigh"
    assert "without any replica 503: too many requests at once" in finding.what


@pytest.mark.parametrize("status", [400, 404, 422, 429])
def test_a_search_that_is_refused_is_not_well(status: int) -> None:
    look = asked(search=(status, {"title": "refused"}))
    assert look.findings == ()
    (unseen,) = look.not_seen
    assert (unseen.what, unseen.why) == ("a search", f"it is answered {status}: refused")
    assert "a search and its list" not in look.seen


def test_what_cannot_be_read_hides_nothing_else() -> None:
    assert look_at_day("http://[::1", None).findings[0].runbook == "NothingAnswers"

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"<html>", headers={HEADER: "r"})

    look = look_at_day(URL, None, httpx.MockTransport(answer))
    assert look.not_seen[0].what == URL
    engine, look = open_store("no-url")
    assert engine is None
    assert look.not_seen[0].what == "the database"


def test_without_a_key_what_is_not_seen_is_said() -> None:
    look = asked(status=(401, {}), search=(401, {}))
    assert look.findings == ()
    assert {each.what for each in look.not_seen} == {"/v1/status", "a search"}


def run(monkeypatch: pytest.MonkeyPatch, look: Look, *options: str) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "_look", lambda *_, **__: look)
    result = CliRunner().invoke(app, ["doctor", *options])
    return result.exit_code, result.stdout


def test_exit_codes_and_output(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    well = looked(store)
    assert run(monkeypatch, well)[0] == 0
    assert run(monkeypatch, asked(status=(401, {})))[0] == 3
    assert CliRunner().invoke(app, ["doctor", "--no-such-option"]).exit_code == 2
    hold(store)
    code, page = run(monkeypatch, looked(store))
    assert code == 1
    assert "infra/runbooks/HoldSet.md" in page
    assert "worse lists" in page
    code, told = run(monkeypatch, looked(store) + asked(status=(401, {})), "--json")
    assert code == 1
    document = json.loads(told)
    assert document["well"] is False
    assert document["findings"][0]["name"] == "HoldSet"
    assert document["findings"][0]["since"].startswith("20")


def test_a_database_that_is_not_there_or_unsafe_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLARK_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MOONLARK_ARTIFACT_ROOT", str(tmp_path))
    names = {}
    for name, url in (
        ("no server", "postgresql+psycopg://x@127.0.0.1:1/x"),
        ("no schema", f"sqlite:///{tmp_path / 'empty.db'}"),
    ):
        monkeypatch.setenv("MOONLARK_DATABASE_URL", url)
        result = CliRunner().invoke(app, ["doctor", "--json"])
        assert result.exit_code == 1
        document = json.loads(result.stdout)
        names[name] = document["findings"][0]["name"]
        assert document["not_looked_at"]
    assert names == {"no server": "DatabaseGone", "no schema": "NothingAnswers"}


def test_the_doctor_changes_nothing(store: LocalStore) -> None:
    def dump() -> list[Any]:
        with store.engine.connect() as conn:
            return [
                tuple(row)
                for name in ("live", "generations", "replicas", "events")
                for row in conn.execute(text(f"SELECT * FROM {name}"))
            ]

    before = dump()
    looked(store)
    assert dump() == before
