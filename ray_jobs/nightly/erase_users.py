"""The job that ends erasures: every stored copy is rewritten, and the receipts say so.

By day the rows of an erased user are gone at once. Copies remain in work files of nights and in the
bytes of the database until this job has run. Where a step of a night is running, its work files
cannot be touched: the erasures stay open, and the job is run again.

Run: python -m ray_jobs.nightly.erase_users [--compare new|all]
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from ray_jobs.nightly.carried_work import forget_in_store
from ray_jobs.nightly.infrastructure import ends_for_another_try
from ray_jobs.nightly.work_files import forget_erased
from ray_jobs.shards.object_store import ObjectStore
from sql.engine import check_schema, open_engine, read_snapshot
from sql.erasure import apply_ledger
from sql.erasure_bytes import purge_bytes
from sql.erasure_ledger import Ledger
from sql.erasure_receipts import complete, incomplete
from sql.settings import StoreSettings

RESULT_MARK = "MOONLARK_RESULT"


def finish_erasures(
    engine: Engine,
    root: Path,
    *,
    now_ms: int,
    ledger_root: Path | None = None,
    artifact_uri: str | None = None,
    thorough: bool = False,
) -> dict[str, Any]:
    """Rewrite every stored copy and complete the receipts of all erasures so far.

    `thorough`: every user is compared with the ledger first (`sql.erasure.apply_ledger`).

    Returns:
        `completed` and `open`, numbers of erasures; `busy`, the nights that are running; what was
        rewritten. Nothing is touched where no erasure is open. `ledger_root`: `root` when None.
    """
    apply_ledger(engine, Ledger.open(ledger_root or root), thorough=thorough)
    with read_snapshot(engine) as conn:
        erasure_ids = incomplete(conn)
    report: dict[str, Any] = {"completed": 0, "open": len(erasure_ids), "busy": []}
    if not erasure_ids:
        return report
    objects = ObjectStore.open(artifact_uri)
    discarded, rewritten, busy = (
        forget_erased(engine, root) if objects is None else forget_in_store(engine, root, objects)
    )
    done = {
        "work_discarded": discarded,
        "work_rewritten": rewritten,
        "database": purge_bytes(engine),
    }
    report |= {**done, "busy": busy}
    if not busy:
        complete(engine, erasure_ids, done, at_ms=now_ms)
        report |= {"completed": len(erasure_ids), "open": 0}
    return report


def main() -> None:
    """Entrypoint of the Ray job."""
    parser = argparse.ArgumentParser(description="rewrite every stored copy of erased users")
    parser.add_argument(
        "--compare",
        choices=["new", "all"],
        default="new",
        help="all: compare every user with the ledger, as after a restore",
    )
    thorough = parser.parse_args().compare == "all"
    with ends_for_another_try("erase_users"):
        store = StoreSettings()
        engine = open_engine(store.database_url)
        check_schema(engine)
        report = finish_erasures(
            engine,
            Path(store.artifact_root).absolute(),
            now_ms=time.time_ns() // 1_000_000,
            ledger_root=store.ledger_folder,
            artifact_uri=store.artifact_uri,
            thorough=thorough,
        )
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report, sort_keys=True)}\n")


if __name__ == "__main__":
    main()
