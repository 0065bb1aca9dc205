"""One real Ray cluster for all integration tests (start 5 s), and an Airflow home of its own."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.stack.ray_cluster import LocalRay

# Before any test module imports Airflow, which would make a folder in the developer's home.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="mlk-airflow-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

PROJECT_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRay]:
    """A running cluster with two CPUs; `local_ray.env` is for drivers and job clients."""
    cluster = LocalRay(
        tmp_path_factory.mktemp("stack"),
        http_port=0,
        num_cpus=2,
        cwd=PROJECT_ROOT,
        extra_env={"PYTHONPATH": str(PROJECT_ROOT)},
    )
    with cluster:
        yield cluster


@pytest.fixture
def moonlark_env(local_ray: LocalRay, tmp_path: Path) -> dict[str, str]:
    """A fresh store for one test, and how to reach the cluster.

    For processes of the test: `{**os.environ, **moonlark_env}`; for jobs: as `env_vars`; for the
    app: `serve_app.deploy(local_ray, ..., env=moonlark_env)`.
    """
    return {
        **local_ray.env,
        "MOONLARK_DATABASE_URL": f"sqlite:///{tmp_path / 'moonlark.db'}",
        "MOONLARK_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
    }
