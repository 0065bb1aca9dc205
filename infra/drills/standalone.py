"""Drill `standalone`: `airflow standalone` runs the nights by itself, on a schedule.

The DAGs as they are shipped, their jobs on a real Ray head; the night is due every minute instead
of at three, and nobody triggers it. Each night must end well and publish once, and never two at a
time. Beside the second one the other DAGs run (`beside_night`). Then the shop goes on, and `airflow
backfill create` makes the first night again: a new generation with the bytes of the first, which is
never live, while the nights go on.
"""

import time
from datetime import datetime
from functools import partial
from typing import Any

from tqdm import tqdm

from dags.generation_name import night_prefix
from infra.drills.airflow_nights import NIGHT, OVER, AirflowNights, airflow_nights
from infra.drills.beside_night import check_stays_forgotten, leave_work, run_beside
from infra.drills.catalog import item_put
from infra.drills.figures import Figures, Options
from infra.drills.local import LocalStore
from infra.drills.stack import now_ms
from infra.stack.airflow_components import StandaloneAirflow
from infra.stack.errors import StackStartFailed
from ray_jobs.nightly.rebuild import is_rebuild
from sql import catalog, generations
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent, append

EVERY_MINUTE = "* * * * *"
NIGHTS = 2
BESIDE = 2
"""The night beside which the other DAGs run."""
CHECK = f"{NIGHT}-check-"
"""How the ids of the jobs after the export begin."""
BACKFILLS = 1
TYPED_AGAIN = "only one running backfill"
BETWEEN_TRIES_S = 5.0
BACKFILL = (
    *("backfill", "create", "--dag-id", NIGHT),
    *("--reprocess-behavior", "completed", "--max-active-runs", "1"),
)
DIFFERS = {"metrics.json"}
"""It says against what was live then the generation was judged."""


def run(options: Options) -> Figures:
    """`rounds` nights, by default two; then a backfill of the first one."""
    wanted = NIGHTS if options.rounds is None else options.rounds
    figures = Figures("standalone", wanted, options.seed)
    with (
        airflow_nights(StandaloneAirflow, figures, options.seed, schedule=EVERY_MINUTE) as nights,
        tqdm(
            total=wanted + BACKFILLS, desc="standalone", unit="night", disable=not options.progress
        ) as bar,
    ):
        started_s = time.monotonic()
        _scheduled(nights, figures, wanted, bar)
        figures.more |= {
            "nights": wanted,
            "published": nights.flips(),
            "seconds": round(time.monotonic() - started_s, 1),
        }
        if figures.passed:
            _backfilled(nights, figures, bar)
    return figures


def _scheduled(nights: AirflowNights, figures: Figures, wanted: int, bar: Any) -> None:
    most_at_once = 0
    for number in range(1, wanted + 1):
        # Its export is done: what comes now is for the next one.
        nights.wait(partial(_have_read, nights, number), f"night {number} has read")
        if number == BESIDE - 1:
            leave_work(nights)
        if number == BESIDE:
            run_beside(nights)

        def is_over(number: int = number) -> bool:
            nonlocal most_at_once
            states = [run["state"] for run in nights.runs()]
            most_at_once = max(most_at_once, states.count("running"))
            return len([state for state in states if state in OVER]) >= number

        if not nights.wait(is_over, f"night {number}"):
            break
        bar.update()
    if most_at_once > 1:
        figures.tell(f"{most_at_once} nights ran at once")
    for run in nights.runs()[:wanted]:
        if run["run_type"] != "scheduled" or run["state"] != "success":
            figures.tell(f"{run['dag_run_id']}: {run['run_type']}, ended {run['state']}")
    if nights.flips() < wanted:
        figures.tell(f"{wanted} nights published {nights.flips()} times")
    if wanted >= BESIDE:
        check_stays_forgotten(nights)


def _have_read(nights: AirflowNights, count: int) -> bool:
    """Whether so many nights were exported."""
    checks = [job for job in nights.jobs.all() if job.submission_id.startswith(CHECK)]
    return len(checks) >= count


def _backfilled(nights: AirflowNights, figures: Figures, bar: Any) -> None:
    run = nights.runs()[0]
    run_id, at = str(run["dag_run_id"]), str(run["logical_date"])
    (original,) = _of_that_night(nights.store, at)
    before = _files(nights.store, original.generation_id)
    _life_goes_on(nights.store)
    for number in range(1, BACKFILLS + 1):
        started_s = time.monotonic()
        if not nights.wait(lambda: _is_taken(nights, at), f"backfill {number} is taken"):
            return

        if not nights.wait(lambda: nights.is_over(run_id), f"backfill {number}"):
            return
        bar.update()
        found = nights.run(run_id)
        told = f"backfill {number} of {run_id}"
        if (found["run_type"], found["state"]) != ("backfill", "success"):
            figures.tell(f"{told}: {found['run_type']}, ended {found['state']}")
        figures.more[f"backfill_{number}_s"] = round(time.monotonic() - started_s, 1)
    again = [made for made in _of_that_night(nights.store, at) if is_rebuild(made)]
    if [made.state for made in again] != ["sealed"] * BACKFILLS:
        figures.tell(f"backfills made {[(made.generation_id, made.state) for made in again]}")
    for made in again:
        after = _files(nights.store, made.generation_id)
        if before.keys() != after.keys() or dict(before.items() ^ after.items()).keys() - DIFFERS:
            figures.tell(f"{made.generation_id} has other files than {original.generation_id}")
    with read_snapshot(nights.store.engine) as conn:
        lived = {flip.generation_id for flip in generations.live_history(conn)}
    if lived & {made.generation_id for made in again}:
        figures.tell("a backfill went live")
    figures.more["backfilled"] = len(again)


def _is_taken(nights: AirflowNights, at: str) -> bool:
    """Typed again while Airflow counts the backfill before as going on."""
    try:
        nights.airflow.command(*BACKFILL, "--from-date", at, "--to-date", at)
    except StackStartFailed as error:
        if TYPED_AGAIN not in str(error):
            raise
        time.sleep(BETWEEN_TRIES_S)
        return False
    return True


def _life_goes_on(store: LocalStore) -> None:
    """Nothing of this may be in a night that is made again."""
    late = [NewEvent(f"reader{n}", "late", EventKind.CLICK, "space1") for n in range(0, 60, 2)]
    append(store.engine, [late], received_at_ms=now_ms())
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
