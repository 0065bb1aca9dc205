"""`moonlark doctor` names each fault that is put into a store, and says nothing of a sound one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text, update
from typer.testing import CliRunner

from infra.cli import doctor
from infra.cli.main import app
from infra.doctor.artefacts import look_at_artefacts
from infra.doctor.day import HEADER, look_at_day
from infra.doctor.findings import Look
from infra.doctor.store import look_at_store
from infra.drills.local import LocalStore, local_store
from infra.drills.stack import now_ms
from sql import generations
from sql.engine import write
from sql.tables import generations as table
from sql.tables import item_activity, live

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


def quiet(store: LocalStore) -> None:
    """Five hours ago something was done, and nothing since."""
    hour = now_ms() // 3_600_000 - 5
    row = {"hour": hour, "ordinal": 1, "kind": "click", "slot": 0, "n": 1}
    with write(store.engine) as conn:
        conn.execute(insert(item_activity).values(row))


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


def test_a_sound_store_has_no_finding(store: LocalStore) -> None:
    look = looked(store)
    assert look.findings == ()
    assert look.not_seen == ()
    assert len(look.seen) >= 8


@pytest.mark.parametrize(
    ("inject", "name", "said"),
    [
        (quiet, "EventsStopped", "hours"),
        (hold, "HoldSet", "anna"),
        (age, "GenerationOld", "g1 is 40 hours old"),
        (fail("GateRefused"), "GateRefused", "it broke"),
        (fail("DataRefused"), "NightDataRefused", "it broke"),
        (fail("MemoryError"), "NightFailed", "it broke"),
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


def test_a_failed_night_is_told_with_its_time_until_one_is_published(store: LocalStore) -> None:
    fail("GateRefused")(store)
    (finding,) = look_at_store(store.engine).findings
    assert finding.since_ms == 1_700_000_000_000
    with write(store.engine) as conn:
        later = update(table).where(table.c.generation_id == "g1")
        conn.execute(later.values(created_at_ms=now_ms() + 5_000))
    assert look_at_store(store.engine).findings == ()


def test_a_full_disk_is_named(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    without_disk(monkeypatch)
    (finding,) = looked(store).findings
    assert finding.runbook == "DiskAlmostFull"


STATUS: dict[str, Any] = {
    "live": {"generation": "g1"},
    "loaded": [{"generation": "g1", "items": 100, "delta_items": 1, "unembedded_items": 0}],
    "write_behind_dropped": 0,
}


def asked(**answers: tuple[int, dict[str, Any]]) -> Look:
    """What the doctor says of an API that answers so."""
    usual = {"readyz": (200, {}), "status": (200, STATUS), "search": (200, {"degraded": []})}

    def answer(request: httpx.Request) -> httpx.Response:
        status, body = {**usual, **answers}[request.url.path.rsplit("/", 1)[-1]]
        return httpx.Response(status, json=body, headers={HEADER: "r"})

    return look_at_day(URL, None, httpx.MockTransport(answer))


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
        "ShardGone": {"search": (200, {"degraded": ["shard_gone"]})},
        "EncoderGone": {"search": (503, {"title": "the text encoder does not answer"})},
        "ErrorsHigh": {"search": (500, {"title": "internal error"})},
    }
    for name, answers in cases.items():
        assert [found.runbook for found in asked(**answers).findings] == [name]


def test_an_api_that_nobody_answers_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    for transport in (
        httpx.MockTransport(refuse),
        httpx.MockTransport(lambda _: httpx.Response(404)),  # a proxy's own
    ):
        (finding,) = look_at_day(URL, None, transport).findings
        assert finding.runbook == "NothingAnswers"


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
    assert run(monkeypatch, asked(status=(401, {})))[0] == 2
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
