"""Step 5. All users are folded to the watermark with the new weights: a session each.

Ray tasks fold (a range of users is the unit of work and of retry); the driver writes, in small
paced transactions, because one big transaction would hold up the day's acknowledgements for
seconds (ANCHORS: 3.6 s against 13 ms).

Run: python -m ray_jobs.nightly.fold --generation ID
"""

import json
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow.parquet as pq
import ray

from ray_jobs.encoders.fold import fold as folded
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.kept import Kept, KeptFile
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import Workspace, write_json
from ray_jobs.shards.manifest import digest_file
from sql.sessions import SessionRow, write_sessions

UserRange = tuple[int, int]
"""First and last user_key, both included."""

IN_FLIGHT = 16
"""Ranges whose sessions may be in memory at once."""

KEPT_RANGES = 64
"""After so many it is kept how far the step is; a try after a kill goes on from there."""


def fold(night: Night) -> Report:
    """Write a session for every user of the export."""
    return fold_with(night, _on_the_cluster)


def fold_with(
    night: Night, folded: Callable[[Workspace, list[UserRange]], Iterable[SessionRow]]
) -> Report:
    """`fold`, the sessions of the ranges made by `folded`."""
    night.workspace.require_report("train")
    kept = KeptFile(Kept(night.workspace, "fold"), "done.json")
    weights = digest_file(night.workspace.directory / "weights.safetensors").sha256
    done = done_by(kept, weights)
    ranges = _user_ranges(night.workspace, night.settings.fold_users)
    left = [each for each in ranges if each[1] > done["through"]]
    for first in range(0, len(left), KEPT_RANGES):
        some = left[first : first + KEPT_RANGES]
        done["sessions"] += write_sessions(
            night.engine, night.generation_id, folded(night.workspace, some), sleep=night.sleep
        )
        done["through"] = some[-1][1]
        kept.keep(lambda path: write_json(path, {**done, "weights": weights}))
    return {"sessions": done["sessions"], "ranges": len(ranges)}


def done_by(kept: KeptFile, weights: str) -> dict[str, int]:
    """How far a try before came with those weights: sessions are stored of all up to a key."""
    path = kept.latest()
    told = {} if path is None else json.loads(path.read_bytes())
    if told.pop("weights", None) == weights:
        return dict(told)
    return {"sessions": 0, "through": -1}


def _user_ranges(workspace: Workspace, users_per_range: int) -> list[UserRange]:
    keys = np.unique(pq.read_table(workspace.events, columns=["user_key"])["user_key"].to_numpy())
    chunks = [
        keys[first : first + users_per_range] for first in range(0, len(keys), users_per_range)
    ]
    return [(int(chunk[0]), int(chunk[-1])) for chunk in chunks]


def _on_the_cluster(workspace: Workspace, ranges: list[UserRange]) -> Iterator[SessionRow]:
    """A Ray task a range, IN_FLIGHT at a time."""
    remote = ray.remote(num_cpus=1, max_retries=3)(fold_range)
    waiting = list(reversed(ranges))
    running: list[ray.ObjectRef[list[SessionRow]]] = []
    while waiting or running:
        while waiting and len(running) < IN_FLIGHT:
            running.append(remote.remote(workspace, waiting.pop()))
        (done,), running = ray.wait(running, num_returns=1)
        yield from ray.get(done)


def trimmed_of(workspace: Workspace) -> dict[int, int]:
    """user_key -> trimmed_seq, as of the export."""
    table = pq.read_table(workspace.trimmed)
    return dict(zip(table["user_key"].to_pylist(), table["trimmed_seq"].to_pylist(), strict=True))


def fold_range(workspace: Workspace, user_keys: UserRange) -> list[SessionRow]:
    """Sessions of the users of a range, both ends included."""
    encoder = load_weights(workspace.directory / "weights.safetensors")
    trimmed = trimmed_of(workspace)
    rows = []
    for user_key, events in open_histories(workspace, user_keys).users():
        session = folded(encoder, None, events)
        state, trimmed_seq = session.to_bytes(), trimmed.get(user_key, 0)
        rows.append(SessionRow(user_key, session.user_seq, state, trimmed_seq))
    return rows


if __name__ == "__main__":
    main("fold", fold, needs_ray=True, niced=False)
