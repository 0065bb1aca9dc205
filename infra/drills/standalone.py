"""Drill `standalone`: `airflow standalone` runs the nights by itself, on a schedule.

The DAGs as they are shipped, their jobs on a real Ray head; the night is due every minute instead
of at three, and nobody triggers it. Each night must end well and publish once, and never two at a
time. Beside the second one the other DAGs run (`beside_night`); then the shop goes on, and `airflow
backfill create` makes the first night again: a new generation with the bytes of the first, which is
never live, while the nights go on.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from tqdm import tqdm

from dags.generation_name import night_prefix
from infra.drills.airflow_nights import NIGHT, OVER, AirflowNights, airflow_nights
from infra.drills.beside_night import check_stays_forgotten, leave_work, run_beside
from infra.drills.catalog import item_put
from infra.drills.figures import Figures, Options
from infra.drills.local import LocalStore
from infra.drills.stack import now_ms
from infra.stack.airflow_components import StandaloneAirflow
from sql import catalog, generations
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent, append

EVERY_MINUTE = "* * * * *"
SCHEDULED, BACKFILL = "scheduled", "backfill"
"""Airflow's types of runs that nobody triggered, or an operator typed."""
NIGHTS = 2
CHECK = f"{NIGHT}-check-"
"""How the ids of the jobs after the export begin."""
TYPED = (
    *(BACKFILL, "create", "--dag-id", NIGHT),
    *("--reprocess-behavior", "completed", "--max-active-runs", "1"),
)
DIFFERS = {"metrics.json"}
"""It says against what was live then the generation was judged."""


def run(options: Options) -> Figures:
    """`rounds` nights, by default and at least two."""
    wanted = max(NIGHTS, options.rounds or NIGHTS)
    figures = Figures("standalone", wanted, options.seed)
    with (
        airflow_nights(StandaloneAirflow, figures, options.seed, schedule=EVERY_MINUTE) as nights,
        tqdm(
            total=wanted + 1, desc="standalone", unit="night", disable=not options.progress
        ) as bar,
    ):
        started_s = time.monotonic()
        watch = _Watch(nights)
        # Its export is done: what comes now is for the next one.
        nights.wait(partial(_have_read, nights, 1), "the first night has read")
        leave_work(nights)
        if watch.wait_for(1):
            bar.update()
            figures.more["first_night_s"] = round(time.monotonic() - started_s, 1)
            nights.wait(partial(_have_read, nights, 2), "the second night has read")
            run_beside(nights)
            _backfill(nights, figures)
            bar.update()
        for number in range(2, wanted + 1):
            if not watch.wait_for(number):
                break
            bar.update()
        _check_nights(nights, figures, wanted, watch.most_at_once)
        check_stays_forgotten(nights)
        figures.more |= {
            "nights": wanted,
            "published": nights.flips(),
            "seconds": round(time.monotonic() - started_s, 1),
        }
    return figures


@dataclass
class _Watch:
    """Waits for nights, and sees how many run at once; a backfill may run beside them."""

    nights: AirflowNights
    most_at_once: int = 0

    def wait_for(self, count: int) -> bool:
        """Until so many are over."""
        return self.nights.wait(lambda: self._are_over(count), f"night {count}")

    def _are_over(self, count: int) -> bool:
        runs = self.nights.runs()
        running = [run for run in runs if run["state"] == "running" and run["run_type"] != BACKFILL]
        self.most_at_once = max(self.most_at_once, len(running))
        return len(runs) >= count and all(run["state"] in OVER for run in runs[:count])


def _have_read(nights: AirflowNights, count: int) -> bool:
    """Whether so many nights were exported."""
    checks = [job for job in nights.jobs.all() if job.submission_id.startswith(CHECK)]
    return len(checks) >= count


def _check_nights(nights: AirflowNights, figures: Figures, wanted: int, most_at_once: int) -> None:
    if most_at_once > 1:
        figures.tell(f"{most_at_once} nights ran at once")
    for run in nights.runs():
        if run["state"] == "failed" or run["run_type"] not in (SCHEDULED, BACKFILL):
            figures.tell(f"{run['dag_run_id']}: {run['run_type']}, ended {run['state']}")
    if nights.flips() < wanted:
        figures.tell(f"{wanted} nights published {nights.flips()} times")


def _backfill(nights: AirflowNights, figures: Figures) -> None:
    """Of the first night: its run is taken up, and makes another generation."""
    run = nights.runs()[0]
    run_id, at = str(run["dag_run_id"]), str(run["logical_date"])
    (original,) = _of_that_night(nights.store, at)
    before = _files(nights.store, original.generation_id)
    _life_goes_on(nights.store)
    started_s = time.monotonic()
    nights.airflow.command(*TYPED, "--from-date", at, "--to-date", at)

    def is_over() -> bool:
        first = [run for run in nights.runs() if run["dag_run_id"] == run_id]
        return [run["run_type"] for run in first] == [BACKFILL] and first[0]["state"] in OVER

    nights.wait(is_over, f"a backfill takes up {run_id}")
    figures.more["backfill_s"] = round(time.monotonic() - started_s, 1)
    again = _again(nights.store, at)
    if [made.state for made in again] != ["sealed"]:
        figures.tell(f"the backfill made {[(made.generation_id, made.state) for made in again]}")
    for made in again:
        after = _files(nights.store, made.generation_id)
        differ = {name for name, _ in before.items() ^ after.items()} - DIFFERS
        if differ:
            figures.tell(f"{made.generation_id} is not {original.generation_id}: {sorted(differ)}")
    with read_snapshot(nights.store.engine) as conn:
        lived = {flip.generation_id for flip in generations.live_history(conn)}
    if lived & {made.generation_id for made in again}:
        figures.tell("a backfill went live")


def _again(store: LocalStore, at: str) -> list[generations.Generation]:
    return [made for made in _of_that_night(store, at) if made.is_rebuild]


def _life_goes_on(store: LocalStore) -> None:
    """Nothing of this may be in a night that is made again."""
    at_ms = now_ms()
    late = [
        NewEvent(f"reader{n}", "late", EventKind.CLICK, "space1", occurred_at_ms=at_ms)
        for n in range(0, 60, 2)
    ]
    append(store.engine, [late], received_at_ms=at_ms)
    catalog.put_items(store.engine, [item_put("space1", "another title")], now_ms())
    catalog.delete_item(store.engine, "space2", None, now_ms())


def _of_that_night(store: LocalStore, at: str) -> list[generations.Generation]:
    prefix = night_prefix(datetime.fromisoformat(at))
    with read_snapshot(store.engine) as conn:
        known = generations.list_generations(conn)
    return [made for made in known if made.generation_id.startswith(prefix)]


def _files(store: LocalStore, generation_id: str) -> dict[str, str]:
    with read_snapshot(store.engine) as conn:
        return {file.path: file.sha256 for file in generations.list_artifacts(conn, generation_id)}
