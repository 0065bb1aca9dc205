"""The steps of the night, one after the other in this process; the import loads torch and Ray."""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.data
import typer

from infra.cli.console import console
from ray_jobs.nightly.build import build
from ray_jobs.nightly.check import check
from ray_jobs.nightly.embed import embed
from ray_jobs.nightly.evaluate import evaluate
from ray_jobs.nightly.export import export
from ray_jobs.nightly.fold import fold
from ray_jobs.nightly.fuse import fuse
from ray_jobs.nightly.parity import parity
from ray_jobs.nightly.prune import pruned
from ray_jobs.nightly.publish import publish
from ray_jobs.nightly.step import (
    NICENESS,
    Night,
    Report,
    cluster_cpus,
    open_night,
    require_cpus,
    run_step,
    settle,
)
from ray_jobs.nightly.train import train
from ray_jobs.nightly.verify import verify
from sql import generations
from sql.engine import read_snapshot

STEPS: dict[str, Callable[[Night], Report]] = {
    "export": export,
    "check": check,
    "embed": embed,
    "train": train,
    "build": build,
    "fuse": fuse,
    "fold": fold,
    "evaluate": evaluate,
    "publish": publish,
    "verify": verify,
    "parity": parity,
    "prune": pruned,
}


def steps_left(night: Night) -> list[str]:
    """Names of the steps to run, those with a report among them: they give it and do nothing.

    Publishing takes the work files away, and with them the reports of the steps before it: of a
    published generation only the checks that come after can be left.
    """
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, night.generation_id)
    names = list(STEPS)
    if found is None or night.workspace.report("export") is not None:
        return names
    if found.state == "published":
        after = names[names.index("publish") + 1 :]
        return [name for name in after if night.workspace.report(name) is None]
    return [] if found.state == "pruned" else names


def run_night(generation: str) -> None:
    """Run all steps for `generation` on the cluster that the environment names.

    Where none is left it says so.

    Raises:
        NightError, StoreError: as the steps do; what was done stays done.
    """
    night = open_night(generation)
    left = steps_left(night)
    if not left:
        typer.echo(f"generation {generation} is done already: nothing is left to do")
        return
    os.nice(NICENESS)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.init(logging_level=logging.WARNING, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    require_cpus(night.settings.train_workers, cluster_cpus)
    settle()
    typer.echo(f"generation {generation}")
    done = False
    try:
        for number, (name, step) in enumerate(STEPS.items(), start=1):
            if name in left:
                _run(night, name, step, f"{number}/{len(STEPS)}")
        done = True
    finally:
        if not done:
            typer.echo(f"to go on: moonlark night --generation {generation}", err=True)
        ray.shutdown()
    typer.echo("next: moonlark serve")


def _run(night: Night, name: str, step: Callable[[Night], Report], place: str) -> None:
    started_s = time.monotonic()
    with console.status(f"{place} {name} ..."):
        report = run_step(night, name, step)
    facts = [_fact(k, v) for k, v in report.items() if k != "seconds" and _is_short(v)]
    head = f"{place} {name:<9}{time.monotonic() - started_s:6.1f} s"
    line = "  ".join([head, *facts])
    typer.echo(line if len(line) <= console.width else line[: console.width].rsplit("  ", 1)[0])


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 30)


def _fact(name: str, value: Any) -> str:
    return f"{name}={value:.4f}" if isinstance(value, float) else f"{name}={value}"
