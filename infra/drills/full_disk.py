"""Drill `full-disk`: there is no more space, at many sizes, and then there is again.

In a process of its own whose files may not grow beyond a limit (RLIMIT_FSIZE): the kernel refuses
the write as it does on a full disk, whoever writes: SQLite, faiss, Arrow or Python. (EFBIG in place
of ENOSPC: SQLite answers both with an error of the transaction.)

The database: `rounds` limits just above its present size; clients post until a post is refused. It
must be 503 with Retry-After, nothing of it may be acknowledged, reads go on, and with space again
the same post is stored, once. A night: `rounds` limits among the sizes of its files; it must fail
and say why in the registry, what was live goes on answering, and with space again the same night
goes live. Replicas: see `infra.drills.local`.
"""

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from safetensors import SafetensorError

from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.io_error import LIST, expect_failed, expect_live, live_id, run_again
from infra.drills.local import LocalStore, local_store, quiet, replica
from infra.drills.record import Ack, Record
from infra.drills.small_night import USERS, fill, open_small_night, run_night, steps
from ray_jobs.encoders.train_config import tiny
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.workspace import generation_directory
from sql.errors import StoreError

ROUNDS = 20
EVENTS_A_POST = 100
ITEMS, KINDS = 40, ("view", "click", "favourite")
"""Of the events of a post: none repeats another, or a night would refuse such a log."""
MOST_POSTS = 300
STEP_BYTES = 16_384
"""By so much a limit is above the database's size, times the round."""
ENDS = (OSError, RuntimeError, ValueError, SafetensorError, StoreError)
"""How a step ends that cannot write: by Python, faiss, Arrow, safetensors or the database."""


def run(options: Options) -> Figures:
    """`rounds` limits for the database, and as many for a night."""
    return run_with(options, USERS)


def run_with(options: Options, users: int) -> Figures:
    """With a log of so many users."""
    with ProcessPoolExecutor(1, get_context("spawn")) as child:
        return child.submit(_run, options, users).result()


def _run(options: Options, users: int) -> Figures:
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("full-disk", rounds, options.seed)
    counts: Counter[str] = Counter()
    record = Record()
    started_s = time.monotonic()
    with quiet(), local_store(items=0, seed=options.seed) as store:
        fill(store, options.seed, users)
        run_night(store, "good", options.seed)
        with replica(store) as client:
            for number in range(rounds):
                _database(store, client, number, record, figures, counts)
            for number, limit in enumerate(_limits(store, options.seed, rounds)):
                _night(store, client, f"night{number:03d}", limit, options.seed, figures, counts)
        check(record, store.engine, store.root, figures)
    figures.more |= dict(counts)
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


@contextmanager
def no_file_beyond(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes. Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _database(
    store: LocalStore,
    client: TestClient,
    number: int,
    record: Record,
    figures: Figures,
    counts: Counter[str],
) -> None:
    """Post until it is refused, read, and post the same with space again."""
    path = store.folder / "moonlark.db"
    sizes = [f.stat().st_size for f in (path, path.with_name(path.name + "-wal")) if f.exists()]
    refused: dict[str, Any] | None = None
    with no_file_beyond(max(sizes) + number * STEP_BYTES):
        for post in range(MOST_POSTS):
            body = _events(number, post)
            answer = client.post("/v1/events", json=body)
            if answer.status_code == 200:
                _note(body, answer.json(), record)
                counts["posts"] += 1
                continue
            refused = body
            kind = answer.headers.get("content-type", "")
            if answer.status_code != 503 or "retry-after" not in answer.headers:
                figures.failed_requests += 1
                figures.tell(f"disk full: {answer.status_code} {kind} {answer.text[:200]}")
            break
        listed = client.get(LIST)
        if (listed.status_code, listed.json().get("degraded")) != (200, []):
            figures.failed_requests += 1
            figures.tell(f"disk full: a list is {listed.status_code} {listed.text[:200]}")
    if refused is None:
        figures.tell(f"{MOST_POSTS} posts, and the disk never was full: nothing was shown")
        return
    counts["posts_refused"] += 1
    again = client.post("/v1/events", json=refused)
    if again.status_code != 200:
        figures.failed_requests += 1
        figures.tell(f"with space again: {again.status_code} {again.text[:200]}")
        return
    _note(refused, again.json(), record)


def _events(number: int, post: int) -> dict[str, Any]:
    events = [
        {
            "user_id": f"full{number}-{post}",
            "event_id": f"e{n}",
            "kind": KINDS[n // ITEMS],
            "item_id": f"space{n % ITEMS}",
        }
        for n in range(EVENTS_A_POST)
    ]
    return {"events": events}


def _note(body: dict[str, Any], answer: dict[str, Any], record: Record) -> None:
    for event, told in zip(body["events"], answer["events"], strict=True):
        record.acks.append(Ack(event["user_id"], event["event_id"], told["user_seq"]))


def _limits(store: LocalStore, seed: int, rounds: int) -> list[int]:
    """From nothing to just below the largest file of a night."""
    files = [f for f in generation_directory(store.root, "good").rglob("*") if f.is_file()]
    largest = max(f.stat().st_size for f in files)
    return sorted(np.random.default_rng(seed).integers(0, largest, rounds).tolist())


def _night(
    store: LocalStore,
    client: TestClient,
    generation_id: str,
    limit: int,
    seed: int,
    figures: Figures,
    counts: Counter[str],
) -> None:
    """Each step has no more than `limit`; what it tells the registry is told with space again."""
    live = live_id(store)
    night = open_small_night(store, generation_id)
    failed = False
    try:
        for name, step in steps(tiny(seed)).items():
            run_step(night, name, step if name in ("publish", "verify") else _within(limit, step))
    except ENDS:
        failed = True
        counts["nights_failed"] += 1
        expect_failed(store, client, generation_id, live, figures)
    counts["nights"] += 1
    if failed:
        run_again(store, generation_id, seed)
    expect_live(store, client, generation_id, figures)


def _within(limit: int, step: Callable[[Night], Report]) -> Callable[[Night], Report]:
    def run(night: Night) -> Report:
        with no_file_beyond(limit):
            return step(night)

    return run
