"""Parsing a DAG file is light, and the DAGs say what runs in which order.

Airflow parses the files again and again; torch alone would cost 1.8 s and 219 MiB each time.
"""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

HEAVY = ["ray", "torch", "faiss", "transformers", "numpy", "pyarrow", "pandas", "sql", "serve"]

DAGS = ["nightly_generation", "rollback_generation", "rebuild_generation"]
OTHERS = ["verify_live", "prune_artifacts", "erase_users", "upkeep"]

PROBE = """
import importlib, json, sys
found = {}
for name in sys.argv[1:]:
    dag = getattr(importlib.import_module("dags." + name), name)()
    timeout = dag.dagrun_timeout
    found[name] = {
        "params": {name: param.schema for name, param in dag.params.items()},
        "on_failure": getattr(dag.on_failure_callback, "__qualname__", None),
        "max_active_runs": dag.max_active_runs,
        "timeout_s": timeout.total_seconds() if timeout else None,
        "tasks": {
            task.task_id: {
                "downstream": sorted(task.downstream_task_ids),
                "entrypoint": [str(w) for w in getattr(task, "entrypoint", [])],
                "cpus": getattr(task, "entrypoint_num_cpus", None),
                "gpus": getattr(task, "partial_kwargs", {}).get("entrypoint_num_gpus"),
                "deferrable": getattr(task, "deferrable", None),
                "retries": task.retries,
            }
            for task in dag.tasks
        },
    }
print("PROBE " + json.dumps({"dags": found, "modules": sorted(sys.modules)}))
"""
"""All in one process: Airflow takes seconds to import, and what one DAG loads shows as well."""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


def parse(airflow_home: Path, *names: str, **more: str) -> dict[str, Any]:
    found: dict[str, Any] = printed(airflow_home, "PROBE ", PROBE, *names, **more)
    return found


def printed(airflow_home: Path, mark: str, code: str, *arguments: str, **more: str) -> Any:
    """The JSON behind `mark` in what a process prints that runs `code` under this Airflow."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "AIRFLOW_HOME": str(airflow_home), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith(mark))
    return json.loads(line.removeprefix(mark))


@pytest.fixture(scope="module")
def parsed(airflow_home: Path) -> dict[str, Any]:
    return parse(airflow_home, *DAGS, *OTHERS)


@pytest.fixture
def night(parsed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parsed["dags"]["nightly_generation"]
    return found


@pytest.fixture
def rollback(parsed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parsed["dags"]["rollback_generation"]
    return found


@pytest.fixture
def rebuild(parsed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = parsed["dags"]["rebuild_generation"]
    return found


@pytest.fixture
def others(parsed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: parsed["dags"][name] for name in OTHERS}


@pytest.mark.parametrize("heavy", HEAVY)
def test_parsing_loads_nothing_heavy(heavy: str, parsed: dict[str, Any]) -> None:
    assert heavy not in parsed["modules"]


def test_erasures_are_finished_by_schedule_or_by_hand(others: dict[str, dict[str, Any]]) -> None:
    from jsonschema import Draft7Validator

    found = others["erase_users"]
    words = found["tasks"]["erase_users"]["entrypoint"]
    assert words[2:] == ["ray_jobs.nightly.erase_users", "--compare", "{{ params.compare }}"]
    validator = Draft7Validator(found["params"]["compare"])
    assert all(validator.is_valid(value) for value in ("new", "all"))
    assert not any(validator.is_valid(value) for value in ("", "none", None, True))


def test_a_prune_by_hand_keeps_as_many_as_it_is_told(others: dict[str, dict[str, Any]]) -> None:
    from jsonschema import Draft7Validator

    validator = Draft7Validator(others["prune_artifacts"]["params"]["keep"])
    assert all(validator.is_valid(value) for value in (None, 2, 10))
    assert not any(validator.is_valid(value) for value in (1, 0, -1, "2", 2.5))


def test_each_dag_by_hand_or_hour_is_one_job_that_exists(others: dict[str, Any]) -> None:
    for found in others.values():
        (task,) = found["tasks"].values()
        assert task["entrypoint"][:2] == ["python", "-m"]
        assert importlib.util.find_spec(task["entrypoint"][2]) is not None
        assert found["max_active_runs"] == 1
        assert found["timeout_s"], "a task that nobody runs would hold up every later run"


def test_the_night_runs_its_steps_in_order(night: dict[str, Any]) -> None:
    tasks = night["tasks"]
    order = ["begin", "export", "check", "embed", "train", "plan_shards", "shard_commands"]
    order += ["build_shard", "build", "fuse", "fold", "evaluate", "publish", "verify", "parity"]
    order += ["prune"]
    assert sorted(tasks) == sorted(order)
    for before, after in pairwise(order):
        assert after in tasks[before]["downstream"], f"{before} -> {after}"
    assert tasks["prune"]["downstream"] == []


def test_the_command_line_runs_the_same_steps(night: dict[str, Any]) -> None:
    from infra.cli.night_steps import STEPS

    parts = {"begin", "plan_shards", "shard_commands", "build_shard"}
    assert set(night["tasks"]) - parts == set(STEPS)


def test_each_step_is_a_job_of_its_own_name_with_the_generation(night: dict[str, Any]) -> None:
    for step, task in night["tasks"].items():
        if step not in ("begin", "shard_commands", "build_shard"):
            assert task["entrypoint"][:4] == [
                *("python", "-m", f"ray_jobs.nightly.{step}", "--generation")
            ]
            assert "begin" in task["entrypoint"][4]
            assert importlib.util.find_spec(f"ray_jobs.nightly.{step}") is not None


def test_the_night_takes_only_what_its_schema_allows(night: dict[str, Any]) -> None:
    from jsonschema import Draft7Validator

    assert sorted(night["params"]) == ["full", "publish", "seed"]
    accepted = {"full": [True, False], "publish": [True, False], "seed": [None, 0, 2**31 - 1]}
    refused = {"full": ["yes", 1], "publish": [None, "false"], "seed": [-1, 0.5, "7", 2**31]}
    for name, schema in night["params"].items():
        validator = Draft7Validator(schema)
        assert all(validator.is_valid(value) for value in accepted[name]), name
        assert not any(validator.is_valid(value) for value in refused[name]), name


def test_a_rebuild_is_the_same_steps_and_does_not_publish_unless_told(
    rebuild: dict[str, Any], night: dict[str, Any]
) -> None:
    from jsonschema import Draft7Validator

    assert {name: task["downstream"] for name, task in rebuild["tasks"].items()} == {
        name: task["downstream"] for name, task in night["tasks"].items()
    }
    export = rebuild["tasks"]["export"]["entrypoint"]
    assert export[5] == "--rebuild"
    assert "begin" in export[6]
    accepted = {"publish": [True, False], "generation": [None, "g20260101T030000Z-a1b2c3"]}
    refused = {"publish": [None, "yes"], "generation": ["", "--to", "g2026-", "a b", 7]}
    accepted["at"], refused["at"] = [None, "2026-01-01T03:00:00+00:00"], [7]
    assert sorted(rebuild["params"]) == sorted(accepted)
    assert rebuild["max_active_runs"] == 1
    for name, schema in rebuild["params"].items():
        validator = Draft7Validator(schema)
        assert all(validator.is_valid(value) for value in accepted[name]), name
        assert not any(validator.is_valid(value) for value in refused[name]), name


BACKFILLED = """
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.sdk.api.datamodels._generated import DagRunType
from dags.nightly_generation import SETTINGS, nightly_generation
from dags.rebuild_generation import which
stamp = datetime(2026, 1, 1, 3, tzinfo=UTC)
begin = nightly_generation().get_task("begin").python_callable
kinds = [DagRunType.SCHEDULED, DagRunType.MANUAL, DagRunType.BACKFILL, DagRunType.BACKFILL]
runs = [
    SimpleNamespace(run_id="run", run_type=kind, logical_date=stamp, clear_number=clears)
    for clears, kind in zip([0, 0, 1, 2], kinds)
]
publish = SETTINGS["MOONLARK_PUBLISH"]
from jinja2 import Template
told = [Template(publish).render(params={"publish": True}, dag_run=run) for run in runs]
named = [begin(dag_run=run) for run in runs]
print("FOUND " + json.dumps([named, which(None, stamp.isoformat()), which("g1", None), told]))
"""
"""`begin` itself, with the types of run that a task of Airflow is given: enums, no strings."""


def test_a_backfill_makes_past_nights_again_under_other_names(airflow_home: Path) -> None:
    named, by_date, by_id, told = printed(airflow_home, "FOUND ", BACKFILLED)
    scheduled, manual, backfill, again = named
    assert scheduled == manual
    assert scheduled["rebuild"] == ""
    assert backfill["rebuild"] == by_date == "g20260101T030000Z-"
    assert by_id == "g1"
    assert backfill["generation"] != scheduled["generation"]
    assert backfill["generation"].startswith(backfill["rebuild"])
    assert again["rebuild"] == backfill["rebuild"]
    assert again["generation"] not in (backfill["generation"], scheduled["generation"])
    assert told == ["", "", "false", "false"]


REFUSED = """
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowFailException
from dags.rebuild_generation import rebuild_generation
begin = rebuild_generation().get_task("begin").python_callable
run = SimpleNamespace(logical_date=datetime(2026, 1, 1, 3, tzinfo=UTC), run_id="run")
refused = 0
for params in ({"generation": None, "at": None}, {"generation": "g1", "at": "2026-01-01"},
               {"generation": None, "at": "2026-01-01T03:00:00"}):
    try:
        begin(dag_run=run, params=params)
    except AirflowFailException:
        refused += 1
print("REFUSED", refused)
"""


def test_a_rebuild_of_nothing_that_can_be_named_is_not_tried_again(airflow_home: Path) -> None:
    assert printed(airflow_home, "REFUSED ", REFUSED) == 3


def test_a_shard_asks_for_the_gpu_that_its_driver_uses(
    night: dict[str, Any], airflow_home: Path
) -> None:
    assert night["tasks"]["build_shard"]["gpus"] == 0
    on_gpus = parse(airflow_home, "nightly_generation", MOONLARK_DEVICE="cuda")
    assert on_gpus["dags"]["nightly_generation"]["tasks"]["build_shard"]["gpus"] == 0.25


def test_when_a_run_fails_its_jobs_are_stopped_and_its_generation_is_failed(
    night: dict[str, Any], rebuild: dict[str, Any], others: dict[str, dict[str, Any]]
) -> None:
    for found in (night, rebuild):
        assert found["on_failure"] == "fails_with_its_run.<locals>.failed"
    for found in others.values():
        assert found["on_failure"] == "stop_jobs_of_run"


def test_only_one_night_runs_and_none_for_ever(night: dict[str, Any]) -> None:
    assert night["max_active_runs"] == 1
    assert night["timeout_s"] == 20 * 3600
    waits = [task["deferrable"] for task in night["tasks"].values() if task["entrypoint"]]
    assert waits
    assert all(waits), "a step holds no worker while it runs"


def test_a_driver_holds_no_cpu_that_its_own_tasks_need(night: dict[str, Any]) -> None:
    assert {task["cpus"] for task in night["tasks"].values()} == {None, 0.0}


def test_a_rollback_passes_its_words_unquoted_to_be_quoted_later(rollback: dict[str, Any]) -> None:
    words = rollback["tasks"]["rollback"]["entrypoint"]
    assert words[:3] == ["python", "-m", "ray_jobs.nightly.rollback"]
    assert words[3:7] == ["--to", "{{ params.to }}", "--why", "{{ params.why }}"]


RENDERED = """
import json
from types import SimpleNamespace
from jinja2 import Template
from dags import nightly_generation, rebuild_generation
from dags.rollback_generation import rollback_generation
words = rollback_generation().get_task("rollback").entrypoint
runs = [{"triggering_user_name": "ann"}, {"triggering_user_name": None}, {}]
who = [Template(words[-1]).render(dag_run=SimpleNamespace(**run)) for run in runs]
seed = Template(nightly_generation.SETTINGS["MOONLARK_TRAIN_SEED"])
seeds = [seed.render(params={"seed": given}) for given in (None, 0, 7)]
publish = Template(rebuild_generation.SETTINGS["MOONLARK_PUBLISH"])
published = [publish.render(params={"publish": given}) for given in (True, False)]
print("RENDERED " + json.dumps([who, seeds, published]))
"""


def test_what_a_run_asks_for_goes_before_the_cluster_s_environment(airflow_home: Path) -> None:
    """What is empty is left out, and the job reads its cluster's environment."""
    who, seeds, published = printed(airflow_home, "RENDERED ", RENDERED)
    assert who == ["--who=ann", "--who=", "--who="]
    assert seeds == ["", "0", "7"]
    assert published == ["true", "false"]


def test_a_rollback_is_not_tried_again_when_somebody_may_have_published_since(
    rollback: dict[str, Any],
) -> None:
    assert rollback["tasks"]["rollback"]["retries"] == 0
