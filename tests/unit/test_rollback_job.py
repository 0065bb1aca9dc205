"""The job of the DAG `rollback_generation`, as Ray runs it: a process with words."""

import os
import subprocess
import sys

from infra.drills.local import local_store
from sql.engine import read_snapshot
from sql.generations import read_live


def test_the_history_names_who_triggered_the_rollback() -> None:
    with local_store(items=20, seed=1) as store:
        store.publish("g0", 1)
        store.publish("g1", 2)
        words = ["--to", "g0", "--why", "worse lists", "--who=-ann"]
        told = {
            "MOONLARK_DATABASE_URL": store.settings.database_url,
            "MOONLARK_ARTIFACT_ROOT": str(store.settings.artifact_root),
        }
        subprocess.run(
            [sys.executable, "-m", "ray_jobs.nightly.rollback", *words],
            env={**os.environ, **told},
            check=True,
            timeout=120,
        )
        with read_snapshot(store.engine) as conn:
            live = read_live(conn)
    assert live is not None
    assert (live.generation_id, live.who, live.why, live.hold) == (
        "g0",
        "-ann",
        "worse lists",
        True,
    )
