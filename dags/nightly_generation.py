"""The night: from the catalog and the event log to a published generation.

    begin -> export -> check -> embed -> train -> plan_shards -> build_shard (one a shard) -> build
          -> fuse -> fold -> evaluate -> publish -> verify -> parity -> prune

Each step is `python -m ray_jobs.nightly.<step> --generation ID` on Ray, and a transaction: run
again it gives the same result, and goes on at its last chunk (texts, epoch, shard, users). Tasks
wait in the triggerer. What the cluster breaks is tried again, what the data or the gate refuses is
told at once; what is live stays live. Two nights at once never both publish
(`ray_jobs.nightly.publish`). `verify` rolls back, with hold, what it finds broken after the
publish. Try it: `airflow dags test nightly_generation`, with `--conf '{"publish": false}'` for a
night that changes nothing.

A backfill makes past nights again, each from its stored watermark as `rebuild_generation` does, and
publishes none. The night of DATE alone, which ran at 3:00 of it:

    airflow backfill create --dag-id nightly_generation --from-date DATE --to-date DATE+1 \\
        --reprocess-behavior completed --max-active-runs 1

Both dates are midnights. A backfill runs beside tonight's night, whatever `max_active_runs` of the
DAG says, and without that option ten nights of it at a time.
"""

import os
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task

from dags.failed_night import fails_with_its_run
from dags.generation_name import generation_id, night_prefix
from dags.night_tasks import DEFAULT_ARGS, NIGHT_TIMEOUT, night_tasks

SCHEDULE = os.environ.get("MOONLARK_NIGHT_SCHEDULE", "0 3 * * *") or None
"""A cron expression in UTC; empty: by hand only."""

PARAMS = {
    "full": Param(
        False,
        type="boolean",
        description="embed every text again, reuse no stored vector; "
        "false: as the cluster's environment says (MOONLARK_EMBED_ALL)",
    ),
    "seed": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        maximum=2**31 - 1,
        description="of all that training draws; "
        "without one: as the cluster's environment says (MOONLARK_TRAIN_SEED)",
    ),
    "publish": Param(
        True,
        type="boolean",
        description="false: seal what passes its gate, leave what is live; "
        "true: as the cluster's environment says (MOONLARK_PUBLISH)",
    ),
}
BACKFILL = "backfill"
"""Airflow's type of a run that `airflow backfill create` made."""
SETTINGS = {
    "MOONLARK_EMBED_ALL": "{{ 'true' if params.full else '' }}",
    "MOONLARK_TRAIN_SEED": "{{ '' if params.seed is none else params.seed }}",
    "MOONLARK_PUBLISH": (
        "{{ '' if params.publish and dag_run.run_type != '" + BACKFILL + "' else 'false' }}"
    ),
}
"""Empty where the run asks for nothing: then it is as the cluster's environment says."""


def night_of(dag_run: Any) -> dict[str, str]:
    """What `name_night` says of a run, in its tasks and when it has failed."""
    # A run that was triggered by hand may have no logical date.
    stamp = dag_run.logical_date or dag_run.run_after
    # Airflow's two enums of types give different words by `str`.
    run_type = str(getattr(dag_run.run_type, "value", dag_run.run_type))
    clears = getattr(dag_run, "clear_number", None) or 0
    return name_night(dag_run.run_id, run_type, stamp, clears)


def name_night(run_id: str, run_type: str, stamp: Any, clear_number: int) -> dict[str, str]:
    """The id of the run's generation, and of which past night it is a rebuild ("": of none)."""
    if run_type != BACKFILL:
        return {"generation": generation_id(run_id, stamp), "rebuild": ""}
    # A backfill takes up the run of that night itself, and the next one the same run once more: by
    # its name alone its generation would be there already.
    return {
        "generation": generation_id(f"{run_id} {BACKFILL} {clear_number}", stamp),
        "rebuild": night_prefix(stamp),
    }


@dag(
    dag_id="nightly_generation",
    schedule=SCHEDULE,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    # Two nights at once would race for the same machine and the same live pointer.
    max_active_runs=1,
    dagrun_timeout=NIGHT_TIMEOUT,
    params=PARAMS,
    default_args=DEFAULT_ARGS,
    on_failure_callback=fails_with_its_run(
        lambda run: night_of(run)["generation"],
        is_owed=lambda run: not night_of(run)["rebuild"],
    ),
    tags=["moonlark"],
    doc_md=__doc__,
)
def nightly_generation() -> None:
    @task
    def begin(**context: Any) -> dict[str, str]:
        """Tonight's generation, named once from the run."""
        return night_of(context["dag_run"])

    night_tasks(begin(), SETTINGS)


nightly_generation()
