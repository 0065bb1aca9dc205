"""What a recommendation and an acknowledgement cannot cost less than, measured alone.

    search     the generation's own shards by faiss's own calls: same nprobe, as many rows fetched
    snapshot   the same rows by the bare driver: two statements in one read transaction
    commit     one row in one transaction, with the same durability, on the same disk

None of them checks, decodes or merges anything.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss as faiss_typed
import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from ray_jobs.encoders.fold import user_vector
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.weights import load_weights
from ray_jobs.ranking.candidates import candidates_wanted
from ray_jobs.shards.manifest import COARSE_NAME, open_manifest, shard_name
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.recall import exact_nearest, recalls_of
from ray_jobs.shards.search import TIE_SLACK
from sql.engine import read_snapshot

faiss: Any = faiss_typed  # its stubs contradict its wrappers

Floor = Callable[[], None]

_HEAD = """
SELECT c.change_seq, c.policy_seq, l.generation_id, u.user_key, u.last_user_seq, u.trimmed_seq,
       s.user_seq, s.state
FROM catalog_head c
LEFT JOIN users u ON u.user_id = {p}
LEFT JOIN live l ON l.flip = (SELECT max(flip) FROM live)
LEFT JOIN sessions s ON s.generation_id = l.generation_id AND s.user_key = u.user_key
"""
_TAIL = """
SELECT user_seq, kind, ordinal, text_digest, value, undoes_seq, occurred_at_ms, received_at_ms
FROM events WHERE user_key = {p} AND user_seq > {p} ORDER BY user_seq LIMIT 2000
"""


def search_alone(engine: Engine, directory: Path, users: Sequence[str], k: int) -> Floor:
    """One search for each of `users`, by the vector and the number of rows of their list."""
    manifest = open_manifest(directory)
    queries_UD, fetch_U = _queries(engine, directory, users, k)
    flags = 0 if manifest.family == "Flat" else faiss.IO_FLAG_MMAP_IFC
    shards = [
        faiss.read_index(str(directory / shard_name(number)), flags)
        for number in range(manifest.shard_count)
    ]
    coarse = None if manifest.family == "Flat" else faiss.read_index(str(directory / COARSE_NAME))
    for shard in shards:
        if coarse is not None:
            shard.nprobe = manifest.nprobe

    def run() -> None:
        for query_D, fetch in zip(queries_UD, fetch_U, strict=True):
            query_BD = query_D[None, :]
            if coarse is None:
                for shard in shards:
                    shard.search(query_BD, fetch)
                continue
            scores, lists = coarse.search(query_BD, manifest.nprobe)
            for shard in shards:
                shard.search_preassigned(query_BD, fetch, lists, scores)

    return run


def recall_alone(engine: Engine, directory: Path, users: Sequence[str], k: int) -> float:
    """Of the `k` items nearest to each of `users`, the share that the generation's shards find."""
    manifest = open_manifest(directory)
    shards = ShardSet.open(directory, manifest)
    queries_UD, _ = _queries(engine, directory, users, k)
    _, vectors_ND = shards.vectors_of(shards.ordinals)
    _, nearest_UK = exact_nearest(queries_UD, vectors_ND, shards.ordinals, k)
    return float(recalls_of(shards.search_all(queries_UD, k)[1], nearest_UK).mean())


def _queries(
    engine: Engine, directory: Path, users: Sequence[str], k: int
) -> tuple[NDArray[np.float32], list[int]]:
    encoder = load_weights(directory / "weights.safetensors")
    statement = text(
        "SELECT s.state FROM sessions s JOIN users u ON u.user_key = s.user_key "
        "WHERE u.user_id = :user_id AND s.generation_id = :generation_id"
    )
    vectors, fetch = [], []
    with read_snapshot(engine) as conn:
        for user_id in users:
            named = {"user_id": user_id, "generation_id": directory.name}
            session = Session.from_bytes(conn.execute(statement, named).scalar_one())
            vector = user_vector(encoder, session)
            assert vector is not None, "made users have a history"
            vectors.append(vector)
            fetch.append(TIE_SLACK + candidates_wanted(k) + len(session.seen))
    return np.stack(vectors), fetch


def snapshot_alone(database_url: str, users: Sequence[str]) -> Floor:
    """One read for each of `users`."""
    if database_url.startswith("sqlite"):
        lite = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
        return _reads(lite.cursor(), users, "?", "BEGIN")
    server = psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True)
    server.prepare_threshold = 0
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    return _reads(server.cursor(), users, "%s", begin)


def _reads(cursor: Any, users: Sequence[str], placeholder: str, begin: str) -> Floor:
    head, tail = _HEAD.format(p=placeholder), _TAIL.format(p=placeholder)

    def run() -> None:
        for user_id in users:
            cursor.execute(begin)
            row = cursor.execute(head, (user_id,)).fetchone()
            cursor.execute(tail, (row[3], row[6])).fetchall()
            cursor.execute("COMMIT")

    return run


def commits_alone(
    database_url: str, folder: Path, rate: float, seconds: float, seed: int
) -> list[float]:
    """Commits of one row each, due at random times at that rate: how long each took from when it
    was due, s. Runs in a process of its own; SQLite's is another file of the same folder."""
    commit = _commit_of(database_url, folder)
    count = max(1, int(rate * seconds))
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
    started_s, took = time.perf_counter(), []
    for number, due_s in enumerate(due.tolist()):
        while (early_s := started_s + due_s - time.perf_counter()) > 0:
            time.sleep(early_s)
        commit(number)
        took.append(time.perf_counter() - started_s - due_s)
    return took


def _commit_of(database_url: str, folder: Path) -> Callable[[int], None]:
    columns = "(number bigint PRIMARY KEY, user_id text, kind text, item_id text, at_ms bigint)"
    if database_url.startswith("sqlite"):
        lite = sqlite3.connect(folder / "bare.db", isolation_level=None)
        lite.execute("PRAGMA journal_mode = WAL")
        lite.execute("PRAGMA synchronous = FULL")
        lite.execute(f"CREATE TABLE IF NOT EXISTS bare {columns}")
        lite.execute("DELETE FROM bare")
        return lambda number: _insert(lite, "?", number)
    server = psycopg.connect(database_url.replace("+psycopg", "", 1), autocommit=True)
    server.execute(f"CREATE TABLE IF NOT EXISTS bare {columns}")
    server.execute("DELETE FROM bare")
    return lambda number: _insert(server, "%s", number)


def _insert(connection: Any, p: str, number: int) -> None:
    row = (number, f"u{number}", "click", f"i{number}", number)
    connection.execute(f"INSERT INTO bare VALUES ({p}, {p}, {p}, {p}, {p})", row)
