"""The night's session of a log is the day's, byte for byte where nothing is rounded: what was seen,
by which kinds, and when it was last bought."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from ray_jobs.encoders.config import SEEN_BITS, UserLSTMConfig
from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.fold import FoldEvent, event_time, fold
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import encoder_of
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.export import _export_events
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.texts import write_text_vectors
from sql.catalog import ItemBody, ItemPut, put_items
from sql.engine import migrate, open_engine, read_snapshot
from sql.event import EventKind, NewEvent
from sql.events import append, find_user, read_tail

DIGEST = "0" * 32
DIM = 4


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path / 'm.db'}")
    migrate(engine)
    puts = [ItemPut(f"i{n}", ItemBody(title="t"), "t", DIGEST, None, {}) for n in range(4)]
    put_items(engine, puts, at_ms=1)
    return engine


def encoder() -> UserEncoder:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = UserLSTM(UserLSTMConfig(text_dim=DIM, dim=8, hidden=8)).eval()
    return encoder_of(FitResult(model, np.zeros(0, np.int64), (), 0))


def test_the_night_knows_when_things_were_bought_as_the_day_does(
    engine: Engine, tmp_path: Path
) -> None:
    def act(kind: str, item: str | None, occurred_at_ms: int, **fields: str) -> NewEvent:
        event_id = f"{kind}{item}{occurred_at_ms}"
        return NewEvent(
            "u", event_id, EventKind(kind), item, occurred_at_ms=occurred_at_ms, **fields
        )

    events = [
        act("view", "i0", 10),
        act("purchase", "i0", 500),
        act("purchase", "i0", 300),
        act("purchase", "i1", 9_999),  # of a clock that is ahead
        act("purchase", "i2", 700),
        act("click", "i2", 20),
        act("undo", None, 30, undoes="purchasei2700"),
    ]
    append(engine, [events], received_at_ms=1_000)
    workspace = Workspace(tmp_path, "g1")
    workspace.make()
    text = np.full((1, DIM), 0.5, np.float32)
    write_text_vectors(workspace.directory, [DIGEST], text)
    write_event_vectors(workspace.work, {}, DIM)
    with read_snapshot(engine) as conn:
        _export_events(conn, workspace.events, {})
        user = find_user(conn, "u")
        assert user is not None
        tail = read_tail(conn, user.user_key, 0, 100)
    ((user_key, history),) = open_histories(workspace).users()
    assert user_key == user.user_key
    night = fold(encoder(), None, history)
    day = fold(
        encoder(),
        None,
        [
            FoldEvent(
                user_seq=event.user_seq,
                kind=str(event.kind),
                ordinal=event.ordinal,
                vector=None if event.text_digest is None else text[0],
                undoes_seq=event.undoes_seq,
                at_ms=event_time(event.occurred_at_ms, event.received_at_ms),
            )
            for event in tail
        ],
    )
    bought, clicked = SEEN_BITS["purchase"], SEEN_BITS["click"]
    for session in (night, day):
        assert session.seen.tolist() == [0, 1, 2]
        assert session.seen_kinds.tolist() == [bought | SEEN_BITS["view"], bought, clicked]
        assert session.bought_ms.tolist() == [500, 1_000, 0]
    assert night.to_bytes() == day.to_bytes()
