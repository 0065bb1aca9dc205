"""Drill `io-error`: the n-th write fails, for many n.

First the database: for each kind of change (an event, a batch, an item put and deleted, an erasure)
the first statement fails, then the second, and so on, then the commit, then what comes after a
commit that is in force already. Nothing may be acknowledged that is not durable; the answer must be
503 with Retry-After and a problem document; reads go on; the same request again is stored, once.

Then the files of a night: at `rounds` places among all its fsyncs, renames and openings. The night
must fail and say why in the registry, the last generation goes on answering, and the same night
taken up again ends as if nothing had been. Replicas: see `infra.drills.local`.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from fastapi.testclient import TestClient
from tqdm import tqdm

from infra.drills.checker import check
from infra.drills.failing import FailingWrites, Where, failing_files
from infra.drills.figures import Figures, Options
from infra.drills.local import LocalStore, day_of, local_store, quiet, replica
from infra.drills.record import Ack, ItemAck, Record
from infra.drills.small_night import USERS, fill, open_small_night, run_night, steps
from ray_jobs.encoders.train_config import tiny
from ray_jobs.nightly.step import run_step
from sql import generations
from sql.engine import read_snapshot

ROUNDS = 24
"""Places in a night's writes."""
MOST_WRITES = 60
"""Statements of one request; more would be a loop."""
LIST = "/v1/users/reader1/recommendations"
WHERES: tuple[Where, ...] = ("statement", "commit", "after the commit")


class Change(NamedTuple):
    """A request, and what its acknowledgement promises."""

    method: str
    path: str
    body: dict[str, Any] | None
    acks: tuple[tuple[str, str], ...] = ()
    title: str | None = None


def changes(name: str) -> Iterator[Change]:
    """One of each kind, of users and items of its own."""
    event = {"user_id": f"u-{name}", "event_id": "one", "kind": "click", "item_id": "space1"}
    yield Change("POST", "/v1/events", event, ((f"u-{name}", "one"),))
    batch = [
        {"user_id": f"b{n}-{name}", "event_id": "b", "kind": "click", "item_id": f"space{n}"}
        for n in range(3)
    ]
    told = tuple((event["user_id"], "b") for event in batch)
    yield Change("POST", "/v1/events", {"events": batch}, told)
    path, title = f"/v1/items/item-{name}", f"space {name}"
    yield Change("PUT", path, {"title": title}, title=title)
    yield Change("DELETE", path, None)
    gone = {"user_id": f"gone-{name}", "event_id": "g", "kind": "click", "item_id": "space2"}
    yield Change("POST", "/v1/events", gone)
    yield Change("DELETE", f"/v1/users/gone-{name}", None)


def run(options: Options) -> Figures:
    """Every write of every kind of change, and `rounds` places of a night."""
    with local_store(items=0, seed=options.seed) as store:
        return run_on(store, options, USERS)


def run_on(store: LocalStore, options: Options, users: int) -> Figures:
    """On an empty store; the log gets so many users."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("io-error", rounds, options.seed)
    counts: Counter[str] = Counter()
    record = Record()
    started_s = time.monotonic()
    fill(store, options.seed, users)
    with failing_files(store.root, 0) as faults:
        run_night(store, "good", options.seed)
    counts["writes_of_a_night"] = faults.calls
    with quiet(), replica(store) as client:
        writes = FailingWrites(day_of(client).engine)
        for where in WHERES:
            _database(client, writes, where, record, figures, counts)
        drawn = np.random.default_rng(options.seed).permutation(faults.calls)[:rounds] + 1
        for place in tqdm(
            sorted(drawn.tolist()), "io-error", unit="night", disable=not options.progress
        ):
            _night(store, client, place, options.seed, figures, counts)
    check(record, store.engine, store.root, figures)
    figures.more |= dict(counts)
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


def _database(
    client: TestClient,
    writes: FailingWrites,
    where: Where,
    record: Record,
    figures: Figures,
    counts: Counter[str],
) -> None:
    """Until no request has an n-th write any more."""
    for number in range(1, MOST_WRITES):
        before = counts["failed_writes"]
        for change in changes(f"{where.replace(' ', '-')}-{number}"):
            writes.arm(number, where)
            _change(client, change, writes, record, figures, counts)
        if counts["failed_writes"] == before:
            break
    writes.arm(0, where)


def _change(
    client: TestClient,
    change: Change,
    writes: FailingWrites,
    record: Record,
    figures: Figures,
    counts: Counter[str],
) -> None:
    answer = client.request(change.method, change.path, json=change.body)
    counts["changes"] += 1
    if writes.failed:
        counts["failed_writes"] += 1
        counts[f"answered_{answer.status_code}"] += 1
        if answer.status_code != 200:
            _expect_honest(answer, change, figures)
    writes.arm(0, "statement")
    listed = client.get(LIST)
    if (listed.status_code, listed.json().get("degraded")) != (200, []):
        figures.failed_requests += 1
        figures.tell(f"after {change}: a list is {listed.status_code} {listed.text[:200]}")
    again = answer if answer.status_code == 200 else None
    if again is None:
        again = client.request(change.method, change.path, json=change.body)
        # A delete that was in force already finds nothing any more.
        if again.status_code != 200 and (change.method, again.status_code) != ("DELETE", 404):
            figures.failed_requests += 1
            figures.tell(f"{change} again: {again.status_code} {again.text[:200]}")
            return
    _note(change, again, record)


def _expect_honest(answer: Any, change: Change, figures: Figures) -> None:
    kind = answer.headers.get("content-type", "")
    honest = answer.status_code == 503 and kind.startswith("application/problem+json")
    if not honest or int(answer.headers.get("retry-after", "0")) < 1:
        figures.failed_requests += 1
        figures.tell(f"{change}: {answer.status_code} {kind} {answer.text[:200]}")


def _note(change: Change, answer: Any, record: Record) -> None:
    if answer.status_code != 200:
        return
    body = answer.json()
    for (user_id, event_id), told in zip(change.acks, body.get("events", ()), strict=False):
        record.acks.append(Ack(user_id, event_id, told["user_seq"]))
    if change.title is not None:
        item_id = change.path.rsplit("/", 1)[1]
        record.acked_item(ItemAck(item_id, "put", change.title, body["catalog_seq"]))


def _night(
    store: LocalStore,
    client: TestClient,
    place: int,
    seed: int,
    figures: Figures,
    counts: Counter[str],
) -> None:
    """The write at `place` fails, then the night is taken up again."""
    generation_id, live = f"night{place:04d}", live_id(store)
    reason: str | None = None
    with failing_files(store.root, place) as faults:
        try:
            run_night(store, generation_id, seed)
        except OSError as error:
            reason = str(error)
    counts["nights"] += 1
    if faults.failed and reason is None:
        figures.tell(f"write {place} of {generation_id} failed, and the night did not")
    if reason is not None:
        counts["nights_failed"] += 1
        expect_failed(store, client, generation_id, live, figures)
        run_again(store, generation_id, seed)
    expect_live(store, client, generation_id, figures)


def run_again(store: LocalStore, generation_id: str, seed: int) -> None:
    """The night goes on where it broke off."""
    night = open_small_night(store, generation_id)
    with read_snapshot(store.engine) as conn:
        found = generations.get_generation(conn, generation_id)
    for name, step in steps(tiny(seed)).items():
        if found is not None and found.state == "published" and name != "verify":
            continue  # it broke off after the flip: only the check is left
        run_step(night, name, step)


def live_id(store: LocalStore) -> str:
    """The generation that is live."""
    with read_snapshot(store.engine) as conn:
        pointer = generations.read_live(conn)
    assert pointer is not None, "a good night went before"
    return pointer.generation_id


def expect_failed(
    store: LocalStore, client: TestClient, generation_id: str, live: str, figures: Figures
) -> None:
    """The registry says why, and what was live still answers. A night that broke off after the
    flip (in its check, or tidying) is live."""
    with read_snapshot(store.engine) as conn:
        found = generations.get_generation(conn, generation_id)
    if found is not None and found.state == "published":
        return
    if found is not None and (found.state != "failed" or not found.failed_reason):
        figures.tell(f"{generation_id} failed, the registry says {found.state}")
    expect_live(store, client, live, figures)


def expect_live(
    store: LocalStore, client: TestClient, generation_id: str, figures: Figures
) -> None:
    """The pointer names it and the replica answers from it, unmarked."""
    answer = client.get(LIST)
    body = answer.json()
    told = (live_id(store), answer.status_code, body.get("generation"), body.get("degraded"))
    if told != (generation_id, 200, generation_id, []):
        figures.failed_requests += 1
        figures.tell(f"{generation_id} should be live: {told}")
