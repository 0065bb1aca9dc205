"""What a post of events costs in CPU, step by step: a replica's app asked in this process.

    python -m infra.bench.append_cost            100,000 items, posts of 1 and of 100 events
    python -m infra.bench.append_cost --small    a small catalog

No Ray, no HAProxy, no socket, one post at a time, so that each is a transaction of its own. Steps
are of the thread that takes them, the request is of the process: what is in neither is the loop's.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from pydantic import TypeAdapter
from tqdm import tqdm

import serve.feedback
import serve.guard
import sql.event_log
from infra.bench.list_cost import Stopwatch, asked_of, no_bert, nothing_ms
from infra.bench.report import Ratio, Report, Size, Table, run_bench
from infra.bench.serving.floor_apps import api as nothing_by_fastapi
from infra.bench.serving.made_catalog import item_id, user_id
from infra.bench.serving.made_store import MadeStore
from infra.bench.serving.stack import make_bench_key
from infra.cli.settings import CliSettings
from ray_jobs.nightly.settings import NightSettings
from serve.day import Day
from serve.gateway import build_api
from serve.schemas.events import EventsBody
from serve.settings import ServeSettings
from sql.engine import open_engine
from sql.settings import StoreSettings

SIZES = {"full": (100_000, 100_000), "small": (5_000, 500)}
"""Items and users."""
POSTS = {"full": {1: 600, 100: 200}, "small": {1: 60, 100: 20}}
"""Events a post: how many posts."""
WARM = 10
"""The first posts, which are not counted."""

REQUEST = "the whole request"
STEPS: tuple[tuple[str, Any, str], ...] = (
    ("body checked", serve.guard, "check_json"),
    ("shape checked", sql.event_log, "shape_problems"),
    ("users made and locked", sql.event_log, "_users_of"),
    ("what the log knows", sql.event_log, "_open_book"),
    ("rules", sql.event_log, "_decide"),
    ("rows written", sql.event_log, "_store"),
    ("the append, whole, with its commit", serve.feedback, "append"),
)
"""What is measured: its name, and the function that it is."""
BARE = "bare rows and their commit"


def measure(size: Size) -> Report:
    """Posts of 1 and of 100."""
    state_dir = CliSettings().state_dir
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    store = MadeStore.ready(state_dir, *SIZES[size], bert)
    ratios: list[Ratio] = []
    tables: list[Table] = []
    for events, posts in POSTS[size].items():
        watch, floors = measured(store, events, posts)
        name = f"posts of {events}"
        ratios.append(
            Ratio(
                name=name,
                value=watch.of(REQUEST) / sum(floors.values()),
                of="the whole request / (bare rows + the body by pydantic + no-op FastAPI)",
            )
        )
        steps = [*(step for step, _, _ in STEPS), REQUEST]
        rows = [(step, f"{watch.of(step):.3f}") for step in steps]
        rows += [(floor, f"{ms:.3f}") for floor, ms in floors.items()]
        tables.append(Table(title=name, columns=("", "CPU, ms"), rows=tuple(rows)))
    return Report(
        bench="append_cost",
        about=f"A replica's app asked in the process, one post at a time, clicks of users drawn "
        f"from {SIZES[size][1]:,}, SQLite: medians of CPU, a post; steps: of the thread that takes "
        "them, the request: of the process.",
        ratios=tuple(ratios),
        tables=tuple(tables),
    )


def measured(store: MadeStore, events: int, posts: int) -> tuple[Stopwatch, dict[str, float]]:
    """The steps of a post, and what it cannot cost less than, ms."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moonlark-bench-")))
        url = store.copy_sqlite(folder / "moonlark.db")
        engine = open_engine(url)
        stack.callback(engine.dispose)
        secret = make_bench_key(engine)
        bodies = made_bodies(store, events, posts)
        watch = Stopwatch()
        asyncio.run(_post(store, url, bodies, secret, watch))
        adapter: TypeAdapter[Any] = TypeAdapter(EventsBody)
        floors = {
            BARE: _median_ms(_bare_append(folder / "moonlark.db", events), bodies),
            "the body by pydantic": _median_ms(adapter.validate_json, bodies),
            "no-op FastAPI app": asyncio.run(nothing_ms(nothing_by_fastapi)),
        }
        return watch, floors


def made_bodies(store: MadeStore, events: int, posts: int) -> list[bytes]:
    """Clicks, no user twice in a post; those of one event are no batches."""
    rng = np.random.default_rng(3)
    bodies = []
    for post in range(posts):
        users = rng.choice(store.users, events, replace=False).tolist()
        clicks = [
            {
                "user_id": user_id(user),
                "kind": "click",
                "item_id": item_id(int(rng.integers(store.items))),
                "event_id": f"bench-{events}-{post}-{place}",
            }
            for place, user in enumerate(users)
        ]
        bodies.append(orjson.dumps(clicks[0] if events == 1 else {"events": clicks}))
    return bodies


async def _post(
    store: MadeStore, url: str, bodies: Sequence[bytes], secret: str, watch: Stopwatch
) -> None:
    settings = ServeSettings()
    of_store = StoreSettings(database_url=url, artifact_root=store.root)
    api = build_api(settings, lambda: Day.start(of_store, settings, no_bert))
    async with api.router.lifespan_context(api):
        while not api.state.day.watch.loaded:
            await asyncio.sleep(0.1)
        for place, body in enumerate(tqdm(bodies, desc="posts", leave=False)):
            with ExitStack() as stack:
                if place >= WARM:
                    stack.enter_context(watch.on_all(STEPS, ()))
                started_s = time.process_time()
                await asked_of(api, "POST", "/v1/events", secret, body)
                if place >= WARM:
                    watch.note(REQUEST, time.process_time() - started_s)


def _bare_append(database: Path, events: int) -> Callable[[bytes], None]:
    """Copies of rows of the log under keys of nobody, by one executemany and its commit."""
    lite = sqlite3.connect(database, isolation_level=None)
    lite.execute("PRAGMA synchronous = FULL")
    columns = [row[1] for row in lite.execute("PRAGMA table_info(events)")]
    found = lite.execute("SELECT * FROM events LIMIT ?", (events,)).fetchall()
    insert = f"INSERT INTO events VALUES ({', '.join('?' * len(columns))})"
    key, seq, event = (columns.index(name) for name in ("user_key", "user_seq", "event_id"))
    rng = np.random.default_rng(4)

    def append(_: bytes) -> None:
        rows = [list(row) for row in found]
        for row, number in zip(rows, rng.integers(2**62, size=events).tolist(), strict=True):
            row[key], row[seq], row[event] = number, 1, str(number)
        lite.execute("BEGIN IMMEDIATE")
        lite.executemany(insert, rows)
        lite.execute("COMMIT")

    return append


def _median_ms(run: Callable[[bytes], Any], bodies: Sequence[bytes]) -> float:
    took = []
    for body in bodies:
        started_s = time.thread_time()
        run(body)
        took.append(1_000 * (time.thread_time() - started_s))
    return float(np.median(took))


if __name__ == "__main__":
    run_bench("append_cost", measure)
