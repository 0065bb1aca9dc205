"""The checker of the drills finds each broken promise, and nothing where none is broken."""

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from infra.drills.catalog import fill_catalog, item_put
from infra.drills.checker import check
from infra.drills.figures import Figures
from infra.drills.generation import fold_sessions, make_generation
from infra.drills.record import Ack, Answer, ItemAck, Record
from ray_jobs.encoders.fold import Session, user_vector
from ray_jobs.encoders.weights import load_weights
from sql import catalog
from sql.engine import migrate, open_engine, read_snapshot
from sql.events import EventKind, NewEvent, append

ITEMS = 40
K = 5
NAMES = (
    "lost",
    "duplicated",
    "stale_reads",
    "mixed_generation",
    "resurrected",
    "failed_requests",
)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    made = open_engine(f"sqlite:///{tmp_path / 'moonlark.db'}")
    migrate(made)
    fill_catalog(made, ITEMS, np.random.default_rng(1), 1)
    for number, generation in enumerate(("g1", "g2")):
        make_generation(made, tmp_path, generation, seed=number, at_ms=number)
    kinds = (EventKind.VIEW, EventKind.HIDE, EventKind.CLICK)
    events = [NewEvent("u", f"e{n}", kind, f"i{n}") for n, kind in enumerate(kinds)]
    append(made, [events], received_at_ms=1)
    catalog.delete_item(made, "i7", None, at_ms=1)
    catalog.put_items(made, [item_put("new", "space space1 space2 space3")], 1)
    return made


def right(engine: Engine, root: Path, generation: str = "g1") -> Answer:
    """What a replica answers, by brute force."""
    encoder = load_weights(root / "generations" / generation / "weights.safetensors")
    vector = user_vector(encoder, Session.from_bytes(fold_sessions(engine, encoder)[0].state))
    with read_snapshot(engine) as conn:
        seq = catalog.catalog_seq(conn)
        items = catalog.read_items(conn, -1, 1_000)
        vectors = catalog.read_item_vectors(
            conn, "drill-words-1", [item.text_digest for item in items]
        )
    texts = np.stack([vectors[item.text_digest] for item in items])
    ordinals = np.array([item.ordinal for item in items])
    scores = encoder.item_vectors(texts, ordinals) @ vector
    listed = [
        (items[row].item_id, float(scores[row]))
        for row in np.argsort(-scores)
        if items[row].item_id not in ("i0", "i1", "i2")
    ]
    return Answer("u", K, generation, 3, seq, tuple(listed[:K]), "session", (), 3, seq)


def record_of(*answers: Answer) -> Record:
    made = Record(answers=list(answers))
    made.acks = [Ack("u", f"e{n}", n + 1) for n in range(3)]
    made.acked_item(ItemAck("i7", "delete", None, ITEMS + 1))
    made.acked_item(ItemAck("new", "put", "space space1 space2 space3", ITEMS + 2))
    return made


def counts(engine: Engine, root: Path, record: Record) -> dict[str, int]:
    figures = Figures("test", 1, 0)
    check(record, engine, root, figures)
    found = {name: getattr(figures, name) for name in NAMES if getattr(figures, name)}
    assert figures.passed == (not found)
    return found


def test_right_answers_of_either_generation_break_nothing(engine: Engine, tmp_path: Path) -> None:
    answers = [right(engine, tmp_path, "g1"), right(engine, tmp_path, "g2")]
    assert counts(engine, tmp_path, record_of(*answers)) == {}


def test_each_broken_promise_is_counted_under_its_name(engine: Engine, tmp_path: Path) -> None:
    answer, other = right(engine, tmp_path, "g1"), right(engine, tmp_path, "g2")
    half = answer.items[:2] + tuple(i for i in other.items if i not in answer.items)[: K - 2]
    wrong = {
        "mixed_generation": [
            answer._replace(generation="g2"),
            answer._replace(items=half),
            answer._replace(items=answer.items[1:]),
        ],
        "stale_reads": [
            answer._replace(least_user_seq=4),
            answer._replace(least_catalog_seq=answer.catalog_seq + 1),
        ],
        "resurrected": [
            answer._replace(items=((name, 0.1), *answer.items[1:]))
            for name in ("i7", "i1", "i0", answer.items[1][0], "never was")
        ],
    }
    for name, answers in wrong.items():
        for broken in answers:
            assert counts(engine, tmp_path, record_of(broken)) == {name: 1}, broken
    assert counts(engine, tmp_path, record_of(answer, answer._replace(generation="g2"))) == {
        "mixed_generation": 1
    }


def test_an_answer_from_memory_is_held_to_what_was_acknowledged_before_its_moment(
    engine: Engine, tmp_path: Path
) -> None:
    answer = right(engine, tmp_path)
    record = record_of(answer._replace(degraded=("database_gone",), as_of_ms=20, least_user_seq=4))
    record.acks = [ack._replace(at_ms=10) for ack in record.acks]
    assert counts(engine, tmp_path, record) == {}  # the 4th was acknowledged after its moment
    record.acks[-1] = record.acks[-1]._replace(at_ms=10)
    behind = answer._replace(degraded=("database_gone",), as_of_ms=20, user_seq=2, least_user_seq=0)
    record.answers = [behind]
    found = counts(engine, tmp_path, record)
    assert found["stale_reads"] == 1
    record.answers = [behind._replace(as_of_ms=10)]  # it does not claim to hold the third
    assert "stale_reads" not in counts(engine, tmp_path, record)


def test_what_was_acknowledged_and_is_not_there_is_lost(engine: Engine, tmp_path: Path) -> None:
    record = record_of()
    record.acks += [Ack("u", "e9", 4), Ack("u", "e1", 1)]
    record.acked_item(ItemAck("new", "put", "another title", ITEMS + 2))
    record.failed("GET /: 503")
    assert counts(engine, tmp_path, record) == {"lost": 3, "failed_requests": 1}


def test_the_document_has_the_promised_keys(tmp_path: Path) -> None:
    figures = Figures("switch", 50, 7, more={"p99": 1.5})
    figures.write(tmp_path / "f.json")
    document = json.loads((tmp_path / "f.json").read_text())
    keys = "scenario rounds seed acked lost duplicated stale_reads mixed_generation resurrected"
    keys += " failed_requests recall_gap parity_max_abs_diff passed p99"
    assert list(document)[: len(keys.split())] == keys.split()
    assert document["passed"] is True
    figures.tell("something")
    assert not figures.passed
