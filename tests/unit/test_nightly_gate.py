"""What the gate compares on, and what it refuses: a night measured on nothing does not go live."""

from pathlib import Path

import numpy as np
import pytest

from ray_jobs.nightly.event_vectors import EventVectors
from ray_jobs.nightly.gate import check_accuracy
from ray_jobs.nightly.histories import NONE, Histories
from ray_jobs.nightly.holdout import QUESTIONS_A_USER, can_hold_out, held_out, validation
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.shards.texts import TextVectors, write_text_vectors

HOUR_MS = 3_600_000
Row = tuple[int, int, int]
"""user_key, ordinal, occurred_at_ms."""


def histories(folder: Path, rows: list[Row]) -> Histories:
    write_text_vectors(folder, [], np.zeros((0, 4), np.float32))
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    keys = np.array([row[0] for row in rows], np.int64)
    times = np.array([row[2] for row in rows], np.int64)
    seqs = np.concatenate([np.arange(1, (keys == key).sum() + 1) for key in np.unique(keys)])
    return Histories(
        user_keys_E=keys,
        user_seqs_E=seqs.astype(np.int64),
        kinds_E=np.full(len(rows), "view"),
        ordinals_E=np.array([row[1] for row in rows], np.int64),
        undoes_E=np.full(len(rows), NONE, np.int64),
        values_E=np.full(len(rows), np.nan),
        occurred_E=times,
        received_E=times,
        rows_E=np.full(len(rows), NONE, np.int64),
        texts=TextVectors.open(folder),
        event_vectors=EventVectors(np.zeros((0, 2), np.int64), np.zeros((0, 4), np.float32)),
    )


def shop(days: int = 40) -> list[Row]:
    """50 users who look at a new thing every other day."""
    return [
        (user, 100 * user + day, (24 * day + user % 24) * HOUR_MS)
        for user in range(50)
        for day in range(0, days, 2)
    ]


def test_one_thing_looked_at_a_thousand_times_is_no_question(tmp_path: Path) -> None:
    bot = [(99, 7, 40 * 24 * HOUR_MS + n) for n in range(2_000)]
    settings = NightSettings(holdout_events=60)
    log = histories(tmp_path, shop() + bot)
    held = held_out(log, settings)
    users = np.unique(log.user_keys_E[held & (log.user_keys_E != 99)])
    assert len(users) >= 50  # of the people, not of the bot
    assert np.count_nonzero(held & (log.user_keys_E != 99)) >= 60


def test_a_busy_user_counts_for_a_few(tmp_path: Path) -> None:
    reader = [(99, 10_000 + n, 40 * 24 * HOUR_MS + n) for n in range(500)]
    settings = NightSettings(holdout_events=60)
    log = histories(tmp_path, shop() + reader)
    held = held_out(log, settings)
    assert np.count_nonzero(held & (log.user_keys_E != 99)) >= 60 - QUESTIONS_A_USER


def test_what_is_held_out_is_the_end_of_each_history(tmp_path: Path) -> None:
    log = histories(tmp_path, shop())
    held = held_out(log, NightSettings(holdout_events=60))
    assert 60 <= np.count_nonzero(held) <= 0.1 * len(held)
    for first, last in zip(log.offsets_U1[:-1], log.offsets_U1[1:], strict=True):
        assert (np.diff(held[first:last].astype(int)) >= 0).all()


def test_of_an_import_without_times_most_users_stay_to_learn_from(tmp_path: Path) -> None:
    """All that is known happened at two moments, as of a file with a date a row."""
    users = 2_000
    log = histories(tmp_path, [(user, 10 * user + n, n) for user in range(users) for n in (0, 1)])
    settings = NightSettings(fusion_questions=150)
    held = held_out(log, settings)
    chosen = validation(log, held, settings)
    assert 100 <= np.count_nonzero(held) <= 400, "a tenth of the questions is 200"
    assert 75 <= np.count_nonzero(chosen) <= 300
    taken = np.unique(log.user_keys_E[held | chosen])
    assert len(taken) <= 0.35 * users, "of the others both events are learned from"


def test_nothing_of_a_tiny_log_is_held_out(tmp_path: Path) -> None:
    log = histories(tmp_path, shop()[:9])
    assert not held_out(log, NightSettings()).any()
    assert not can_hold_out(log)


def evaluated(**change: object) -> dict[str, object]:
    live = {"generation": "g1", "ndcg@10": 0.1, "difference_high": 0.01}
    return {"questions": 60, "can_compare": True, "ndcg@10": 0.1, "live": live} | change


def lower(candidate: float) -> dict[str, object]:
    """A log of which little can be told in advance: the live lists have 0.03."""
    live = {"generation": "g1", "ndcg@10": 0.03, "difference_high": -0.001}
    return evaluated(live=live) | {"ndcg@10": candidate}


def by_vector(candidate: float, high: float) -> dict[str, object]:
    """Lists as good as the live ones; the user vector alone is `candidate`, the live one's 0.1."""
    live = {"generation": "g1", "ndcg@10": 0.1, "difference_high": 0.01}
    live["vector"] = {"ndcg@10": 0.1, "difference_high": high}
    return evaluated(live=live, vector={"ndcg@10": candidate})


def another_encoder(popular: float, high: float) -> dict[str, object]:
    """What is live cannot be asked; lists of the candidate are 0.1."""
    return evaluated(live=None, popularity={"ndcg@10": popular, "difference_high": high})


@pytest.mark.parametrize(
    ("report", "refused"),
    [
        (evaluated(), None),
        (evaluated(questions=0, live=None), "0 held-out questions"),
        (evaluated(questions=0, live=None, can_compare=False), None),
        (another_encoder(0.2, -0.01), "lists 0.1000 against 0.2000 of the most popular"),
        (another_encoder(0.2, 0.01), None),
        (another_encoder(0.105, -0.001), None),
        (evaluated(live={"generation": "g1", "ndcg@10": 0.2, "difference_high": -0.01}), "of the"),
        (evaluated(live={"generation": "g1", "ndcg@10": 0.105, "difference_high": -0.001}), None),
        (lower(0.026), "lists 0.0260 against 0.0300"),
        (lower(0.028), None),
        (by_vector(0.02, -0.01), "of the user vector alone 0.0200 against 0.1000 of the live g1"),
        (by_vector(0.02, 0.01), None),
        (by_vector(0.095, -0.001), None),
    ],
)
def test_the_gate_on_accuracy(report: dict[str, object], refused: str | None) -> None:
    if refused is None:
        check_accuracy(report, NightSettings(), something_is_live=True)
        return
    with pytest.raises(GateRefused, match=refused):
        check_accuracy(report, NightSettings(), something_is_live=True)


def test_the_first_night_is_compared_with_nothing() -> None:
    report = evaluated(questions=0, live=None)
    check_accuracy(report, NightSettings(), something_is_live=False)
    check_accuracy(lower(0.0), NightSettings(gate_margin=1.0), something_is_live=True)
    check_accuracy(report, NightSettings(gate_min_questions=0), something_is_live=True)
    check_accuracy(another_encoder(0.2, -0.01), NightSettings(), something_is_live=False)
