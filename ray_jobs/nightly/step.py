"""How a step of the night runs: the same way from Airflow, from the command line and in a test.

A step is a function `step(night) -> report`. `main` is the entrypoint of its Ray job: it reads
the settings, skips what is already done, records why a generation failed, and prints the report
as the last line, where the Airflow operator picks it up.
"""

import argparse
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RaySystemError,
    WorkerCrashedError,
)
from sqlalchemy import Engine

from ray_jobs.encoders.bert_settings import Device, device_of
from ray_jobs.nightly import step_log
from ray_jobs.nightly.carried_work import fetch_work, leave_node, put_work, stamps
from ray_jobs.nightly.infrastructure import STORE_ERRORS, ends_for_another_try
from ray_jobs.nightly.kept import Kept
from ray_jobs.nightly.rebuild import as_exported
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step_figures import STEPS, of_night, of_report
from ray_jobs.nightly.work_files import in_use
from ray_jobs.nightly.workspace import NoCpus, Workspace
from ray_jobs.shards.object_store import ObjectStore
from sql import generations
from sql.engine import open_engine, read_snapshot
from sql.erasure import apply_ledger
from sql.erasure_ledger import Ledger
from sql.errors import StoreError
from sql.generations import Unfinished
from sql.schema import check_schema
from sql.settings import StoreSettings

log = logging.getLogger("moonlark.night")

RESULT_MARK = "MOONLARK_RESULT"
"""The line that starts so carries the step's report as JSON."""

NICENESS = 10
"""The night yields to the day on a shared machine."""

CPU_WAIT_S = 60.0
"""How long a step waits for CPUs that others hold; then it fails, and its task may be retried."""

CPU_POLL_S = 5.0

INFRASTRUCTURE_ERRORS = (
    *STORE_ERRORS,
    NoCpus,
    RaySystemError,
    NodeDiedError,
    WorkerCrashedError,
    ActorDiedError,
    ObjectLostError,
    OutOfMemoryError,
)
"""What says nothing against the work of the step: a retry may well succeed."""

AFTER_PUBLISH = ("verify", "parity", "prune")
"""In their order."""

Report = dict[str, Any]


@dataclass(frozen=True)
class Night:
    """What every step needs: where things are and what it was told. Defaults are production's."""

    engine: Engine
    store: StoreSettings
    settings: NightSettings
    workspace: Workspace
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    lease_now_ms: Callable[[], int] | None = None
    """The clock of the replicas' leases; None: the database's."""

    @property
    def generation_id(self) -> str:
        """The generation that is being made."""
        return self.workspace.generation_id


def open_night(generation_id: str) -> Night:
    """The night as the environment says; checks the database's schema first."""
    store = StoreSettings()
    engine = open_engine(store.database_url)
    check_schema(engine)
    root = Path(store.artifact_root).absolute()
    apply_ledger(engine, Ledger.open(store.ledger_folder))  # the database may have been restored
    workspace = Workspace(root, generation_id, ObjectStore.open(store.artifact_uri))
    return Night(engine, store, as_exported(NightSettings(), workspace), workspace)


def run_step(
    night: Night,
    name: str,
    step: Callable[[Night], Report],
    *,
    beside_others: bool = False,
    is_retried: bool = False,
    wrote: Sequence[Path] | None = None,
) -> Report:
    """Run `step` unless its report exists already; record the reason if it fails.

    The work folder is marked as in use meanwhile: an erasure rewrites it only between steps.
    A generation that failed before is building again: a task that is retried, or a night that is
    taken up by hand, ends as if nothing had happened. `is_retried`: what the infrastructure broke
    its caller tries again, so that it fails no generation yet. `wrote`: see
    `carried_work.put_work`.
    """
    try:
        with in_use(night.workspace.work, beside_others=beside_others):
            return _run_step(night, name, step, resume=not beside_others, wrote=wrote)
    except Exception as error:  # edge of the job: the registry must say why the night ended
        _record_failure(night, name, error, is_retried=is_retried)
        _log(night, name, {"outcome": "failed", "error": type(error).__name__})
        raise
    finally:
        if night.workspace.objects is not None:
            leave_node(night.workspace.root)


def _run_step(
    night: Night,
    name: str,
    step: Callable[[Night], Report],
    *,
    resume: bool,
    wrote: Sequence[Path] | None,
) -> Report:
    """`resume`: not by a part that runs beside others, for one of them may just have failed."""
    if resume:
        generations.resume(night.engine, night.generation_id)
    generations.report_step(night.engine, night.generation_id, night.now_ms())
    done = night.workspace.report(name)
    if done is not None:
        log.info("%s: already done, nothing to do again", name)
        generations.finish_step(night.engine, night.generation_id, name)
        return done
    report = _carried(night, name, step, wrote)
    if night.workspace.work.exists():  # publish takes the work files away
        night.workspace.write_report(name, report)
        Kept(night.workspace, name).forget()
    _keep_figures(night, name, report)
    generations.report_step(night.engine, night.generation_id, night.now_ms())
    generations.finish_step(night.engine, night.generation_id, name)
    _log(night, name, {"outcome": "done", **of_report(name, report)})
    log.info("%s: %s", name, json.dumps(report, sort_keys=True))
    return report


def _carried(
    night: Night, name: str, step: Callable[[Night], Report], wrote: Sequence[Path] | None
) -> Report:
    """The step between fetching what it reads and putting what it wrote, if there is a store."""
    workspace = night.workspace
    if workspace.objects is None:
        return _timed(night, step)
    there = fetch_work(workspace)
    before = stamps(workspace)
    report = _timed(night, step)
    if workspace.work.exists():
        put_work(workspace, name, report, there=there, before=before, wrote=wrote)
    return report


def _timed(night: Night, step: Callable[[Night], Report]) -> Report:
    started = time.perf_counter()
    report = step(night)
    report["seconds"] = round(time.perf_counter() - started, 3)
    return report


def _log(night: Night, name: str, told: Report) -> None:
    if night.settings.log == "json":
        step_log.write(step_log.line(night.generation_id, name, night.now_ms(), told))


def _keep_figures(night: Night, name: str, report: Report) -> None:
    """Before the seal of all steps so far; of one after it, beside those."""
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, night.generation_id)
    if found is None:
        return
    if found.state in ("building", "failed"):
        steps = of_night(night.workspace)
    else:
        steps = {**found.metrics.get(STEPS, {}), name: of_report(name, report)}
    generations.add_metrics(night.engine, night.generation_id, {STEPS: steps})


def _record_failure(night: Night, name: str, failed: Exception, *, is_retried: bool) -> None:
    """Into the registry; what stands in the way there must not hide the reason itself.

    By its class the on-call is told whether the gate refused it or a step broke. After the publish
    a generation stays what that made of it: sealed, for a person to publish, or live; it is
    unfinished. One whose step is tried again is told of when its run has failed (`broke_off`).
    """
    reason = f"{name}: {failed}"
    is_tried_again = is_retried and isinstance(failed, INFRASTRUCTURE_ERRORS)
    try:
        if name in AFTER_PUBLISH:
            unfinished = Unfinished(name, str(failed), night.now_ms(), is_tried_again)
            generations.keep_unfinished(night.engine, night.generation_id, unfinished)
            return
        if is_tried_again:
            generations.report_try(night.engine, night.generation_id, reason)
            return
        generations.fail(night.engine, night.generation_id, reason)
        told = {"failed_as": type(failed).__name__, "failed_at_ms": night.now_ms()}
        generations.add_metrics(night.engine, night.generation_id, told)
    except StoreError as error:
        log.error("%s; the registry did not take it: %s", reason, error)


def settle() -> None:
    """What a process has loaded stays: the garbage collector need not walk over it whenever a step
    makes objects by the million (`infra/decisions/LOG.md`, "A night's garbage collector")."""
    gc.collect()
    gc.freeze()


def require_cpus(
    needed: int,
    resources: Callable[[], tuple[float, float]],
    *,
    sleep: Callable[[float], None] = time.sleep,
    wait_s: float = CPU_WAIT_S,
) -> None:
    """Wait a while until so many CPUs are free; Ray would wait for ever and say nothing.

    Args:
        resources: CPUs of the cluster, and how many of them are free.

    Raises:
        NoCpus: the cluster has too few, or others keep them.
    """
    total, free = resources()
    for _ in range(int(wait_s / CPU_POLL_S)):
        if total < needed or free >= needed:
            break
        log.warning("%g of %g CPUs are free, %d are needed: waiting", free, total, needed)
        sleep(CPU_POLL_S)
        total, free = resources()
    if free < needed:
        raise NoCpus(
            f"{free:g} of the Ray cluster's {total:g} CPUs are free, the step needs {needed}",
            hint="give the cluster more (the day takes a part of one), or lower "
            "MOONLARK_TRAIN_WORKERS",
        )


def cluster_cpus() -> tuple[float, float]:
    """CPUs of the Ray cluster, and how many of them are free."""
    total = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    return total, free


NIGHT_GPU = 0.75
"""Of a GPU, what a training worker asks Ray for, or the actors that embed on it together. More than
half: two workers on one GPU is what NCCL refuses. Less than all: the day's BERT has a part."""


def device_of_cluster(setting: Literal["cpu", "cuda", "auto"], needed: int = 1) -> Device:
    """Where a step's workers run: `cuda` where the cluster has `needed` GPUs or more.

    Raises:
        NoGpu: `cuda` is asked for, and it has fewer: Ray would wait for ever and say nothing.
    """
    if setting == "cpu":
        return "cpu"
    gpus = cluster_gpus()
    where = f"for each of {needed} workers: the Ray cluster has {gpus:g}"
    return device_of(setting, gpus if gpus >= needed else 0, where)


def cluster_gpus() -> float:
    """GPUs of the Ray cluster."""
    total: float = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    return total


def main(
    name: str,
    step: Callable[[Night], Report],
    *,
    needs_ray: bool = False,
    niced: bool = True,
) -> None:
    """Entrypoint of `python -m ray_jobs.nightly.<name> --generation ID`.

    `niced` is False for the steps that write in bulk: on SQLite a process that is put aside while
    it holds the writer's lock holds up the day's acknowledgements.
    """
    parser = argparse.ArgumentParser(description=f"the step {name!r} of the night")
    parser.add_argument("--generation", required=True, help="id of the generation being made")
    run_job(name, step, parser.parse_args().generation, needs_ray=needs_ray, niced=niced)


def run_job(
    name: str,
    step: Callable[[Night], Report],
    generation_id: str,
    *,
    needs_ray: bool = False,
    niced: bool = True,
    beside_others: bool = False,
    wrote: Callable[[Workspace], Sequence[Path]] | None = None,
) -> None:
    """What a Ray job of the night does, whatever its command line says besides the generation.

    `wrote`: what a part that runs beside others writes, and no other.

    Ends with TRY_AGAIN_EXIT_CODE where nothing is wrong with the work itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if niced:
        os.nice(NICENESS)
    with ends_for_another_try(name, INFRASTRUCTURE_ERRORS):
        if needs_ray:
            ray.init(logging_level=logging.WARNING)
            require_cpus(1, cluster_cpus)
        night = open_night(generation_id)
        settle()
        paths = None if wrote is None else wrote(night.workspace)
        report = run_step(
            night, name, step, beside_others=beside_others, is_retried=True, wrote=paths
        )
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report, sort_keys=True)}\n")
    sys.stdout.flush()
