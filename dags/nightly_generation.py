"""The night: from the catalog and the event log to a published generation.

    begin -> export -> check -> embed -> train -> plan_shards -> build_shard (one a shard) -> build
          -> fuse -> fold -> evaluate -> publish -> verify -> parity

Each step is `python -m ray_jobs.nightly.<step> --generation ID` on Ray, and a transaction: run
again it gives the same result, and goes on at its last chunk. Tasks wait in the triggerer. What
the cluster breaks is tried again, what the data or the gate refuses is told at once; what is live
stays live. Two nights at once never both publish (`ray_jobs.nightly.publish`). `verify` rolls
back, with hold, what it finds broken after the publish. Try it: `airflow dags test
nightly_generation`, with `--conf '{"publish": false}'` for a night that changes nothing.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Param, TaskGroup, chain, dag, task

from dags.generation_name import generation_id
from dags.ray_job.operator import RayJobOperator

HOURS = {
    **{"export": 2, "check": 1, "embed": 8, "train": 8, "plan_shards": 1, "build_shard": 2},
    **{"build": 2, "fuse": 4, "fold": 4, "evaluate": 4, "publish": 1, "verify": 1, "parity": 1},
}
"""After so long a step's job is stopped and tried again: far above what a large catalog takes."""
NIGHT_TIMEOUT = timedelta(hours=20)
POOL = os.environ.get("MOONLARK_AIRFLOW_POOL", "default_pool")
"""Bounds the jobs on the cluster; it must count deferred tasks (`airflow pools set ...
--include-deferred`)."""
SHARDS_AT_ONCE = 8

SCHEDULE = os.environ.get("MOONLARK_NIGHT_SCHEDULE", "0 3 * * *") or None
"""A cron expression in UTC; empty: by hand only."""

PARAMS = {
    "full": Param(
        False, type="boolean", description="embed every text again, reuse no stored vector"
    ),
    "seed": Param(
        0, type="integer", minimum=0, maximum=2**31 - 1, description="of all that training draws"
    ),
    "publish": Param(
        True, type="boolean", description="false: seal what passes its gate, leave what is live"
    ),
}
SETTINGS = {
    "MOONLARK_EMBED_ALL": "{{ 'true' if params.full else '' }}",
    "MOONLARK_TRAIN_SEED": "{{ params.seed or '' }}",
    "MOONLARK_PUBLISH": "{{ '' if params.publish else 'false' }}",
}
"""Empty where the run asks for nothing: then it is as the cluster's environment says."""


def job(step: str, generation: Any) -> RayJobOperator:
    """The task of one step."""
    return RayJobOperator(
        task_id=step,
        entrypoint=["python", "-m", f"ray_jobs.nightly.{step}", "--generation", generation],
        env_vars=SETTINGS,
        deferrable=True,
        job_timeout_s=HOURS[step] * 3600.0,
    )


@dag(
    dag_id="nightly_generation",
    schedule=SCHEDULE,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    # Two nights at once would race for the same machine and the same live pointer.
    max_active_runs=1,
    dagrun_timeout=NIGHT_TIMEOUT,
    params=PARAMS,
    default_args={
        "pool": POOL,
        # Of the infrastructure alone (dags/ray_job/retries.py): half an hour of outage in all.
        "retries": 4,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=15),
    },
    tags=["moonlark"],
    doc_md=__doc__,
)
def nightly_generation() -> None:
    @task
    def begin(**context: Any) -> str:
        """The id of tonight's generation, computed once from the run."""
        dag_run = context["dag_run"]
        # A run that was triggered by hand may have no logical date.
        return generation_id(dag_run.run_id, dag_run.logical_date or dag_run.run_after)

    @task
    def shard_commands(generation: str, plan: dict[str, Any]) -> list[list[str]]:
        """The words of one job a shard, as many as `plan_shards` decided."""
        words = ["python", "-m", "ray_jobs.nightly.build_shard", "--generation", generation]
        return [[*words, "--shard", str(number)] for number in range(plan["shards"])]

    generation: Any = begin()

    def group(name: str, steps: Sequence[str]) -> TaskGroup:
        # Names of tasks stay those of the steps: reports, metrics and runbooks say them.
        with TaskGroup(name, prefix_group_id=False) as made:
            chain(*(job(step, generation) for step in steps))
        return made

    data = group("data", ["export", "check"])
    model = group("model", ["embed", "train"])
    with TaskGroup("index", prefix_group_id=False) as index:
        plan = job("plan_shards", generation)
        commands: Any = shard_commands(generation, plan.output)  # type: ignore[arg-type]
        shards = RayJobOperator.partial(
            task_id="build_shard",
            env_vars=SETTINGS,
            deferrable=True,
            job_timeout_s=HOURS["build_shard"] * 3600.0,
            max_active_tis_per_dagrun=SHARDS_AT_ONCE,
        ).expand(entrypoint=commands)
        chain(plan, commands, shards, job("build", generation))
    users = group("users", ["fuse", "fold"])
    judgement = group("judgement", ["evaluate"])
    live = group("live", ["publish", "verify", "parity"])
    chain(generation, data, model, index, users, judgement, live)


nightly_generation()
