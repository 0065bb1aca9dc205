"""A past night made again, from its stored watermark, as a new generation that is not published.

Which one: `generation` (its id), or `at` (the logical date of its run). The export reads the log
and the catalog as they were, seed and settings are that night's: what can differ is listed in
`ray_jobs.nightly.rebuild` (events erased or retained away since, counts by hour). Try it:
`airflow dags test rebuild_generation --conf '{"generation": "g2026..."}'`. Many: a backfill
(`nightly_generation` says how).
"""

from datetime import datetime
from typing import Any

import pendulum
from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from dags.failed_night import fails_with_its_run
from dags.generation_name import generation_id, night_prefix
from dags.night_tasks import DEFAULT_ARGS, NIGHT_TIMEOUT, night_tasks

SETTINGS = {"MOONLARK_PUBLISH": "{{ 'true' if params.publish else 'false' }}"}


def which(generation: str | None, at: str | None) -> str:
    """What `export --rebuild` is told.

    Raises:
        ValueError: neither is given, or both.
    """
    if bool(generation) == bool(at):
        raise ValueError(f"generation={generation!r}, at={at!r}: accepted is one of the two")
    return generation or night_prefix(datetime.fromisoformat(str(at)))


def made_by(dag_run: Any) -> str:
    """The id of the generation of a run."""
    return generation_id(dag_run.run_id, dag_run.logical_date or dag_run.run_after)


@dag(
    dag_id="rebuild_generation",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=NIGHT_TIMEOUT,
    params={
        "generation": Param(
            None, type=["null", "string"], pattern="^[^-\\s]\\S*[^-\\s]$", description="its id"
        ),
        "at": Param(
            None,
            type=["null", "string"],
            format="date-time",
            description="or the logical date of its run, with a time zone",
        ),
        "publish": Param(
            False,
            type="boolean",
            description="true: make it live, if it passes its gate, whatever MOONLARK_PUBLISH says",
        ),
    },
    default_args=DEFAULT_ARGS,
    on_failure_callback=fails_with_its_run(made_by),
    tags=["moonlark"],
    doc_md=__doc__,
)
def rebuild_generation() -> None:
    @task
    def begin(**context: Any) -> dict[str, str]:
        """The new generation, named once from the run, and the one it is made after."""
        dag_run, params = context["dag_run"], context["params"]
        try:
            rebuild = which(params["generation"], params["at"])
        except ValueError as error:
            raise AirflowFailException(str(error)) from error  # no other try makes it right
        return {"generation": made_by(dag_run), "rebuild": rebuild}

    night_tasks(begin(), SETTINGS)


rebuild_generation()
