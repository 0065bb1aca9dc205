"""The night's DAG as Airflow itself runs it: which jobs, in which order, with what they are told.

The jobs are stubs behind a stand-in for Ray's API that report their command and their settings.
"""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.airflow_env import AirflowEnvironment
from tests.jobs_api import JobsApi

PROJECT_ROOT = Path(__file__).parents[2]
SHARDS = 3

PYTHON = f"""#!/bin/sh
echo "$@ | all=$MOONLARK_EMBED_ALL seed=$MOONLARK_TRAIN_SEED publish=$MOONLARK_PUBLISH" >> "$DONE"
echo 'MOONLARK_RESULT {{"shards": {SHARDS}}}'
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsApi]:
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(PYTHON)
    stub.chmod(stub.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{stub.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DONE", str(tmp_path / "done"))
    with JobsApi(tmp_path) as api:
        yield api


@pytest.mark.timeout(1_200)
def test_a_night_is_one_job_a_step_and_one_a_shard_with_the_settings_of_its_run(
    jobs: JobsApi, tmp_path: Path
) -> None:
    told = {"full": True, "seed": 7, "publish": False}
    night = AirflowEnvironment(tmp_path).run_dag(
        "nightly_generation",
        told,
        env={"MOONLARK_RAY_JOBS_URL": jobs.url, "PYTHONPATH": str(PROJECT_ROOT)},
        timeout_s=1_100,
    )
    assert night.success, night.log_tail()
    done = [line.split(" | ") for line in (tmp_path / "done").read_text().splitlines()]
    commands = [command.split() for command, _ in done]
    steps = [words[1].removeprefix("ray_jobs.nightly.") for words in commands]
    before, after = steps.index("build_shard"), steps.index("build")
    assert steps[:before] == ["export", "check", "embed", "train", "plan_shards"]
    assert steps[before:after] == ["build_shard"] * SHARDS
    judged = ["build", "fuse", "fold", "evaluate"]
    assert steps[after:] == [*judged, "publish", "verify", "parity", "prune"]
    assert sorted(int(words[-1]) for words in commands[before:after]) == list(range(SHARDS))
    assert len({words[3] for words in commands}) == 1, "all make one generation"
    assert {settings for _, settings in done} == {"all=true seed=7 publish=false"}
    assert len(jobs.jobs) == len(steps), json.dumps(list(jobs.jobs), indent=1)
