"""Drill `erase`: users are forgotten amid traffic, and nothing brings them back.

Each round: users post (their ids, event ids, texts, surfaces and requests hold a canary string) and
read, some of them are erased by one replica while they are still posting to the other, and a copy
of the database is made before. Then everything is tried that could bring them back: every old event
again, one by one and in batches (410); a rollback to the generation before and old events again; a
whole night; a restore of the copy with `moonlark erase --apply-ledger --finish --scan`, as its
users run it. In the end the scan of `moonlark erase --scan` must find the canary nowhere, in no
table and no file, and the others' logs and lists must be what they were.

Replicas: see `infra.drills.local`. The copy is SQLite's, so this drill is on SQLite.
"""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from tqdm import tqdm

from infra.cli.erase_scan import files_of, scan_database, scan_files
from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.local import LocalStore, day_of, local_store, quiet, replica
from infra.drills.record import Ack, Record
from infra.drills.small_night import USERS, fill, run_night
from infra.drills.stack import PROJECT, now_ms
from ray_jobs.nightly.erase_users import finish_erasures
from ray_jobs.nightly.rollback import rollback
from sql import generations
from sql.engine import read_snapshot

ROUNDS = 5
VICTIMS = 4
NEIGHBOURS = 4
EVENTS_BEFORE = 8
EVENTS_AMID = 30
KINDS = ("click", "search", "comment", "hide")
AS_OF = "2027-01-01T00:00:00Z"


@dataclass
class _Round:
    """One round: `canary` is in everything that its victims sent."""

    store: LocalStore
    replicas: list[TestClient]
    canary: str
    figures: Figures
    counts: Counter[str]
    record: Record
    sent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def victims(self) -> list[str]:
        """Who is to be forgotten."""
        return [f"{self.canary}-{n}" for n in range(VICTIMS)]

    @property
    def neighbours(self) -> list[str]:
        """Who is not."""
        return [f"stays-{self.canary[-4:]}-{n}" for n in range(NEIGHBOURS)]

    def post(self, user_id: str, number: int) -> bool:
        """One event; whether it was stored. An erased user's are refused (410)."""
        event = self._event(user_id, number)
        if user_id in self.victims:
            self.sent.append(event)
        answer = self.replicas[number % 2].post("/v1/events", json=event)
        if answer.status_code == 200:
            if user_id not in self.victims:
                told = answer.json()["events"][0]["user_seq"]
                self.record.acks.append(Ack(user_id, event["event_id"], told))
            return True
        if answer.status_code != 410 or user_id not in self.victims:
            self.figures.failed_requests += 1
            self.figures.tell(f"{user_id}: {answer.status_code} {answer.text[:200]}")
        return False

    def _event(self, user_id: str, number: int) -> dict[str, Any]:
        kind = KINDS[number % len(KINDS)]
        mark = self.canary if user_id in self.victims else "plain"
        event: dict[str, Any] = {
            "user_id": user_id,
            "event_id": f"{mark}-{number}",
            "kind": kind,
            "occurred_at": datetime.fromtimestamp(now_ms() / 1000, UTC).isoformat(),
        }
        if kind != "search":
            event["item_id"] = f"space{number % 40}"
        if kind in ("search", "comment"):
            # Texts of neighbours have no place in `checker`, which knows items only.
            event["text"] = f"{mark} space harbour"
        if mark != "plain":
            event |= {"surface": f"{mark}-surface", "request_id": f"{mark}-request"}
        return event

    def live_and_erase(self, copy: Path) -> None:
        """Traffic; the copy; erasures amid more traffic."""
        everybody = [*self.victims, *self.neighbours]
        for number in range(EVENTS_BEFORE):
            for user_id in everybody:
                self.post(user_id, number)
        for client in self.replicas:
            for user_id in everybody:
                client.get(f"/v1/users/{user_id}/recommendations")
            day_of(client).write_behind.flush()
        source = sqlite3.connect(self.store.folder / "moonlark.db")
        target = sqlite3.connect(copy)
        source.backup(target)
        source.close()
        target.close()
        if not self.found(copy):
            self.figures.tell("the canary is not in the copy: the scan shows nothing")
        erased = threading.Event()
        threads = [threading.Thread(target=self._go_on, args=(u, erased)) for u in everybody]
        for thread in threads:
            thread.start()
        for number, user_id in enumerate(self.victims):
            answer = self.replicas[number % 2].delete(f"/v1/users/{user_id}")
            if answer.status_code != 200:
                self.figures.failed_requests += 1
                self.figures.tell(f"erasure: {answer.status_code} {answer.text[:200]}")
            self.counts["erased"] += 1
        erased.set()
        for thread in threads:
            thread.join()
        # An event whose clock is after the erasure is a new user's: he is forgotten as well.
        for user_id in self.victims:
            self.replicas[0].delete(f"/v1/users/{user_id}")

    def _go_on(self, user_id: str, erased: threading.Event) -> None:
        for number in range(EVENTS_BEFORE, EVENTS_BEFORE + EVENTS_AMID):
            if erased.is_set() and user_id in self.victims:
                return
            self.post(user_id, number)

    def replay(self, clients: list[TestClient]) -> None:
        """Every event of the erased again, alone and in batches."""
        for number, event in enumerate(self.sent):
            self._expect_gone(clients[number % len(clients)], event)
        for first in range(0, len(self.sent), 10):
            self._expect_gone(clients[0], {"events": self.sent[first : first + 10]})
        for user_id in self.victims:
            for client in clients:
                if client.get(f"/v1/users/{user_id}").status_code != 404:
                    self.figures.resurrected += 1
                    self.figures.tell(f"{user_id} is there again")

    def _expect_gone(self, client: TestClient, body: dict[str, Any]) -> None:
        answer = client.post("/v1/events", json=body)
        self.counts["late_retries"] += 1
        if answer.status_code != 410:
            self.figures.resurrected += answer.status_code == 200
            self.figures.tell(f"a late retry: {answer.status_code} {answer.text[:200]}")

    def lists(self, client: TestClient) -> dict[str, Any]:
        """Of the neighbours, at one moment."""
        found = {}
        for user_id in self.neighbours:
            answer = client.get(f"/v1/users/{user_id}/recommendations", params={"as_of": AS_OF})
            body = answer.json()
            found[user_id] = [body["generation"], body["user_seq"], body["items"]]
        return found

    def found(self, database: Path | None = None) -> list[str]:
        """Where the canary stands. `database`: only in that file."""
        if database is not None:
            return list(scan_files([database], [self.canary]))
        store = self.store
        files = files_of(store.engine, store.root, store.folder / "no-state", None)
        return [
            *scan_database(store.engine, [self.canary]),
            *scan_files(files, [self.canary]),
        ]


def run(options: Options) -> Figures:
    """`rounds` rounds on one store."""
    return run_with(options, USERS)


def run_with(options: Options, users: int) -> Figures:
    """With a log of so many other users."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("erase", rounds, options.seed)
    counts: Counter[str] = Counter()
    record = Record()
    started_s = time.monotonic()
    with quiet(), local_store(items=0, seed=options.seed) as store:
        fill(store, options.seed, users)
        run_night(store, "night0", options.seed)
        with replica(store) as first, replica(store) as second:
            for number in tqdm(range(rounds), "erase", unit="round", disable=not options.progress):
                canary = f"canary{options.seed}{number:04d}"
                round_ = _Round(store, [first, second], canary, figures, counts, record)
                _round(round_, number + 1, options.seed)
        check(record, store.engine, store.root, figures)
    figures.more |= dict(counts)
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


def _round(drill: _Round, number: int, seed: int) -> None:
    store, figures = drill.store, drill.figures
    copy = store.folder / f"copy{number}.db"
    drill.live_and_erase(copy)
    before = drill.lists(drill.replicas[0])
    drill.replay(drill.replicas)
    if drill.lists(drill.replicas[1]) != before:
        figures.tell("the lists of others are not what they were")
    run_night(store, f"night{number}", seed)
    drill.replay(drill.replicas)
    rollback(store.engine, None, who="drill", why=f"round {number}", now_ms=now_ms)
    drill.replay(drill.replicas)
    _clear_hold(store)
    report = finish_erasures(store.engine, store.root, now_ms=now_ms())
    if report["open"]:
        figures.tell(f"{report['open']} erasures could not be finished: {report['busy']}")
    found = drill.found()
    drill.counts["canary_found"] += len(found)
    for place in found:
        figures.resurrected += 1
        figures.tell(f"the canary stands in {place}")
    _restore(drill, copy)
    copy.unlink()


def _clear_hold(store: LocalStore) -> None:
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
    assert live is not None, "a night went before"
    generations.clear_hold(
        store.engine, expected_flip=live.flip, who="drill", why="go on", at_ms=now_ms()
    )


def _restore(drill: _Round, copy: Path) -> None:
    """The copy, as an operator brings it back: the ledger is applied, finished, and scanned."""
    environment = {
        **os.environ,
        "MOONLARK_DATABASE_URL": f"sqlite:///{copy}",
        "MOONLARK_ARTIFACT_ROOT": str(drill.store.root),
        "MOONLARK_STATE_DIR": str(drill.store.folder / "no-state"),
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "infra.cli.main", "erase"),
            *("--apply-ledger", "--finish", "--scan", drill.canary),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    drill.counts["restored"] += 1
    if done.returncode != 0:
        drill.figures.resurrected += 1
        drill.figures.tell(f"after the restore: {done.stdout[-500:]} {done.stderr[-500:]}")
