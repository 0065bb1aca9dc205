"""What one list costs in CPU, step by step: a replica's app asked in this process, one at a time.

    python -m infra.bench.list_cost            100,000 and 1,000,000 items
    python -m infra.bench.list_cost --small    a small catalog

No Ray, no HAProxy, no socket: what is left is our own. The made stores are those of `serve`. Before
each list the user does something, and the figures are of the thread that makes the list, so that
other work on the machine changes them little.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.types import ASGIApp, Message
from tqdm import tqdm

import ray_jobs.compiled
import ray_jobs.shards.reader
import serve.fused
import serve.recommend
import serve.user_state
from infra.bench.report import Ratio, Report, Size, Table, run_bench
from infra.bench.serving.floor_apps import answer_nothing
from infra.bench.serving.floor_apps import api as nothing_by_fastapi
from infra.bench.serving.floors import search_alone, snapshot_alone
from infra.bench.serving.made_catalog import item_id, user_id
from infra.bench.serving.made_store import MadeStore
from infra.bench.serving.stack import make_bench_key
from infra.cli.settings import CliSettings
from ray_jobs.nightly.settings import NightSettings
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql.engine import open_engine
from sql.settings import StoreSettings

SIZES = {"full": ((100_000, 100_000), (1_000_000, 100_000)), "small": ((5_000, 500),)}
"""Items and users."""
ASKED = {"full": 400, "small": 40}
WARM = 20
"""The first lists, which are not counted."""
K = 20

MAKING, REQUEST = "making the list", "the whole request"
FAISS_ALONE, BARE_SNAPSHOT = "faiss alone", "bare snapshot"
NO_PYTHON = ("of it faiss", "of it compiled loops")
"""Of making a list what would be left if the interpreter cost nothing: it reads more rows of the
index than the list has, and scores what others took, what is new and what is acted on."""
COLLECTION, SETTLED = "a full garbage collection", "the same, with all before it frozen"
"""Nobody is answered meanwhile (`serve.settled`)."""
STEPS: tuple[tuple[str, Any, str], ...] = (
    ("snapshot", serve.user_state, "read_usual"),
    ("fold of one event", serve.user_state, "fold"),
    ("search", serve.recommend, "candidates_by_vector"),
    ("candidates, evidence and score", serve.fused.FusedLists, "of_known"),
    ("parts of the score and boosts", serve.recommend, "weighed"),
    ("re-ranking", serve.recommend, "rerank_page"),
    ("items as shown", serve.recommend, "listed"),
    (MAKING, serve.recommend.Recommender, "recommend_at_once"),
)
"""What is measured: its name, and the function that it is."""

SUMMED: tuple[tuple[str, Any, str], ...] = (
    ("compiled loops", ray_jobs.compiled.Kernel, "__call__"),
    ("faiss", ray_jobs.shards.reader, "assign_lists"),
    ("faiss", ray_jobs.shards.reader, "search_ivf"),
)
"""Of making the list, whatever step it is in: all calls of one list together."""

_ROWS = (
    *(step for step, _, _ in STEPS),
    *(f"of it {step}" for step in dict.fromkeys(step for step, _, _ in SUMMED)),
    *(REQUEST, COLLECTION, SETTLED),
)


@dataclass
class Stopwatch:
    """CPU of the calling thread in each step, milliseconds a list."""

    took_ms: dict[str, list[float]] = field(default_factory=dict)
    sums_s: dict[str, float] = field(default_factory=dict)
    """Of the list that is made now."""

    def of(self, step: str) -> float:
        """The median of a list; KeyError for a step that was never run."""
        return float(np.median(self.took_ms[step]))

    def note(self, step: str, seconds: float) -> None:
        self.took_ms.setdefault(step, []).append(1_000 * seconds)

    def around(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, measured."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            started_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.note(step, time.thread_time() - started_s)

        return measured

    def within(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, added to the sum of the list."""

        def added(*args: Any, **kwargs: Any) -> Any:
            started_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.thread_time() - started_s
                self.sums_s[step] = self.sums_s.get(step, 0.0) + took_s

        return added

    @contextmanager
    def on_all(
        self,
        steps: Sequence[tuple[str, Any, str]] = STEPS,
        summed: Sequence[tuple[str, Any, str]] = SUMMED,
    ) -> Iterator[None]:
        """In the place of these functions, for as long as one request takes."""
        kept = [(of, name, getattr(of, name)) for _, of, name in (*steps, *summed)]
        self.sums_s.clear()
        for step, of, name in steps:
            setattr(of, name, self.around(step, getattr(of, name)))
        for step, of, name in summed:
            setattr(of, name, self.within(step, getattr(of, name)))
        try:
            yield
        finally:
            for step, seconds in self.sums_s.items():
                self.note(f"of it {step}", seconds)
            for of, name, function in kept:
                setattr(of, name, function)


def measure(size: Size) -> Report:
    """All catalogs of that size."""
    ratios: list[Ratio] = []
    tables: list[Table] = []
    for items, users in SIZES[size]:
        watch, floors = measured(store_of(items, users), ASKED[size])
        name = f"{items:,} items"
        floor_ms = floors[FAISS_ALONE] + floors[BARE_SNAPSHOT]
        no_python_ms = sum(watch.of(step) for step in NO_PYTHON) + floors[BARE_SNAPSHOT]
        ratios += [
            Ratio(
                name=name,
                value=watch.of(MAKING) / floor_ms,
                of="making the list / (faiss alone + bare snapshot)",
            ),
            Ratio(
                name=f"{name}, without Python",
                value=no_python_ms / floor_ms,
                of="its faiss and compiled loops + bare snapshot / (faiss alone + bare snapshot)",
            ),
        ]
        rows = [(step, f"{watch.of(step):.3f}") for step in _ROWS]
        rows += [(floor, f"{ms:.3f}") for floor, ms in floors.items()]
        tables.append(Table(title=name, columns=("", "CPU, ms"), rows=tuple(rows)))
    return Report(
        bench="list_cost",
        about="A replica's app asked in the process, a list of 20 after one event of its user: "
        "medians of the CPU of the thread that makes it; the request: of the process.",
        ratios=tuple(ratios),
        tables=tuple(tables),
    )


def store_of(items: int, users: int) -> MadeStore:
    """Made where it is not there yet."""
    state_dir = CliSettings().state_dir
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    return MadeStore.ready(state_dir, items, users, bert)


def measured(store: MadeStore, asked: int) -> tuple[Stopwatch, dict[str, float]]:
    """The steps of a list, and what it cannot cost less than, ms."""
    faiss.omp_set_num_threads(1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moonlark-bench-")))
        url = store.copy_sqlite(folder / "moonlark.db")
        numbers = np.random.default_rng(1).choice(store.users, min(asked, store.users), False)
        users = [user_id(int(number)) for number in numbers]
        engine = open_engine(url)
        stack.callback(engine.dispose)
        secret = make_bench_key(engine)
        watch = Stopwatch()
        asyncio.run(_ask(store, url, users, secret, watch))
        floors = {
            FAISS_ALONE: _each_ms(search_alone(engine, store.directory, users, K), len(users)),
            BARE_SNAPSHOT: _each_ms(snapshot_alone(url, users), len(users)),
            "no-op ASGI app": asyncio.run(nothing_ms(answer_nothing)),
            "no-op FastAPI app": asyncio.run(nothing_ms(nothing_by_fastapi)),
        }
        return watch, floors


async def _ask(
    store: MadeStore, url: str, users: Sequence[str], secret: str, watch: Stopwatch
) -> None:
    """One event and one list of each user in turn."""
    settings = ServeSettings()
    of_store = StoreSettings(database_url=url, artifact_root=store.root)
    api = build_api(settings, lambda: Day.start(of_store, settings, no_bert))
    rng = np.random.default_rng(2)
    async with api.router.lifespan_context(api):
        while not api.state.day.watch.loaded:
            await asyncio.sleep(0.1)
        gc.collect()
        _collect(watch, COLLECTION)
        gc.freeze()
        for place, user in enumerate(tqdm(users, desc="lists", leave=False)):
            event = {"user_id": user, "kind": "click", "event_id": f"bench-{place}"}
            event["item_id"] = item_id(int(rng.integers(store.items)))
            await asked_of(api, "POST", "/v1/events", secret, orjson.dumps(event))
            with ExitStack() as stack:
                if place >= WARM:
                    stack.enter_context(watch.on_all())
                started_s = time.process_time()
                path = f"/v1/users/{user}/recommendations"
                await asked_of(api, "GET", path, secret, query=f"k={K}".encode())
                if place >= WARM:
                    watch.note(REQUEST, time.process_time() - started_s)
        _collect(watch, SETTLED)
    gc.unfreeze()


def _collect(watch: Stopwatch, name: str) -> None:
    started_s = time.thread_time()
    gc.collect()
    watch.note(name, time.thread_time() - started_s)


async def no_bert(texts: list[str]) -> tuple[str, NDArray[np.float32]]:
    raise ConnectionError("no text is embedded here")


async def asked_of(
    app: ASGIApp, method: str, path: str, secret: str = "", body: bytes = b"", query: bytes = b""
) -> bytes:
    """The answer of an app; raises RuntimeError where it is none."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"host", b"bench"),
            (b"authorization", f"Bearer {secret}".encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    answer: bytes = b"".join(message.get("body", b"") for message in sent)
    if sent[0]["status"] >= 300:
        raise RuntimeError(f"{method} {path}: {sent[0]['status']} {answer[:500]!r}")
    return answer


async def nothing_ms(app: ASGIApp, times: int = 500) -> float:
    took: list[float] = []
    for _ in range(times):
        started_s = time.thread_time()
        await asked_of(app, "GET", "/nothing")
        took.append(1_000 * (time.thread_time() - started_s))
    return float(np.median(took))


def _each_ms(run: Callable[[], None], count: int) -> float:
    """Of the second run: the first faults its pages in."""
    run()
    started_s = time.thread_time()
    run()
    return 1_000 * (time.thread_time() - started_s) / count


if __name__ == "__main__":
    run_bench("list_cost", measure)
