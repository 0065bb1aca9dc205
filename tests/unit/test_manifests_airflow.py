"""Airflow, as compose and Kubernetes set it up, runs the DAGs: not paused, with Ray's address, in
a pool that is there."""

import re
from pathlib import Path
from typing import Any

import airflow
import yaml

from dags.night_tasks import POOL_VARIABLE, SHARDS_AT_ONCE
from dags.ray_job.hook import JOBS_URL_VARIABLE
from infra.manifests.files import INFRA, KUBERNETES, compose, resources

ROOT = INFRA.parent
PARTS = ("airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-api-server")


def told() -> list[dict[str, str]]:
    """The variables of each part of Airflow, and those of the ConfigMap."""
    services = compose()["services"]
    (config_map,) = [
        document["data"]
        for _, document in resources()
        if document["metadata"].get("name") == "moonlark-airflow"
    ]
    return [*(services[name]["environment"] for name in PARTS), config_map]


def test_no_dag_is_paused_when_airflow_first_sees_it() -> None:
    for variables in told():
        assert variables["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == "False"


def test_a_busy_api_server_is_waited_for() -> None:
    for variables in told():
        assert float(variables["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"]) >= 60


def test_every_option_of_airflow_that_is_set_is_one() -> None:
    known = yaml.safe_load(
        (Path(airflow.__path__[0]) / "config_templates" / "config.yml").read_text("utf-8")
    )
    for variables in told():
        for name in variables:
            if name.startswith("AIRFLOW__"):
                section, option = name.removeprefix("AIRFLOW__").lower().split("__")
                options = known[section]["options"]
                assert option in options or option.removesuffix("_cmd") in options, name


def test_each_part_of_airflow_knows_where_ray_s_jobs_are() -> None:
    for variables in told():
        assert variables[JOBS_URL_VARIABLE].endswith(":8265")
        assert variables["RAY_AUTH_MODE"] == "token"
    comment = (KUBERNETES / "settings.yaml").read_text(encoding="utf-8").lower()
    for part in ("scheduler", "workers", "triggerer", "dag\n# processor"):
        assert part in comment


def test_the_pool_is_made_before_any_task_asks_for_it_and_counts_those_that_wait() -> None:
    services: dict[str, Any] = compose()["services"]
    name = services["airflow-scheduler"]["environment"][POOL_VARIABLE]
    words = services["airflow-pool"]["command"]
    assert words[:3] == ["pools", "set", name]
    assert int(words[3]) >= SHARDS_AT_ONCE, "a night alone would be slower"
    assert "--include-deferred" in words
    assert set(services["airflow-pool"]["depends_on"]) == {"airflow-migrate"}
    for part in PARTS:
        condition = services[part]["depends_on"]["airflow-pool"]["condition"]
        assert condition == "service_completed_successfully"


def test_the_command_that_unpauses_the_dags_names_each() -> None:
    text = (INFRA / "README.md").read_text(encoding="utf-8")
    named = re.search(r"'\^\(([a-z_|]+)\)\$'", text)
    dags = [path.read_text(encoding="utf-8") for path in (ROOT / "dags").glob("*.py")]
    ids = {found for code in dags for found in re.findall(r'dag_id="(\w+)"', code)}
    assert named is not None
    assert len(ids) >= 7
    assert set(named[1].split("|")) == ids


def test_local_executor_gives_no_queued_task_back() -> None:
    """As RELIABILITY says: then a restart of the scheduler is what ends it."""
    code = (Path(airflow.__path__[0]) / "executors" / "local_executor.py").read_text("utf-8")
    assert "class LocalExecutor(BaseExecutor)" in code
    assert "revoke_task" not in code


def test_who_has_an_airflow_of_their_own_is_told_what_compose_does() -> None:
    for path in (ROOT / "README.md", INFRA / "README.md"):
        text = path.read_text(encoding="utf-8")
        for command in ("airflow dags unpause", "airflow pools set"):
            assert command in text, (path, command)
