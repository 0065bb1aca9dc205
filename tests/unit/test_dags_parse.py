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

PROBE = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
dag = getattr(module, sys.argv[1].rpartition(".")[2])() if len(sys.argv) == 2 else None
tasks = {}
for task in dag.tasks if dag else []:
    tasks[task.task_id] = {
        "downstream": sorted(task.downstream_task_ids),
        "entrypoint": [str(w) for w in getattr(task, "entrypoint", [])],
        "cpus": getattr(task, "entrypoint_num_cpus", None),
    }
print("PROBE " + json.dumps({"modules": sorted(sys.modules), "tasks": tasks}))
"""


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


def parse(module: str, airflow_home: Path) -> dict[str, Any]:
    environment = {**os.environ, "AIRFLOW_HOME": str(airflow_home)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("PROBE "))
    found: dict[str, Any] = json.loads(line.removeprefix("PROBE "))
    return found


@pytest.fixture(scope="module")
def night(airflow_home: Path) -> dict[str, Any]:
    return parse("dags.nightly_generation", airflow_home)


@pytest.fixture(scope="module")
def rollback(airflow_home: Path) -> dict[str, Any]:
    return parse("dags.rollback_generation", airflow_home)


@pytest.fixture(scope="module")
def upkeep(airflow_home: Path) -> dict[str, Any]:
    return parse("dags.upkeep", airflow_home)


@pytest.mark.parametrize("heavy", HEAVY)
def test_parsing_loads_nothing_heavy(
    heavy: str, night: dict[str, Any], rollback: dict[str, Any], upkeep: dict[str, Any]
) -> None:
    for found in (night, rollback, upkeep):
        assert heavy not in found["modules"]


def test_erasures_are_finished_before_what_is_old_goes(upkeep: dict[str, Any]) -> None:
    assert upkeep["tasks"]["erase_users"]["downstream"] == ["retain"]
    for job, task in upkeep["tasks"].items():
        assert task["entrypoint"] == ["python", "-m", f"ray_jobs.nightly.{job}"]
        assert importlib.util.find_spec(f"ray_jobs.nightly.{job}") is not None


def test_the_night_runs_its_steps_in_order(night: dict[str, Any]) -> None:
    tasks = night["tasks"]
    order = ["begin", "export", "embed", "train", "build", "fuse", "fold", "evaluate", "publish"]
    order += ["verify", "parity"]
    assert sorted(tasks) == sorted(order)
    for before, after in pairwise(order):
        assert after in tasks[before]["downstream"], f"{before} -> {after}"
    assert tasks["parity"]["downstream"] == []


def test_each_step_is_a_job_of_its_own_name_with_the_generation(night: dict[str, Any]) -> None:
    for step, task in night["tasks"].items():
        if step != "begin":
            assert task["entrypoint"][:4] == [
                *("python", "-m", f"ray_jobs.nightly.{step}", "--generation")
            ]
            assert "begin" in task["entrypoint"][4]


def test_a_driver_holds_no_cpu_that_its_own_tasks_need(night: dict[str, Any]) -> None:
    assert {task["cpus"] for task in night["tasks"].values()} == {None, 0.0}


def test_a_rollback_passes_its_words_unquoted_to_be_quoted_later(rollback: dict[str, Any]) -> None:
    words = rollback["tasks"]["rollback"]["entrypoint"]
    assert words[:3] == ["python", "-m", "ray_jobs.nightly.rollback"]
    assert words[3:] == ["--to", "{{ params.to }}", "--why", "{{ params.why }}"]
