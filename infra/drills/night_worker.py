"""What the drill's night does in its own process: a generation, its sessions, what is old away."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from infra.drills.generation import SHARDS, fold_sessions, make_generation
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.step import NICENESS
from ray_jobs.nightly.workspace import generation_directory
from sql.engine import open_engine, read_snapshot
from sql.generations import read_live
from sql.sessions import SessionRow, prune_sessions, write_sessions


class Span(NamedTuple):
    """From when to when, in `time.monotonic` seconds, which all processes of a machine share."""

    from_s: float
    to_s: float


def make(
    database_url: str, root: Path, generation_id: str, seed: int, shards: int = SHARDS
) -> Span:
    """Make and seal a generation, store the sessions of all users; returns when these were written.

    Sessions that nobody can go back to are pruned, which is the other bulk write of a night. As in
    a night what computes is niced, and what writes in bulk is not (`ray_jobs.nightly.step`).
    """
    engine = open_engine(database_url)
    try:
        at_ms = time.time_ns() // 1_000_000

        def compute() -> list[SessionRow]:
            make_generation(engine, root, generation_id, seed=seed, at_ms=at_ms, shards=shards)
            directory = generation_directory(root, generation_id)
            encoder = load_weights(directory / "weights.safetensors")
            return fold_sessions(engine, encoder)

        with ThreadPoolExecutor(1, initializer=_nice_this_thread) as niced:
            rows = niced.submit(compute).result()
        with read_snapshot(engine) as conn:
            live = read_live(conn)
        kept = {generation_id} | ({live.generation_id, live.previous} if live else set())
        started_s = time.monotonic()
        write_sessions(engine, generation_id, rows)
        prune_sessions(engine, [g for g in kept if g is not None])
        return Span(started_s, time.monotonic())
    finally:
        engine.dispose()


def _nice_this_thread() -> None:
    """On Linux a thread has a niceness of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
