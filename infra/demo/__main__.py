"""The whole of moonlark once, in reading order: ingest, a night under Airflow, a day over HTTP.

python -m infra.demo          then stops everything it started
python -m infra.demo --keep   keeps answering; `make down` stops it
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import typer

from infra.cli.console import console
from infra.cli.down import stop
from infra.cli.ingest_run import IngestRun
from infra.cli.init import command as init
from infra.cli.store import absolute_environment, open_store
from infra.client import Moonlark
from infra.demo.day import live_a_day
from infra.stack.airflow_env import AirflowEnvironment
from infra.stack.errors import StackError
from infra.stack.ray_cluster import LocalRay
from infra.stack.serve_app import deploy
from sql.erasure_ledger import ErasureKey

STATE = Path(".moonlark")
DEMO = STATE / "demo"
NIGHT_TIMEOUT_S = 1_200


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m infra.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep answering when the day is over")
    parser.add_argument("--port", type=int, default=8000, help="HTTP port of the API")
    options = parser.parse_args()
    _settings()
    started_s = time.monotonic()
    _fresh_store()
    _step("1/4", "the data: MovieLens 100K (GroupLens) into the catalog and the event log", _ingest)
    cluster = LocalRay(
        DEMO, http_port=options.port, cwd=Path.cwd(), extra_env=absolute_environment()
    )
    _step("2/4", "a Ray cluster on this machine, for the night's jobs and the day", cluster.start)
    keep = False
    try:
        _step("3/4", "the night: Airflow runs the DAG nightly_generation", lambda: _night(cluster))
        _step("4/4", "the day: Ray Serve, two replicas", lambda: deploy(cluster, "serve.app:build"))
        with Moonlark(cluster.http_url) as client:
            live_a_day(client)
        keep = options.keep
        console.print(f"\nnight and day took {time.monotonic() - started_s:.0f} s")
        _go_on(cluster, keep)
    finally:
        if not keep:
            stop(cluster)
    return 0


def _settings() -> None:
    """The demo has a store of its own; whatever the caller set otherwise is in force."""
    os.environ["MOONLARK_DATABASE_URL"] = f"sqlite:///{DEMO / 'moonlark.db'}"
    os.environ["MOONLARK_ARTIFACT_ROOT"] = str(DEMO / "artifacts")
    os.environ.setdefault(
        "MOONLARK_BERT_MODEL", str((STATE / "models" / "all-MiniLM-L6-v2").resolve())
    )


def _fresh_store() -> None:
    try:
        running = LocalRay.attach(DEMO)
    except StackError:
        pass
    else:
        if running.is_running():
            raise SystemExit("the demo is running already; `make down` stops it")
    airflow = DEMO / "airflow"  # kept: its database takes 6 s to make
    for path in DEMO.glob("*"):
        if path != airflow:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    DEMO.mkdir(parents=True, exist_ok=True)


def _step(place: str, what: str, do: Callable[[], object]) -> None:
    console.print(f"\n{place} {what}", style="bold")
    started_s = time.monotonic()
    do()
    console.print(f"    {time.monotonic() - started_s:.1f} s")


def _ingest() -> None:
    init()
    store = open_store()
    run = IngestRun(
        store.engine,
        ErasureKey.open(store.artifact_root),
        DEMO / "rejects",
        late=False,
        keep_unknown_items=False,
    )
    run.movielens(STATE / "datasets" / "ml-100k")


def _night(cluster: LocalRay) -> None:
    airflow = AirflowEnvironment(DEMO)
    environment = {**absolute_environment(), **cluster.env}
    console.print(f"    its log: {airflow.home}")
    outcome = airflow.run_dag("nightly_generation", env=environment, timeout_s=NIGHT_TIMEOUT_S)
    if not outcome.success:
        raise SystemExit(f"{outcome.log_tail()}\nthe night failed; its log: {outcome.log_path}")


def _go_on(cluster: LocalRay, keep: bool) -> None:
    if not keep:
        console.print("next: make up keeps it running; README.md says how to bring your own data")
        return
    for line in (
        f"API         {cluster.http_url}/docs",
        f"Ray         {cluster.jobs_url} (token in {cluster.token_path})",
        f"a list      curl '{cluster.http_url}/v1/users/196/recommendations?k=5'",
        "or          .venv/bin/moonlark recommend 196",
        "on call     the demo has a store of its own; for moonlark status, generations, rollback:",
        *(f"            export {name}={value}" for name, value in absolute_environment().items()),
        f"            export MOONLARK_STATE_DIR={DEMO.resolve()}",
        "stop it     make down",
    ):
        typer.echo(line)


if __name__ == "__main__":
    sys.exit(main())
