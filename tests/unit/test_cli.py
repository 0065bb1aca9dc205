"""The command line on a temporary SQLite database: what a newcomer types, and what goes wrong."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pytest
import typer
from typer.testing import CliRunner, Result

from infra.cli.lazy import LazyCommand
from infra.cli.main import COMMANDS, app
from infra.stack.ray_cluster import LocalRay
from sql.catalog import read_item
from sql.engine import open_engine
from sql.generations import fail, flip, register, seal, stage

NAMES = (
    "init",
    "ingest",
    "night",
    "serve",
    "down",
    "recommend",
    "explain",
    "status",
    "doctor",
    "generations",
    "policies",
    "pin",
    "boost",
    "seen",
    "unset",
    "publish",
    "unlock",
    "keys",
    "rollback",
    "erase",
    "retain",
    "parity",
    "size",
    "evaluate",
    "drill",
    "simulate",
)
ITEMS_CSV = "movieId,title,genres,year\n1,Toy Story,Animation Comedy,1995\n2,Heat,Drama,1995\n"
EVENTS_CSV = "userId,movieId,rating,timestamp\nu1,1,5,100\nu1,2,3,50\nu2,9,4,60\nu2,2,7,60\n"
ITEMS = ["--map", "item_id=movieId", "--list", "genres= ", "--type", "year=int"]
EVENTS = [
    *("--map", "user_id=userId", "--map", "item_id=movieId", "--map", "value=rating"),
    *("--map", "occurred_at=timestamp", "--default", "kind=rating"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, with no setting from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "ARTIFACT_ROOT", "STATE_DIR", "URL", "API_KEY", "TIMEOUT_S"):
        monkeypatch.delenv(f"MOONLARK_{name}", raising=False)
    return tmp_path


def moonlark(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def ingested(home: Path) -> Path:
    (home / "items.csv").write_text(ITEMS_CSV)
    (home / "events.csv").write_text(EVENTS_CSV)
    moonlark("init")
    moonlark("ingest", "--items", "items.csv", *ITEMS)
    moonlark("ingest", "--events", "events.csv", *EVENTS)
    return home


def test_the_commands_are_those_that_the_readme_may_name() -> None:
    assert tuple(COMMANDS) == NAMES
    listing = moonlark("--help").output
    assert all(entry.help.split(",")[0] in listing for entry in COMMANDS.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_command_can_be_loaded_and_its_line_in_the_list_is_its_own(name: str) -> None:
    command = LazyCommand(name, COMMANDS[name]).resolve()
    assert command.help.split("\n")[0] == COMMANDS[name].help


def test_looking_does_not_load_torch_or_ray(home: Path) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from infra.cli.main import app\n"
        "for words in (['--help'], ['init'], ['status'], ['generations'], ['ingest', '--help']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0, words\n"
        "print([m for m in ('torch', 'ray', 'faiss', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=home
    )
    assert done.stdout.strip() == "[]"


def test_to_finish_an_erasure_does_not_load_ray(home: Path) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from infra.cli.main import app\n"
        "for words in (['init'], ['erase', '--finish'], ['retain']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0, words\n"
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=home
    )
    assert done.stdout.strip() == "[]"


def test_init_may_be_run_again_and_names_the_next_command(home: Path) -> None:
    for _ in range(2):
        assert "moonlark ingest" in moonlark("init").output
    assert (home / ".moonlark" / "moonlark.db").exists()
    assert (home / ".moonlark" / "artifacts").is_dir()


def test_without_a_database_the_error_names_the_command_that_makes_one() -> None:
    result = moonlark("status", status=1)
    assert "moonlark init" in result.output
    assert "Traceback" not in result.output


def test_ingest_tells_what_was_stored_and_writes_what_was_not(ingested: Path) -> None:
    result = moonlark("ingest", "--events", "events.csv", *EVENTS)
    assert "events: 0 stored, 2 known already" in result.output
    assert "2 rows rejected: .moonlark/rejected/events-events.csv.jsonl" in result.output
    rejected = ingested / ".moonlark" / "rejected" / "events-events.csv.jsonl"
    lines = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [(line["line"], line["field"], line["value"]) for line in lines] == [
        (4, "item_id", "9"),
        (5, "value", 7.0),
    ]
    assert lines[1]["row"] == {"userId": "u2", "movieId": "2", "rating": "7", "timestamp": "60"}


def test_ingest_fails_where_every_row_was_rejected(ingested: Path) -> None:
    (ingested / "bad.csv").write_text("item_id,name\n1,no title\n")
    result = moonlark("ingest", "--items", "bad.csv", status=1)
    assert "every row was rejected" in result.output
    assert "columns not used: name" in result.output


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("other", [[], ["--events", "events.csv"]])
def test_a_map_to_a_column_that_no_row_has_is_an_error_before_anything_is_stored(
    home: Path, suffix: str, other: list[str]
) -> None:
    moonlark("init")
    (home / "events.csv").write_text(EVENTS_CSV)
    (home / "a.csv").write_text("item_id,name\n1,One\n")
    (home / "a.jsonl").write_text('{"item_id": "1"}\n\n{"item_id": "2", "name": "Two"}\n')
    for option, field in (("title=Title", "title"), ("attributes.year=Year", "year")):
        arguments = ["--items", f"a.{suffix}", *other, "--map", option]
        said = moonlark("ingest", *arguments, status=1).output
        assert field in said
        assert option.partition("=")[2] in said
        assert "accepted: item_id, name" in said
    assert "0 items" in moonlark("status").output
    taken = moonlark("ingest", "--items", f"a.{suffix}", "--map", "title=name")
    assert "items: 1 created" in taken.output


def test_attributes_of_csv_are_json(home: Path) -> None:
    moonlark("init")
    (home / "a.csv").write_text(
        'item_id,title,attributes\n1,One,"{""year"": 1995, ""tags"": [""x""]}"\n2,Two,\n'
        "3,Three,year=1995\n4,Four,[1]\n"
    )
    said = moonlark("ingest", "--items", "a.csv").output
    assert "items: 2 created" in said
    assert "2 rows rejected" in said
    with open_engine("sqlite:///.moonlark/moonlark.db").connect() as conn:
        item = read_item(conn, "1")
    assert item is not None
    assert item.body.attributes == {"year": 1995, "tags": ["x"]}
    rejected = (home / ".moonlark" / "rejected" / "items-a.csv.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in rejected]
    assert [(line["line"], line["field"], line["reason"]) for line in lines] == [
        (4, "attributes", "accepted: a JSON object"),
        (5, "attributes", "accepted: a JSON object"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what to ingest?"),
        (["--items", "absent.csv"], "no such file"),
        (["--items", "items.csv", "--map", "title=Title"], "no such column"),
        (["--dataset", "ml-1b"], "accepted: ml-100k"),
        (["--dataset", "ml-100k"], "python -m infra.datasets"),
    ],
)
def test_bad_input_is_a_message_not_a_traceback(
    ingested: Path, arguments: list[str], message: str
) -> None:
    result = moonlark("ingest", *arguments, status=1)
    assert message in result.output
    assert isinstance(result.exception, SystemExit)


def test_status_counts_what_is_stored_and_names_the_next_step(ingested: Path) -> None:
    plain = moonlark("status").output
    assert "2 items (catalog_seq 2)" in plain
    assert "2 of 1 users" in plain
    assert "next: moonlark night" in plain
    document = json.loads(moonlark("status", "--json").output)
    assert (document["items"], document["events"], document["users"]) == (2, 2, 1)
    assert document["live"] is None


def test_status_and_generations_show_what_is_live_held_and_failed(ingested: Path) -> None:
    assert "moonlark night" in moonlark("generations").output
    engine = open_engine("sqlite:///.moonlark/moonlark.db")
    for name in ("g1", "g2"):
        register(engine, name, encoder_id="bert", catalog_seq=2, created_at_ms=1)
    seal(engine, "g1", manifest_digest="d", metrics={"ndcg@10": 0.1234}, event_count=2)
    stage(engine, "g1")
    fail(engine, "g2", "train: [nan] loss")
    flip(engine, "g1", expected_flip=0, who="ann", why="back", hold=True, at_ms=1)
    live = json.loads(moonlark("status", "--json").output)["live"]
    assert (live["generation"], live["at"], live["hold"]) == ("g1", "1970-01-01T00:00:00Z", True)
    table = moonlark("generations").output
    assert "* g1" in table
    assert "0.1234" in table
    assert "g2 failed: train: [nan] loss" in table
    rows = json.loads(moonlark("generations", "--json").output)["generations"]
    assert {row["generation"]: row["live"] for row in rows} == {"g1": True, "g2": False}
    status = moonlark("status").output
    assert "g1 (flip 1" in status
    assert "by ann: back" in status
    assert "publish --clear-hold" in status
    assert "next: moonlark serve" in status


def test_a_person_clears_a_hold_and_can_publish_past_one(ingested: Path) -> None:
    engine = open_engine("sqlite:///.moonlark/moonlark.db")
    for name in ("g1", "g2"):
        register(engine, name, encoder_id="bert", catalog_seq=2, created_at_ms=1)
        seal(engine, name, manifest_digest="d", metrics={})
    moonlark("publish", "g1")
    moonlark("publish", "g2")
    assert "live: g1" in moonlark("rollback", "--why", "worse").output
    held = moonlark("publish", "g2", status=1)
    assert "worse" in held.output
    assert "cleared" in moonlark("publish", "--clear-hold").output
    assert "no hold" in moonlark("publish", "--clear-hold").output
    assert "live: g2" in moonlark("publish", "g2").output
    assert "g3" in moonlark("publish", "g3", status=1).output
    assert "which generation?" in moonlark("publish", status=1).output


def test_recommend_without_a_server_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOONLARK_TIMEOUT_S", "0.05")
    result = moonlark("recommend", "u1", "--url", "http://127.0.0.1:9", status=1)
    assert "moonlark serve" in result.output


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(home: Path) -> None:
    moonlark("init")
    assert "moonlark keys make" in moonlark("keys", "list").output
    made = moonlark("keys", "make", "shop", "--scope", "events:write", "--scope", "admin")
    secret = made.stdout.strip()
    assert secret.startswith("ml_")
    listed = moonlark("keys", "list").output
    assert "shop" in listed
    assert "admin, events:write" in listed
    assert secret not in listed + made.stderr
    assert (
        "moonlark keys revoke shop"
        in moonlark("keys", "make", "shop", "--scope", "admin", status=1).output
    )
    assert "revoked: shop" in moonlark("keys", "revoke", "shop").output
    assert "moonlark keys list" in moonlark("keys", "revoke", "shop", status=1).output
    accepted = moonlark("keys", "make", "b", "--scope", "write", status=1).output
    assert "events:write, recommend:read, items:write, admin" in accepted
    assert secret.encode() not in (home / ".moonlark" / "moonlark.db").read_bytes()


def test_down_without_a_cluster_says_so() -> None:
    assert "nothing runs in" in moonlark("down").output  # twice is harmless


def test_a_bug_keeps_its_traceback_and_debug_shows_every_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise KeyError("bug")

    monkeypatch.setattr("infra.cli.init.command", broken)
    assert isinstance(CliRunner().invoke(app, ["init"]).exception, KeyError)
    expected = CliRunner().invoke(app, ["--debug", "ingest"])
    assert isinstance(expected.exception, ValueError)


def test_a_typo_is_answered_with_the_nearest_command() -> None:
    assert "ingest" in moonlark("ingset", status=2).output
    assert isinstance(app, typer.Typer)


def test_a_user_is_erased_and_the_scan_proves_it(ingested: Path) -> None:
    canary = "canary-user"
    (ingested / "events.csv").write_text(EVENTS_CSV.replace("u1", canary))
    moonlark("ingest", "--events", "events.csv", *EVENTS)
    found = moonlark("erase", "--scan", canary, status=1).output
    assert "users.user_id: 1 rows" in found

    told = moonlark("erase", canary, "--json", "receipt.json").output
    receipt = json.loads((ingested / "receipt.json").read_text())
    assert receipt["erased"]["events"] == 2
    assert receipt["erasure_id"] in told
    assert "next: moonlark erase --finish" in told
    assert "1 completed, 0 open" in moonlark("erase", "--finish").output
    assert "0 places" in moonlark("erase", "--scan", canary).output
    assert "erased again: 0" in moonlark("erase", "--apply-ledger").output

    # The same file again: his past stays out, and what says so does not name him.
    moonlark("ingest", "--events", "events.csv", *EVENTS, status=1)
    reasons = (ingested / ".moonlark" / "rejected" / "events-events.csv.jsonl").read_text()
    assert "the user was erased then" in reasons
    assert canary not in reasons
    assert "whom to erase?" in moonlark("erase", status=1).output


def test_rejected_rows_are_found_by_the_scan_and_deleted_by_the_finish(ingested: Path) -> None:
    canary = 'café-"canary'
    rows = [{"user_id": canary, "item_id": "1", "kind": "viewed", "occurred_at": 1}]
    lines = [json.dumps(rows[0]), json.dumps(rows[0])[:-2]]  # the second is no JSON
    rejected = ingested / ".moonlark" / "rejected" / "events-bad.jsonl.jsonl"
    for line in lines:
        (ingested / "bad.jsonl").write_text(line + "\n")
        moonlark("ingest", "--events", "bad.jsonl", status=1)
        assert json.loads(rejected.read_text())["row"] in (rows[0], line + "\n")
        assert rejected.name in moonlark("erase", "--scan", canary, status=1).output
        moonlark("erase", "--finish")
        assert not rejected.exists()
        assert "0 places" in moonlark("erase", "--scan", canary).output


def test_a_rejected_row_of_an_erased_user_is_not_written_down(ingested: Path) -> None:
    moonlark("erase", "u1")
    (ingested / "bad.csv").write_text(
        "user_id,item_id,kind,occurred_at\nu1,1,my-words,5\nu5,1,no,5\n"
    )
    moonlark("ingest", "--events", "bad.csv", status=1)
    rejected = ingested / ".moonlark" / "rejected" / "events-bad.csv.jsonl"
    erased, other = (json.loads(line) for line in rejected.read_text().splitlines())
    assert (erased["line"], erased["field"]) == (2, "kind")
    assert (erased["value"], erased["row"]) == (None, None)
    assert other["row"]["user_id"] == "u5"


def test_retain_says_what_it_deleted(ingested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 events" in moonlark("retain").output
    with sqlite3.connect(ingested / ".moonlark" / "moonlark.db") as database:
        database.execute("UPDATE events SET received_at_ms = 5")
    monkeypatch.setenv("MOONLARK_RETAIN_EVENTS_DAYS", "30")
    assert "2 events" in moonlark("retain").output


def test_the_night_runs_on_the_cluster_that_the_shell_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the on-call's shell does (infra/runbooks/README.md); without it, on one of its own."""
    begun: list[str | None] = []

    def steps(path: str) -> Any:
        return {
            "infra.cli.bert:check_model": lambda *, is_local: None,
            "infra.cli.night_steps:run_night": lambda generation: begun.append(
                os.environ.get("RAY_ADDRESS")
            ),
        }[path]

    monkeypatch.setattr("infra.cli.night.load", steps)
    monkeypatch.setattr("infra.cli.night.LocalRay", OwnRay)
    moonlark("init")
    for address in ({"RAY_ADDRESS": "10.0.0.1:6379"}, {}):
        with patch.dict(os.environ, address):  # which the night changes
            moonlark("night")
    assert begun == ["10.0.0.1:6379", "its own"]


class OwnRay(LocalRay):
    """The one of this machine, which is not started."""

    def start(self) -> Self:
        return self

    def stop(self) -> None:
        pass

    @property
    def env(self) -> dict[str, str]:
        return {"RAY_ADDRESS": "its own"}


def test_an_answer_that_is_not_kept_ends_explain_with_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infra.cli.explain.WAIT_S", 0.0)
    moonlark("init")
    result = moonlark("explain", "r-unknown", status=3)
    assert "no answer with request_id 'r-unknown'" in result.output


@pytest.mark.parametrize("name", ["night", "doctor", "explain", "generations", "retain", "erase"])
def test_a_command_whose_status_says_something_tells_what(name: str) -> None:
    assert "Exit status: 0 " in " ".join(moonlark(name, "--help").output.split())
