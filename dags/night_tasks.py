"""The steps of a night as tasks, for the DAGs that make a generation, tonight's or a past one.

export -> check -> embed -> train -> plan_shards -> build_shard (one a shard) -> build
       -> fuse -> fold -> evaluate -> publish -> verify -> parity -> prune
"""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup, chain, task

from dags.ray_job.operator import RayJobOperator

HOURS = {
    **{"export": 2, "check": 1, "embed": 8, "train": 8, "plan_shards": 1, "build_shard": 2},
    **{
        "build": 2,
        "fuse": 4,
        "fold": 4,
        "evaluate": 4,
        "publish": 1,
        "verify": 1,
        "parity": 1,
        "prune": 1,
    },
}
"""After so long a step's job is stopped and tried again: far above what a large catalog takes."""
NIGHT_TIMEOUT = timedelta(hours=20)
POOL_VARIABLE = "MOONLARK_AIRFLOW_POOL"
POOL = os.environ.get(POOL_VARIABLE, "default_pool")
"""Bounds the jobs on the cluster, if it counts deferred tasks: `airflow pools set NAME SLOTS
DESCRIPTION --include-deferred`. Airflow's default_pool counts none that wait, and so bounds
nothing. Of a pool that does not exist Airflow starts no task: name only one that does."""
SHARDS_AT_ONCE = 8

GPU_A_SHARD = 0.25
"""Of a GPU, what the driver of a shard's job asks Ray for where the steps run on GPUs: it finds the
lists there itself (a third of `ray_jobs.nightly.step.NIGHT_GPU`)."""

DEFAULT_ARGS: dict[str, Any] = {
    "pool": POOL,
    # Of the infrastructure alone (dags/ray_job/retries.py): half an hour of outage in all.
    "retries": 4,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=15),
}


def shard_gpus() -> float:
    """GPUs for the driver of `build_shard`, as the environment says (`MOONLARK_DEVICE`)."""
    return GPU_A_SHARD if os.environ.get("MOONLARK_DEVICE") == "cuda" else 0.0


def night_tasks(night: Any, settings: Mapping[str, str]) -> None:
    """The tasks of all steps.

    Args:
        night: XCom of the task that names it: `{"generation": id, "rebuild": id or ""}`.
        settings: environment of each job (templates); what is empty is left out.
    """
    generation: Any = night["generation"]

    def job(step: str, *words: Any) -> RayJobOperator:
        command = ["python", "-m", f"ray_jobs.nightly.{step}", "--generation", generation]
        return RayJobOperator(
            task_id=step,
            entrypoint=[*command, *words],
            env_vars=settings,
            deferrable=True,
            job_timeout_s=HOURS[step] * 3600.0,
        )

    def group(name: str, steps: Sequence[str]) -> TaskGroup:
        # Names of tasks stay those of the steps: reports, metrics and runbooks say them.
        with TaskGroup(name, prefix_group_id=False) as made:
            chain(*(job(step) for step in steps))
        return made

    @task
    def shard_commands(generation: str, plan: dict[str, Any]) -> list[list[str]]:
        """The words of one job a shard, as many as `plan_shards` decided."""
        words = ["python", "-m", "ray_jobs.nightly.build_shard", "--generation", generation]
        return [[*words, "--shard", str(number)] for number in range(plan["shards"])]

    with TaskGroup("data", prefix_group_id=False) as data:
        chain(job("export", "--rebuild", night["rebuild"]), job("check"))
    model = group("model", ["embed", "train"])
    with TaskGroup("index", prefix_group_id=False) as index:
        plan = job("plan_shards")
        commands: Any = shard_commands(generation, plan.output)  # type: ignore[arg-type]
        shards = RayJobOperator.partial(
            task_id="build_shard",
            env_vars=settings,
            deferrable=True,
            entrypoint_num_gpus=shard_gpus(),
            job_timeout_s=HOURS["build_shard"] * 3600.0,
            max_active_tis_per_dagrun=SHARDS_AT_ONCE,
        ).expand(entrypoint=commands)
        chain(plan, commands, shards, job("build"))
    users = group("users", ["fuse", "fold"])
    judgement = group("judgement", ["evaluate"])
    live = group("live", ["publish", "verify", "parity", "prune"])
    chain(night, data, model, index, users, judgement, live)
