"""Step 9. What nobody can go back to any more is deleted: files, sessions, then the rows say so.

The last step of a night, when what it published has been verified; by hand where a disk fills up.

Run: python -m ray_jobs.nightly.prune [--generation ID]
"""

import json
import sys
from itertools import islice
from pathlib import Path

from ray_jobs.nightly.infrastructure import ends_for_another_try
from ray_jobs.nightly.step import RESULT_MARK, Night, Report, open_night
from ray_jobs.nightly.step import main as step_main
from ray_jobs.nightly.work_files import discard_old_work, fail_abandoned
from ray_jobs.shards.carry import GENERATIONS, delete_generation, discard_copies
from ray_jobs.shards.object_store import ObjectStore
from sql import generations, sessions
from sql.engine import read_snapshot


def prune(night: Night) -> list[str]:
    """Delete all but the live generation, the one before it, the one that a rollback goes to, the
    newest few nights and the newest few rebuilds; and work files of nights that broke off long ago.

    Returns:
        the ids of the generations that are gone.
    """
    mark_abandoned(night)
    with read_snapshot(night.engine) as conn:
        history = generations.live_history(conn)
        known = generations.list_generations(conn)
    live = history[0] if history else None
    finished = [g for g in known if g.state in ("sealed", "staged", "published")]
    newest = sorted(finished, key=lambda g: g.created_at_ms, reverse=True)
    kept = {night.generation_id}
    for is_rebuild in (False, True):
        of_kind = (g.generation_id for g in newest if g.is_rebuild is is_rebuild)
        kept.update(islice(of_kind, night.settings.keep_generations))
    if live is not None:
        before = (live.previous, generations.way_back(history))
        kept.update(g for g in (live.generation_id, *before) if g is not None)
    gone = [g.generation_id for g in finished if g.generation_id not in kept]
    for generation_id in gone:
        generations.prune(night.engine, generation_id)  # first: nobody may stage it any more
    root, objects = night.workspace.root, night.workspace.objects
    before_ms = night.now_ms() - int(night.settings.keep_work_days * 86_400_000)
    gone += discard_old_work(night.engine, root, before_ms=before_ms, objects=objects)
    _delete_files(root, objects, {*gone, *(g.generation_id for g in known if g.state == "pruned")})
    if gone:
        sessions.prune_sessions(night.engine, keep_generations=sorted(kept), sleep=night.sleep)
    return gone


def pruned(night: Night) -> Report:
    """`prune`, as the step of a night."""
    return {"pruned": prune(night)}


def _delete_files(root: Path, objects: ObjectStore | None, pruned: set[str]) -> None:
    """Also of what was pruned before: on another node, or by a try that broke off."""
    discard_copies(root, pruned)
    if objects is not None:
        for generation_id in pruned.intersection(objects.folders(GENERATIONS)):
            delete_generation(objects, generation_id)


def mark_abandoned(night: Night) -> list[str]:
    """Nights that broke off without a word are failed from now on: their ids."""
    now_ms = night.now_ms()
    before_ms = now_ms - int(night.settings.night_max_hours * 3_600_000)
    root = night.workspace.root
    return fail_abandoned(night.engine, root, before_ms=before_ms, now_ms=now_ms)


def main() -> None:
    """Entrypoint of the Ray job: the step of a night, or by hand, without a generation. Where
    nothing is live yet, nothing is old either."""
    if len(sys.argv) > 1:
        step_main("prune", pruned, niced=False)
        return
    with ends_for_another_try("prune"):
        night = open_night("none")
        mark_abandoned(night)
        with read_snapshot(night.engine) as conn:
            live = generations.read_live(conn)
        gone = [] if live is None else prune(open_night(live.generation_id))
    sys.stdout.write(f"{RESULT_MARK} {json.dumps({'pruned': gone})}\n")


if __name__ == "__main__":
    main()
