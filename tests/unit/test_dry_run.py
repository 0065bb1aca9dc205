"""`--dry-run` says what would be done and does nothing; `status --watch` goes on until Ctrl-C."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from infra.cli import status
from infra.cli.main import app
from infra.drills.local import LocalStore, local_store
from sql import generations
from sql.engine import read_snapshot


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
    assert moonlark("publish", "--clear-hold", "--dry-run").exit_code == 1
    assert pointer(store) == before


def test_a_dry_run_for_a_script_is_json_and_ends_alike(store: LocalStore) -> None:
    told = moonlark("rollback", "--why", "worse", "--dry-run", "--json")
    assert told.exit_code == 0
    assert json.loads(told.output) == {
        **{"generation": "g0", "live": "g1", "replicas": 0, "replicas_ready": 0},
        **{"sets_hold": True, "refused": []},
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
