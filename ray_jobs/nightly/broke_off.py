"""A run of the night has failed: so has its generation, if no step of it could say so.

Airflow starts it when a run ends failed (`dags.failed_night`). A step that was killed left its
generation building, or, amid the publish, sealed or staged. What came out of its publish stays what
that made of it, and is unfinished.

Run: python -m ray_jobs.nightly.broke_off --generation ID --why REASON [--owed]
"""

import argparse
import json
import logging
import sys

from ray_jobs.nightly.export import NOT_YET_KNOWN
from ray_jobs.nightly.step import AFTER_PUBLISH, RESULT_MARK, Night, Report, open_night
from ray_jobs.nightly.step_figures import STEPS
from ray_jobs.nightly.work_files import fail_idle
from sql import generations
from sql.engine import read_snapshot
from sql.generations import Generation, Unfinished

log = logging.getLogger("moonlark.night")

RUN_FAILED = "RunFailed"
PUBLISH = "publish"
POLL_S = 1.0
STOPS_WITHIN_S = 60.0
"""What still runs of the run was told to stop: Ray kills it some seconds later."""


def broke_off(night: Night, why: str, *, is_owed: bool = True) -> Report:
    """Mark the night's generation failed; `failed`: whether it was this that did.

    One that never was registered is registered as failed where it `is_owed`: its export was killed
    at once. (A rebuild that somebody mistyped is owed to nobody.) One whose publish was done is
    left unfinished, at the step that was not. Where a step runs on, somebody took the night up
    again. What its last try said (`generations.report_try`) is told with `why`.
    """
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, night.generation_id)
    if found is None and not is_owed:
        return {"generation": night.generation_id, "failed": False}
    if found is None:
        generations.register(
            night.engine,
            night.generation_id,
            encoder_id=NOT_YET_KNOWN,
            catalog_seq=0,
            created_at_ms=night.now_ms(),
        )
    elif found.state in ("sealed", "staged", "published") and not is_left(found):
        return _left_unfinished(night, found, why)
    elif found.failed_reason is not None:
        why = f"{why}; its last try: {found.failed_reason}"
    for _ in range(int(STOPS_WITHIN_S / POLL_S)):
        failed = fail_idle(night.engine, night.workspace, is_left, why, RUN_FAILED, night.now_ms())
        if failed is not None:
            return {"generation": night.generation_id, "failed": failed}
        night.sleep(POLL_S)
    log.warning("%s: a step of it runs, so that it is left as it is", night.generation_id)
    return {"generation": night.generation_id, "failed": False}


def _left_unfinished(night: Night, found: Generation, why: str) -> Report:
    """What a step said of itself stays."""
    steps = found.metrics.get(STEPS, {})
    left = next((step for step in AFTER_PUBLISH if step not in steps), None)
    last = found.unfinished
    if left is not None and (last is None or last.is_tried_again):
        why = why if last is None else f"{why}; its last try: {last.reason}"
        unfinished = Unfinished(left, why, night.now_ms())
        generations.keep_unfinished(night.engine, night.generation_id, unfinished)
    return {"generation": night.generation_id, "failed": False, "unfinished": left}


def is_left(generation: Generation) -> bool:
    """Whether nothing was made of it: neither live, nor failed, nor put aside by its publish."""
    steps = generation.metrics.get(STEPS, {})
    return generation.state == "building" or (
        generation.state in ("sealed", "staged") and PUBLISH not in steps
    )


def main() -> None:
    """Entrypoint of the Ray job."""
    parser = argparse.ArgumentParser(description="mark the generation of a run that failed")
    parser.add_argument("--generation", required=True, help="id of the generation being made")
    parser.add_argument("--why", required=True, help="kept as its reason")
    parser.add_argument("--owed", action="store_true", help="register one that left no row")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    report = broke_off(open_night(asked.generation), asked.why, is_owed=asked.owed)
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report, sort_keys=True)}\n")


if __name__ == "__main__":
    main()
