"""The local stack: reached from this machine only, with the token, and gone when stopped."""

import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.stack import processes, serve_app
from infra.stack.airflow_env import AirflowEnvironment
from infra.stack.errors import PortTaken, StackNotRunning, StackRunning, StackStartFailed
from infra.stack.haproxy import SERVE_HEADERS
from infra.stack.ports import is_free
from infra.stack.ray_cluster import LocalRay

PROJECT_ROOT = Path(__file__).parents[2]
LOOPBACK_ADDRESSES = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
CANARY = b"canary-in-a-path"
STOP_LIMIT_S = 10.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRay]:
    """A cluster of this module's own, with the tiny app on it: the tests end it, too."""
    cluster = LocalRay(tmp_path_factory.mktemp("own"), http_port=0, num_cpus=2, cwd=PROJECT_ROOT)
    with cluster:
        environment = {"PYTHONPATH": str(PROJECT_ROOT), "TINY_WORD": "lark"}
        serve_app.deploy(cluster, "tests.integration.tiny_app:app", env=environment)
        yield cluster


def living(stack: LocalRay) -> list[psutil.Process]:
    state = stack.state
    return processes.find(state.stack_id, state.head_pid)


def get(url: str, token: str | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        body: bytes = response.read()
        return body


def test_both_replicas_answer_over_http_after_the_deploying_process_ended(stack: LocalRay) -> None:
    answers = [json.loads(get(f"{stack.http_url}/who?user={CANARY.decode()}")) for _ in range(50)]
    assert len({answer["pid"] for answer in answers}) == 2
    assert {answer["word"] for answer in answers} == {"lark"}


def test_the_proxy_hands_the_raw_path_on_so_that_an_id_may_hold_a_slash(stack: LocalRay) -> None:
    seen = json.loads(get(f"{stack.http_url}/seen/a%2Fb/c%252Fd/e%20f/similar"))
    assert seen["raw_path"] == "/seen/a%2Fb/c%252Fd/e%20f/similar"
    assert seen["rest"] == "a/b/c%2Fd/e f/similar"  # decoded it cannot be told apart


def test_replicas_run_at_the_priority_of_whoever_started_them(stack: LocalRay) -> None:
    replicas = [p for p in living(stack) if "ServeReplica" in " ".join(p.cmdline())]
    assert len(replicas) == 2
    assert {replica.nice() for replica in replicas} == {os.getpriority(os.PRIO_PROCESS, 0)}


def test_headers_of_serves_own_are_no_business_of_a_client(stack: LocalRay) -> None:
    for name in SERVE_HEADERS:
        request = urllib.request.Request(f"{stack.http_url}/who", headers={name: "\xff\xfe"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200, name


def test_nothing_listens_beyond_the_loopback(stack: LocalRay) -> None:
    listening = [
        (process.pid, process.name(), connection.laddr.ip, connection.laddr.port)
        for process in living(stack)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    names = {name for _, name, _, _ in listening}
    ports = {port for _, _, _, port in listening}
    # The test would be empty if it could not see these.
    assert {"haproxy", "gcs_server", "raylet"} <= names
    assert {stack.http_port, stack.state.ports.dashboard} <= ports
    beyond = [entry for entry in listening if entry[2] not in LOOPBACK_ADDRESSES]
    assert beyond == []


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_the_jobs_api_refuses_who_has_no_token(stack: LocalRay, token: str | None) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{stack.jobs_url}/api/jobs/", token)
    assert caught.value.code in (401, 403)


def test_the_token_opens_the_jobs_api_and_only_we_can_read_it(stack: LocalRay) -> None:
    assert json.loads(get(f"{stack.jobs_url}/api/jobs/", stack.token_path.read_text())) is not None
    assert stack.token_path.stat().st_mode & 0o077 == 0
    assert stack.state.temp_dir.stat().st_mode & 0o077 == 0


def test_a_second_start_from_the_same_state_dir_is_refused(stack: LocalRay) -> None:
    with pytest.raises(StackRunning, match="moonlark down --state-dir "):
        LocalRay(stack.token_path.parents[1], http_port=0).start()


def test_a_taken_http_port_is_refused_before_anything_starts(
    stack: LocalRay, tmp_path: Path
) -> None:
    with pytest.raises(PortTaken, match=str(stack.http_port)):
        LocalRay(tmp_path, http_port=stack.http_port).start()
    assert not (tmp_path / "ray" / "state.json").exists()


def test_a_deploy_that_fails_says_why(stack: LocalRay) -> None:
    with pytest.raises(StackStartFailed, match="no_such_module"):
        serve_app.deploy(stack, "no_such_module:app")


def test_another_process_stops_it_and_nothing_is_left(stack: LocalRay) -> None:
    state_dir, state = stack.token_path.parents[1], stack.state
    before = living(stack)
    created = {process.pid: process.create_time() for process in before}
    assert any(process.name() == "haproxy" for process in before)
    code = f"""
        from pathlib import Path
        from infra.stack.ray_cluster import LocalRay
        LocalRay.attach(Path({str(state_dir)!r})).stop()
    """
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=180)
    assert time.monotonic() - started_s < STOP_LIMIT_S
    assert processes.find(state.stack_id, state.head_pid) == []
    # One that was killed may still be giving its memory back: it has no name by then, but a pid.
    deadline_s = time.monotonic() + 10
    while left := [pid for pid, at_s in created.items() if processes.is_same(pid, at_s)]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)
    assert is_free(state.ports.http)
    assert not state.temp_dir.exists()
    logs = state_dir / "ray" / "logs"
    assert (logs / "serve").is_dir(), "the logs are kept"
    # An erasure does not reach logs, so they must not name users, as paths do.
    told = [path for path in logs.rglob("*") if path.is_file() and CANARY in path.read_bytes()]
    assert told == []
    with pytest.raises(StackNotRunning):
        LocalRay.attach(state_dir)
    stack.stop()  # harmless


def test_a_crashed_head_is_cleared_away_by_the_next_start(tmp_path: Path) -> None:
    first = LocalRay(tmp_path, http_port=0, num_cpus=1).start()
    try:
        old = first.state
        os.kill(old.head_pid, 9)
        processes.wait_gone(old.head_pid, old.head_created_s, 10.0)
        with LocalRay(tmp_path, http_port=0, num_cpus=1) as second:
            assert second.state.stack_id != old.stack_id
            assert processes.find(old.stack_id, old.head_pid) == []
            assert not old.temp_dir.exists()
    finally:
        first.stop()


DAG = """
import pendulum
from airflow.sdk import dag
from dags.ray_job.operator import RayJobOperator

@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"))
def two_jobs():
    code = 'import json; print("MOONLARK_RESULT " + json.dumps({"text": "a b; exit 1"}))'
    first = RayJobOperator(task_id="first", entrypoint=["python", "-c", code])
    RayJobOperator(
        task_id="second",
        entrypoint=[
            *("python", "-c", "import sys; print('got', sys.argv[1:]); sys.exit(sys.argv[2] or 0)"),
            *("{{ ti.xcom_pull(task_ids='first')['text'] }}", "{{ dag_run.conf['end'] }}"),
        ],
    ).set_upstream(first)

two_jobs()
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> AirflowEnvironment:
    folder = tmp_path_factory.mktemp("dags")
    (folder / "two_jobs.py").write_text(DAG, encoding="utf-8")
    environment = AirflowEnvironment(tmp_path_factory.mktemp("airflow"), dags_folder=folder)
    environment.prepare()
    return environment


def test_a_dag_of_jobs_runs_and_results_are_passed_on_as_they_are(
    airflow: AirflowEnvironment, local_ray: LocalRay
) -> None:
    outcome = airflow.run_dag("two_jobs", {"end": ""}, env=local_ray.env, timeout_s=400)
    assert outcome.success, outcome.log_tail()
    assert "got ['a b; exit 1', '']" in outcome.log_path.read_text()


def test_a_dag_with_a_failed_job_is_no_success_and_the_log_says_why(
    airflow: AirflowEnvironment, local_ray: LocalRay
) -> None:
    outcome = airflow.run_dag("two_jobs", {"end": "broken"}, env=local_ray.env, timeout_s=400)
    assert not outcome.success
    assert "ended FAILED, JOB_ENTRYPOINT_COMMAND_ERROR" in outcome.log_path.read_text()
