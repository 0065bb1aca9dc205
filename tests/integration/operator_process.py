"""Runs one RayJobOperator as Airflow's task runner does, in a process that tests can kill.

python -m tests.integration.operator_process '{"run_id": ..., "try_number": ..., "code": ...}'
"""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.module_loading import import_string

from dags.ray_job.operator import RayJobOperator

DAG_ID = "test_dag"


@dataclass
class TaskInstance:
    """What the operator uses of Airflow's task instance."""

    run_id: str
    try_number: int = 1
    dag_id: str = DAG_ID
    task_id: str = "job"
    map_index: int = -1
    pushed: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=dict)
    """The task state store: like Airflow's it outlives tries and clears."""
    stats_tags: dict[str, str] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class TaskStateStore:
    """What `ResumableJobMixin` uses of Airflow's accessor."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self._values[key] = value


def context_for(ti: TaskInstance, clear_number: int = 0) -> Any:
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(clear_number=clear_number),
        "task_state_store": TaskStateStore(ti.stored),
    }


def make_operator(code: str, **options: Any) -> RayJobOperator:
    return RayJobOperator(
        task_id="job", entrypoint=["python", "-c", code], poll_interval_s=0.2, **options
    )


def run_deferred(operator: RayJobOperator, context: Any) -> tuple[Any, int]:
    """The task's result and how often it was deferred; a triggerer's part is played here, with
    what Airflow would have stored of the trigger."""
    deferrals = 0
    run = partial(operator.execute, context)
    while True:
        try:
            return run(), deferrals
        except TaskDeferred as deferred:
            deferrals += 1
            path, stored = deferred.trigger.serialize()
            event = asyncio.run(_first_event(import_string(path)(**stored)))
            kwargs = {**(deferred.kwargs or {}), "event": event}
            run = partial(operator.resume_execution, deferred.method_name, kwargs, context)


async def _first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload


def main() -> None:
    asked = json.loads(sys.argv[1])
    operator = make_operator(asked["code"])

    def on_term(signal_number: int, frame: Any) -> None:
        # As airflow/sdk/execution_time/task_runner.py does it: `execute` goes on and sees the end.
        operator.on_kill()

    signal.signal(signal.SIGTERM, on_term)
    operator.execute(context_for(TaskInstance(asked["run_id"], asked["try_number"])))


if __name__ == "__main__":
    main()
