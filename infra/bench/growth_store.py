"""What the read and the fold of one list cost by the number of users and by the length of a
history, on SQLite as it is shipped.

U = users, L = events of a user.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sqlalchemy import Engine
from tqdm import tqdm

from infra.bench.rounds import in_turn
from infra.drills.catalog import ENCODER_ID, TEXT_DIM, fill_catalog
from infra.drills.generation import fold_events
from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.fold import FoldEvent, fold
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import load_weights, save_weights
from sql import catalog, generations
from sql.engine import migrate, open_engine, read_snapshot
from sql.events import EventKind, NewEvent, append, find_user, iterate_log, read_tail
from sql.sessions import SessionRow, write_sessions
from sql.snapshot import read_recommendation

ITEMS = 1_000
GENERATION, WITHOUT_SESSIONS = "g0", "g1"
EVENTS_A_USER = 5
APPEND_AT_ONCE = 1_000
AT_MS = 1_700_000_000_000
ENCODERS = {GENERATION: ENCODER_ID, WITHOUT_SESSIONS: ENCODER_ID}
DIM = 128


@dataclass(frozen=True)
class ByUsers:
    """`read_s`: median of the snapshot read of a random user with a session at the watermark.
    `event_bytes`: of the database, its sessions left out, an event."""

    users: int
    read_s: float
    event_bytes: float


@dataclass(frozen=True)
class ByHistory:
    """Medians, seconds. `tail_*`: of the last event, on a session; `whole_*`: from nothing."""

    events: int
    tail_read_s: float
    tail_fold_s: float
    whole_read_s: float
    whole_fold_s: float


@contextmanager
def small_store() -> Iterator[tuple[Engine, Path, UserEncoder]]:
    """A database with a catalog, its file, and an encoder of the shipped widths."""
    with TemporaryDirectory(prefix="moonlark-growth-") as folder:
        path = Path(folder) / "moonlark.db"
        engine = open_engine(f"sqlite:///{path}")
        try:
            migrate(engine)
            fill_catalog(engine, ITEMS, np.random.default_rng(0), AT_MS)
            for generation in (GENERATION, WITHOUT_SESSIONS):
                generations.register(
                    engine, generation, encoder_id=ENCODER_ID, catalog_seq=0, created_at_ms=AT_MS
                )
            # Live, as what a replica holds mostly is: only then is the prepared read taken.
            generations.seal(engine, GENERATION, manifest_digest="none", metrics={})
            generations.flip(
                engine,
                GENERATION,
                expected_flip=0,
                who="bench",
                why="made",
                hold=False,
                at_ms=AT_MS,
            )
            yield engine, path, _encoder(Path(folder))
        finally:
            engine.dispose()


def by_users(counts: Sequence[int], rounds: int) -> list[ByUsers]:
    """The read, of a store for each of `counts`, in turn."""
    event_bytes: list[float] = []
    reads: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        rng = np.random.default_rng(3)
        for count in counts:
            engine, path, encoder = stack.enter_context(small_store())
            empty = _file_bytes(engine, path)
            _add_users(engine, count, rng)
            added = _file_bytes(engine, path) - empty
            event_bytes.append(added / (count * EVENTS_A_USER))
            _write_sessions(engine, encoder)
            reads[f"{count}"] = partial(_read_any, engine, count, rng)
        times = in_turn(reads, rounds, "users")
    return [
        ByUsers(count, times[f"{count}"].wall_s, of_event)
        for count, of_event in zip(counts, event_bytes, strict=True)
    ]


def by_history(lengths: Sequence[int], rounds: int) -> list[ByHistory]:
    """Read and fold, of a user with so many events each, in turn."""
    tails: dict[str, Callable[[], object]] = {}
    wholes: dict[str, Callable[[], object]] = {}
    with small_store() as (engine, _, encoder):
        rng = np.random.default_rng(4)
        for length in tqdm(lengths, desc="histories", leave=False):
            user_id = f"long{length}"
            _append(engine, user_id, length, rng)
            with read_snapshot(engine) as conn:
                user = find_user(conn, user_id)
                assert user is not None
                log = read_tail(conn, user.user_key, 0, length)
                digests = sorted({e.text_digest for e in log if e.text_digest is not None})
                vectors = catalog.read_item_vectors(conn, ENCODER_ID, digests)
            events: list[FoldEvent] = fold_events(log, dict(vectors))
            session = fold(encoder, None, events[:-1])
            row = SessionRow(user.user_key, session.user_seq, session.to_bytes())
            write_sessions(engine, GENERATION, [row])
            tails |= {
                f"{length} tail read": partial(_read, engine, user_id, GENERATION),
                f"{length} tail fold": partial(fold, encoder, session, events[-1:]),
            }
            wholes |= {
                f"{length} whole read": partial(_read, engine, user_id, WITHOUT_SESSIONS),
                f"{length} whole fold": partial(fold, encoder, None, events),
            }
        # Apart: a fold of thousands would leave the next tail without its caches.
        times = in_turn(tails, rounds, "tails") | in_turn(wholes, rounds, "histories")
    parts = ("tail read", "tail fold", "whole read", "whole fold")
    return [
        ByHistory(length, *(times[f"{length} {part}"].wall_s for part in parts))
        for length in lengths
    ]


def _read(engine: Engine, user_id: str, generation: str) -> int:
    return len(read_recommendation(engine, user_id, [generation], ENCODERS).tail)


def _read_any(engine: Engine, users: int, rng: np.random.Generator) -> None:
    snapshot = read_recommendation(engine, f"u{rng.integers(users)}", [GENERATION], ENCODERS)
    assert snapshot.base == "session"


def _add_users(engine: Engine, end: int, rng: np.random.Generator) -> None:
    for start in tqdm(range(0, end, APPEND_AT_ONCE), desc=f"{end} users", leave=False):
        users = range(start, min(end, start + APPEND_AT_ONCE))
        append(
            engine,
            [_events(f"u{user}", 0, EVENTS_A_USER, rng) for user in users],
            received_at_ms=AT_MS,
        )


def _append(engine: Engine, user_id: str, end: int, rng: np.random.Generator) -> None:
    for start in range(0, end, APPEND_AT_ONCE):
        events = _events(user_id, start, min(end, start + APPEND_AT_ONCE), rng)
        append(engine, [events], received_at_ms=AT_MS)


def _events(user_id: str, first: int, end: int, rng: np.random.Generator) -> list[NewEvent]:
    items = rng.integers(ITEMS, size=end - first)
    return [
        NewEvent(user_id, f"e{number}", EventKind.VIEW, f"i{item}")
        for number, item in zip(range(first, end), items.tolist(), strict=True)
    ]


def _write_sessions(engine: Engine, encoder: UserEncoder) -> None:
    """Of all users."""
    histories: dict[int, list[FoldEvent]] = {}
    with read_snapshot(engine) as conn:
        items = [item.text_digest for item in catalog.read_items(conn, -1, ITEMS)]
        vectors = dict(catalog.read_item_vectors(conn, ENCODER_ID, items))
        for chunk in iterate_log(conn):
            for event in chunk:
                histories.setdefault(event.user_key, []).extend(fold_events([event], vectors))
    keys = sorted(histories)
    folded = [fold(encoder, None, histories[key]) for key in keys]
    rows = (
        SessionRow(key, session.user_seq, session.to_bytes())
        for key, session in zip(keys, folded, strict=True)
    )
    write_sessions(engine, GENERATION, rows, sleep=lambda _: None)


def _file_bytes(engine: Engine, path: Path) -> int:
    with engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def _encoder(folder: Path) -> UserEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UserLSTM(UserLSTMConfig(text_dim=TEXT_DIM, dim=DIM, hidden=DIM)).eval()
    weights = folder / "weights.safetensors"
    save_weights(weights, FitResult(model, np.zeros(0, np.int64), (), 0))
    return load_weights(weights)
