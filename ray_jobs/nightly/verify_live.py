"""Every hour: is what is live still what the night made, and does the day still compute it?

Files can rot, a replica's code can drift from the night's, and nights can stop coming without any
of them failing. So, for the live generation: digests and canary queries of its files, recall of
its shards against exact search, parity of a sample of sessions and texts embedded again, and its
age. Nothing is changed but the figures, which are kept with the generation: from them replicas
tell the alerts LiveBroken and ParityBroken. A person (or the runbook) decides.

Run: python -m ray_jobs.nightly.verify_live
"""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np

from ray_jobs.encoders.errors import EncoderError
from ray_jobs.encoders.item_bert import open_bert
from ray_jobs.nightly import parity
from ray_jobs.nightly.canary import TextEncoder
from ray_jobs.nightly.carried import directory_of
from ray_jobs.nightly.infrastructure import ends_for_another_try
from ray_jobs.nightly.step import (
    INFRASTRUCTURE_ERRORS,
    NICENESS,
    RESULT_MARK,
    Night,
    Report,
    open_night,
)
from ray_jobs.nightly.verify import CheckFailed, check_files
from ray_jobs.nightly.workspace import NightError
from ray_jobs.ranking.priors import PriorsError
from ray_jobs.shards.errors import ShardsError, StoreAway
from ray_jobs.shards.manifest import open_manifest
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.recall import exact_nearest, recalls_of
from sql import generations
from sql.engine import read_snapshot

log = logging.getLogger("moonlark.night")

USERS = 50
RECALL_QUERIES = 100
HOUR_MS = 3_600_000
NOT_YET = "none"
"""In place of a generation's id, to open a night that makes none."""


class LiveBroken(NightError):
    """What is live is not what it should be; the message names the figure and its limit."""


def verify_live(night: Night, bert: TextEncoder) -> Report:
    """Figures of the live generation. Its id is `night`'s.

    Raises:
        LiveBroken: a file, a canary query, recall or the age is out of its bounds.
        ParityBroken: the day and the night do not agree.
    """
    with read_snapshot(night.engine) as conn:
        registered = generations.get_generation(conn, night.generation_id)
    assert registered is not None, "a live generation is registered"
    hint = f"moonlark status; moonlark rollback --why 'broken: {night.generation_id}'"
    report, broken = _look(night, registered)

    def keep() -> None:
        verified = generations.Verified(report.get("recall"), broken, night.now_ms())
        generations.keep_verified(night.engine, night.generation_id, verified)

    if broken is not None:
        keep()
        raise LiveBroken(f"{night.generation_id} is live: {broken}", hint=hint)
    measured = parity.of_night(night)
    figures = measured.report(bert, USERS, night.now_ms() // HOUR_MS)  # others each hour
    parity.store(night.engine, night.generation_id, figures, night.now_ms())
    keep()  # not before: that nobody could look at all of it is an alert, too
    parity.check(figures)
    age_hours = (night.now_ms() - registered.created_at_ms) / HOUR_MS
    if age_hours > night.settings.live_max_age_hours:
        raise LiveBroken(
            f"{night.generation_id} is {age_hours:.1f} h old, at most "
            f"{night.settings.live_max_age_hours:g} (MOONLARK_LIVE_MAX_AGE_HOURS): no night came "
            "after it",
            hint="the runs of nightly_generation; moonlark generations; is a hold set?",
        )
    return {
        **report,
        **figures,
        "generation": night.generation_id,
        "age_hours": round(age_hours, 3),
    }


def _look(night: Night, registered: generations.Generation) -> tuple[Report, str | None]:
    """Figures of files and shards, and what is wrong with them."""
    report: Report = {}
    try:
        directory = directory_of(night.workspace.root, night.workspace.objects, registered)
        report = check_files(directory, registered.manifest_digest)
        report["recall"] = stored_recall(directory, seed=night.now_ms() // HOUR_MS)
    except StoreAway:
        raise  # says nothing against the generation: the task is tried again
    except (CheckFailed, ShardsError, EncoderError, PriorsError, OSError) as error:
        log.exception("%s is live", registered.generation_id)
        return report, str(error)
    limit = night.settings.gate_min_index_recall
    if report["recall"] < limit:
        return report, f"recall@100 {report['recall']:.4f}, at least {limit}"
    return report, None


def stored_recall(directory: Path, *, seed: int) -> float:
    """Mean recall@100 of the shards against exact search over what they store."""
    shards = ShardSet.open(directory, open_manifest(directory))
    ordinals_N = shards.ordinals
    _, vectors_ND = shards.vectors_of(ordinals_N)
    rng = np.random.default_rng(seed)
    count = min(RECALL_QUERIES, len(ordinals_N))
    drawn = np.sort(rng.choice(len(ordinals_N), count, replace=False))
    _, true_BK = exact_nearest(vectors_ND[drawn], vectors_ND, ordinals_N)
    found_BK = shards.search_all(vectors_ND[drawn], true_BK.shape[1])[1]
    return float(recalls_of(found_BK, true_BK).mean())


def open_live() -> Night | None:
    """The night of the generation that is live; None where none is."""
    night = open_night(NOT_YET)
    with read_snapshot(night.engine) as conn:
        live = generations.read_live(conn)
    return None if live is None else open_night(live.generation_id)


def main() -> None:
    """Entrypoint of the Ray job."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    os.nice(NICENESS)
    with ends_for_another_try("verify_live", INFRASTRUCTURE_ERRORS):
        night = open_live()
        report: Report = {"generation": None}
        if night is not None:
            report = verify_live(night, open_bert(night.settings))
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report, sort_keys=True)}\n")


if __name__ == "__main__":
    main()
