"""The other DAGs, which the scheduler runs beside a night: what each must have done by its end.

`erase_users`, `upkeep` and `verify_live` come by their own schedule as soon as they may run,
`prune_artifacts` is triggered. That a run ended well is not enough: what was to go must be gone,
with its receipt, and what is live must be what its night made.
"""

from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

from infra.cli.erase_scan import files_of, scan_database, scan_files
from infra.drills.airflow_nights import AirflowNights
from infra.drills.stack import now_ms
from ray_jobs.nightly.verify import CheckFailed, check_files
from ray_jobs.nightly.workspace import Workspace, work_root
from ray_jobs.shards.errors import ShardsError
from sql import generations
from sql.engine import read_snapshot
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.erasure_receipts import Receipt, read_receipt
from sql.events import EventKind, NewEvent, append, find_user, read_tail

DAY_MS = 86_400_000
CANARY = "canary-standalone"
"""Who is erased; it is in all that they sent."""
PATRON = "patron"
"""Of whom retention takes a search, and leaves a click."""
LEFT_OVER = "g-left-over"
"""A night that broke off, longer ago than MOONLARK_KEEP_WORK_DAYS."""
BY_SCHEDULE = {"erase_users": "erase_users", "upkeep": "retain", "verify_live": "verify_live"}
"""DAG -> its task."""
PRUNE = "prune_artifacts"
MAX_ERASE_RUNS = 20
"""Where a step of a night runs just then, its work files wait for the next run."""


def leave_work(nights: AirflowNights) -> None:
    """What the other DAGs are to find, and the next night reads, too."""
    engine, at_ms = nights.store.engine, now_ms()
    old = NewEvent(PATRON, "old", EventKind.SEARCH, text="space long ago")
    said = f"{CANARY} space harbour"
    sent = [
        NewEvent(PATRON, "young", EventKind.CLICK, "space3"),
        NewEvent(CANARY, f"{CANARY}-1", EventKind.CLICK, "space3", surface=CANARY),
        NewEvent(CANARY, f"{CANARY}-2", EventKind.COMMENT, "space4", text=said),
        NewEvent(CANARY, f"{CANARY}-3", EventKind.SEARCH, text=said, request_id=CANARY),
    ]
    for came, came_ms in (([old], at_ms - 400 * DAY_MS), (sent, at_ms)):
        stamped = [replace(event, occurred_at_ms=came_ms) for event in came]
        append(engine, [stamped], received_at_ms=came_ms)


def run_beside(nights: AirflowNights) -> None:
    """All four, while a night that read `leave_work` runs; what they leave undone is told."""
    _leave_over(nights)
    work = str(work_root(nights.store.root))
    if not any(place.startswith(work) for place in _found(nights)):
        nights.figures.tell("the canary is in no work file: the scan shows nothing")
    receipt = _erase(nights)
    run_ids = {PRUNE: _trigger(nights, PRUNE, "beside")}
    for dag_id in BY_SCHEDULE:
        nights.let_run(dag_id)
    for dag_id in BY_SCHEDULE:
        nights.wait(partial(_has_run, nights, dag_id), f"{dag_id} runs")
        run_ids[dag_id] = nights.runs(dag_id)[0]["dag_run_id"]
    tasks = {PRUNE: "prune", **BY_SCHEDULE}
    reports = {
        dag_id: _report(nights, dag_id, run_id, tasks[dag_id]) for dag_id, run_id in run_ids.items()
    }
    nights.figures.more["reports"] = reports
    _check_retained(nights, reports["upkeep"])
    _check_pruned(nights, reports[PRUNE])
    _check_live(nights, reports["verify_live"])
    _check_forgotten(nights, receipt)


def _has_run(nights: AirflowNights, dag_id: str) -> bool:
    return bool(nights.runs(dag_id))


def check_stays_forgotten(nights: AirflowNights) -> None:
    """Also after the night that had read it was published."""
    with read_snapshot(nights.store.engine) as conn:
        user = find_user(conn, CANARY)
    for place in [*_found(nights), *([] if user is None else ["users"])]:
        nights.figures.resurrected += 1
        nights.figures.tell(f"the canary stands in {place}")


def _leave_over(nights: AirflowNights) -> None:
    """What a night that broke off a week ago left: its folders, and a row."""
    long_ago_ms = now_ms() - 8 * DAY_MS
    generations.register(
        nights.store.engine, LEFT_OVER, encoder_id="e", catalog_seq=0, created_at_ms=long_ago_ms
    )
    generations.fail(nights.store.engine, LEFT_OVER, "it broke off")
    left = Workspace(nights.store.root, LEFT_OVER)
    left.make()
    for folder in (left.work, left.directory):
        (folder / "left").write_bytes(b"left")


def _erase(nights: AirflowNights) -> Receipt:
    """As `DELETE /v1/users/U` does."""
    ledger = Ledger.open(nights.store.settings.ledger_folder)
    return erase_user(nights.store.engine, ledger, CANARY, at_ms=now_ms())


def _check_retained(nights: AirflowNights, report: dict[str, Any]) -> None:
    with read_snapshot(nights.store.engine) as conn:
        patron = find_user(conn, PATRON)
        left = [] if patron is None else read_tail(conn, patron.user_key, 0, 10)
    if (report.get("texts"), [event.event_id for event in left]) != (1, ["young"]):
        nights.figures.tell(f"upkeep: {report}, left {left}")


def _check_pruned(nights: AirflowNights, report: dict[str, Any]) -> None:
    left = Workspace(nights.store.root, LEFT_OVER)
    with read_snapshot(nights.store.engine) as conn:
        found = generations.get_generation(conn, LEFT_OVER)
    is_gone = found is not None and found.state == "pruned"
    if report.get("pruned") != [LEFT_OVER] or not is_gone or left.work.exists():
        nights.figures.tell(f"prune_artifacts: {report}, of {found}")
    if left.directory.exists():
        nights.figures.tell(f"prune_artifacts left {left.directory}")


def _check_live(nights: AirflowNights, report: dict[str, Any]) -> None:
    """What was looked at was live; it is what its night made, and so say the figures kept of it."""
    name = str(report.get("generation"))
    with read_snapshot(nights.store.engine) as conn:
        lived = [flip.generation_id for flip in generations.live_history(conn)]
        found = generations.get_generation(conn, name)
        parity = generations.read_parity(conn, name)
    if name not in lived or found is None or found.verified is None or parity is None:
        nights.figures.tell(f"verify_live: {report}, live were {lived}")
        return
    nights.figures.parity_max_abs_diff = parity.max_abs_diff
    if found.verified.broken is not None:
        nights.figures.tell(f"verify_live: {found.verified.broken}")
    try:
        check_files(Workspace(nights.store.root, name).directory, found.manifest_digest)
    except (CheckFailed, ShardsError, OSError) as error:
        nights.figures.tell(f"{name}, which is live, was touched: {error}")


def _check_forgotten(nights: AirflowNights, erased: Receipt) -> None:
    """The receipt is complete, in as many runs as that takes; then the canary is nowhere."""
    runs = 1
    while (receipt := _receipt(nights, erased)).completed_at_ms is None and runs < MAX_ERASE_RUNS:
        run_id = _trigger(nights, "erase_users", f"again-{runs}")
        _report(nights, "erase_users", run_id, "erase_users")
        runs += 1
    nights.figures.more["erase_runs"] = runs
    if receipt.completed_at_ms is None or receipt.removed.get("events") != 3:
        nights.figures.tell(f"after {runs} runs of erase_users: {receipt}")
        return
    check_stays_forgotten(nights)


def _receipt(nights: AirflowNights, erased: Receipt) -> Receipt:
    with read_snapshot(nights.store.engine) as conn:
        found = read_receipt(conn, erased.erasure_id)
    assert found is not None, "it was given"
    return found


def _found(nights: AirflowNights) -> list[str]:
    """Where the canary stands: tables, artifact root, what Airflow and Ray wrote."""
    store = nights.store
    ray_files = nights.cluster.state.temp_dir
    files = files_of(store.engine, store.root, nights.airflow_home, ray_files)
    return [*scan_database(store.engine, [CANARY]), *scan_files(files, [CANARY])]


def _trigger(nights: AirflowNights, dag_id: str, run_id: str) -> str:
    nights.let_run(dag_id)
    body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
    nights.airflow.api("POST", f"/dags/{dag_id}/dagRuns", body)
    return run_id


def _report(nights: AirflowNights, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
    """What the run's job reported; empty where it did not end well, which is told."""
    nights.wait(lambda: nights.is_over(run_id, dag_id), f"end of {dag_id} {run_id}")
    found = nights.run(run_id, dag_id)
    if found["state"] != "success":
        nights.figures.tell(f"{dag_id} {run_id} ended {found['state']}")
        return {}
    task = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}"
    value: dict[str, Any] = nights.airflow.api("GET", f"{task}/xcomEntries/return_value")["value"]
    return value
