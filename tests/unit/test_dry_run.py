"""`publish` and `rollback`: what they do, or with `--dry-run` would do, in words and as JSON; a
hold ends with the publish or stays. `status --watch` goes on until Ctrl-C."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from typer.testing import CliRunner, Result

from infra.cli import status
from infra.cli.main import app
from infra.drills.local import LocalStore, local_store
from sql import generations
from sql.engine import read_snapshot
from sql.errors import StoreUnavailable


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStore]:
    """g0, then g1 live."""
    with local_store(items=20, seed=1) as made:
        made.publish("g0", 1)
        made.publish("g1", 2)
        monkeypatch.setenv("MOONLARK_DATABASE_URL", made.database_url)
        monkeypatch.setenv("MOONLARK_ARTIFACT_ROOT", str(made.root))
        yield made


def moonlark(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def pointer(store: LocalStore) -> generations.LivePointer:
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
    assert live is not None
    return live


def lease(store: LocalStore, **told: Any) -> None:
    """Of the one replica."""
    generations.heartbeat(store.engine, "gateway-1", **{"ready": ("g0",), **told})


def test_a_dry_rollback_says_where_it_would_go_and_stays(store: LocalStore) -> None:
    before = pointer(store)
    said = moonlark("rollback", "--why", "worse", "--dry-run")
    assert said.exit_code == 0
    assert "would make live: g0 (now: g1)" in said.output
    assert "a hold would be set" in said.output
    assert pointer(store) == before
    assert moonlark("rollback", "--why", "worse").exit_code == 0
    again = moonlark("rollback", "--why", "once more", "--dry-run")
    assert again.exit_code == 1
    assert "rolled back to g0 already" in again.output


def test_a_dry_publish_says_what_would_be_refused(store: LocalStore) -> None:
    moonlark("rollback", "--why", "worse lists")
    before = pointer(store)
    held = moonlark("publish", "g1", "--dry-run")
    assert held.exit_code == 1
    assert "worse lists" in held.output
    assert moonlark("publish", "g1", "--clear-hold", "--dry-run").exit_code == 0
    weights = store.root / "generations" / "g1" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    damaged = moonlark("publish", "g1", "--clear-hold", "--dry-run")
    assert damaged.exit_code == 1
    assert "weights.safetensors" in damaged.output
    unknown = moonlark("publish", "g9", "--dry-run")
    assert unknown.exit_code == 1
    assert "not registered" in unknown.output
    assert pointer(store) == before


def test_a_dry_clear_hold_says_whose_hold_would_end(store: LocalStore) -> None:
    none = moonlark("publish", "--clear-hold", "--dry-run")
    assert (none.exit_code, "no hold" in none.output) == (0, True)
    moonlark("rollback", "--why", "worse lists")
    before = pointer(store)
    said = moonlark("publish", "--clear-hold", "--dry-run")
    assert said.exit_code == 0
    assert "worse lists; it would end" in said.output
    told = moonlark("publish", "--clear-hold", "--dry-run", "--json")
    assert json.loads(told.output) == {
        **{"generation": None, "live": "g0", "sets_hold": False, "clears_hold": True},
        "refused": [],
    }
    assert pointer(store) == before


def test_a_hold_ends_with_the_publish_or_stays(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLARK_STAGE_DEADLINE_S", "0.1")
    monkeypatch.setenv("MOONLARK_LEASE_S", "600")
    moonlark("rollback", "--why", "worse lists")
    held = pointer(store)
    assert moonlark("publish", "g9", "--clear-hold").exit_code == 1
    assert pointer(store) == held, "g9 is not registered"
    lease(store, refused={"g1": "it is damaged"})
    refused = moonlark("publish", "g1", "--clear-hold")
    assert (refused.exit_code, "it is damaged" in refused.output) == (1, True)
    assert pointer(store) == held, "no replica can answer from g1"
    lease(store, ready=("g0", "g1"))
    assert "the hold is cleared" in moonlark("publish", "g1", "--clear-hold").output
    live = pointer(store)
    assert (live.generation_id, live.hold, live.flip) == ("g1", False, held.flip + 1)


def test_a_hold_on_what_is_live_ends_as_well(store: LocalStore) -> None:
    moonlark("rollback", "--why", "worse lists")
    assert moonlark("publish", "g0", "--clear-hold").exit_code == 0
    live = pointer(store)
    assert (live.generation_id, live.previous, live.hold) == ("g0", "g1", False)


def test_what_was_rolled_back_from_is_not_gone_back_to(store: LocalStore) -> None:
    """At 3 a.m.: it is worse, it is mended, it is worse again."""
    store.publish("g2", 3)
    for back_at in ("g1", "g0"):
        assert moonlark("rollback", "--why", f"worse than {back_at}").exit_code == 0
        assert pointer(store).generation_id == back_at
        assert moonlark("publish", "--clear-hold").exit_code == 0
    before = pointer(store)
    for more in ((), ("--dry-run",)):
        nowhere = moonlark("rollback", "--why", "and again", *more)
        assert nowhere.exit_code == 1
        assert "no generation to go back to" in nowhere.output
    assert pointer(store) == before
    assert moonlark("rollback", "--to", "g2", "--why", "g2 was right").exit_code == 0
    assert pointer(store).generation_id == "g2"


def test_a_hold_may_be_set_on_what_is_live(store: LocalStore) -> None:
    said = moonlark("rollback", "--to", "g1", "--why", "no nights now", "--dry-run").output
    assert "only the hold would change" in said
    assert pointer(store).hold is False
    assert "hold set" in moonlark("rollback", "--to", "g1", "--why", "no nights now").output
    live = pointer(store)
    assert (live.generation_id, live.previous, live.hold) == ("g1", "g0", True)
    held = moonlark("publish", "g1").output
    assert "no nights now" in held
    assert "--clear-hold" in held
    told = json.loads(
        moonlark("rollback", "--to", "g1", "--why", "x", "--dry-run", "--json").output
    )
    assert told["sets_hold"] is False
    assert moonlark("rollback", "--to", "g1", "--why", "again").exit_code == 0
    assert pointer(store) == live


@pytest.mark.parametrize(
    "words",
    [
        ("rollback", "--why", ""),
        ("rollback", "--why", "x" * 501),
        ("rollback", "--why", "worse", "--to", ""),
        ("publish", "g0", "--why", "x" * 501),
    ],
)
def test_what_may_not_be_kept_is_refused_before_anything_is_staged(
    store: LocalStore, words: tuple[str, ...]
) -> None:
    before = pointer(store)
    for more in ((), ("--dry-run",)):
        assert moonlark(*words, *more).exit_code == 1
    assert pointer(store) == before
    with read_snapshot(store.engine) as conn:
        known = generations.list_generations(conn)
    assert {found.state for found in known} == {"published"}


def test_what_was_done_is_told_a_script_as_json(store: LocalStore) -> None:
    back = json.loads(moonlark("rollback", "--why", "worse", "--json").stdout)
    assert back["live"]["generation"] == "g0"
    assert (back["live"]["hold"], back["live"]["why"]) == (True, "worse")
    cleared = json.loads(moonlark("publish", "--clear-hold", "--json").stdout)
    assert (cleared["live"]["hold"], cleared["hold_cleared"]) == (False, True)
    again = json.loads(moonlark("publish", "--clear-hold", "--json").stdout)
    assert again == {"live": cleared["live"], "hold_cleared": False}
    told = json.loads(moonlark("publish", "g1", "--json").stdout)
    assert (told["live"]["generation"], told["live"]["previous"]) == ("g1", "g0")
    assert (told["hold_cleared"], told["replicas_ready"]) == (False, 0)
    shown = json.loads(moonlark("status", "--json").stdout)
    assert told["live"] == shown["live"], "in the same words"


def test_a_dry_run_for_a_script_is_json_and_ends_alike(store: LocalStore) -> None:
    told = moonlark("rollback", "--why", "worse", "--dry-run", "--json")
    assert told.exit_code == 0
    assert json.loads(told.output) == {
        **{"generation": "g0", "live": "g1", "replicas": 0, "replicas_ready": 0},
        **{"sets_hold": True, "clears_hold": False, "refused": []},
    }
    moonlark("rollback", "--why", "worse")
    nowhere = moonlark("rollback", "--why", "once more", "--dry-run", "--json")
    assert nowhere.exit_code == 1
    document = json.loads(nowhere.output)
    assert (document["generation"], document["live"]) == (None, "g0")
    assert "rolled back to g0 already" in document["refused"][0]
    refused = moonlark("publish", "g9", "--dry-run", "--json")
    assert refused.exit_code == 1
    assert "not registered" in json.loads(refused.output)["refused"][0]


def test_status_is_shown_again_and_again_until_ctrl_c(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(_: float) -> None:
        if pointer(store).generation_id == "g0":
            raise KeyboardInterrupt
        assert moonlark("rollback", "--why", "worse").exit_code == 0

    monkeypatch.setattr(status.time, "sleep", sleep)
    shown = moonlark("status", "--watch")
    assert shown.exit_code == 0
    assert shown.output.index("g1 (flip 2") < shown.output.index("g0 (flip 3")


def test_status_goes_on_where_the_database_was_away(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([StoreUnavailable("postgresql://db", "it was killed"), None, KeyboardInterrupt()])
    shipped = status.read_snapshot

    def read_snapshot(engine: Engine) -> AbstractContextManager[Connection]:
        if (error := next(looks)) is not None:
            raise error
        return shipped(engine)

    monkeypatch.setattr(status, "read_snapshot", read_snapshot)
    monkeypatch.setattr(status.time, "sleep", lambda _: None)
    shown = moonlark("status", "--watch")
    assert shown.exit_code == 0
    assert "it was killed" in shown.stderr
    assert "g1 (flip 2" in shown.stdout
