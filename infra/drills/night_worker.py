"""What the drill's night does in its own process: a generation, its sessions, what is old away."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from infra.drills.generation import fold_sessions, make_generation
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.step import NICENESS
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.placement import MIN_SHARDS
from sql.engine import open_engine, read_snapshot
from sql.generations import read_live
from sql.sessions import prune_sessions, write_sessions


class Span(NamedTuple):
    """From when to when, in `time.monotonic` seconds, which all processes of a machine share."""

    from_s: float
    to_s: float


def begin_niced() -> None:
    """First in the process: the night yields to the day."""
    os.nice(NICENESS)


def make(
    database_url: str, root: Path, generation_id: str, seed: int, shards: int = MIN_SHARDS
) -> Span:
    """Make and seal a generation, store the sessions of all users; returns when these were written.

    Sessions that nobody can go back to are pruned, which is the other bulk write of a night.
    """
    engine = open_engine(database_url)
    try:
        at_ms = time.time_ns() // 1_000_000
        make_generation(engine, root, generation_id, seed=seed, at_ms=at_ms, shards=shards)
        encoder = load_weights(generation_directory(root, generation_id) / "weights.safetensors")
        rows = fold_sessions(engine, encoder)
        with read_snapshot(engine) as conn:
            live = read_live(conn)
        kept = {generation_id} | ({live.generation_id, live.previous} if live else set())
        started_s = time.monotonic()
        write_sessions(engine, generation_id, rows)
        prune_sessions(engine, [g for g in kept if g is not None])
        return Span(started_s, time.monotonic())
    finally:
        engine.dispose()
