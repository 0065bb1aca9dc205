"""Which events count, read from columns: with the gaps that retention leaves in the numbers."""

from pathlib import Path

import numpy as np
import pytest

from ray_jobs.encoders.fold import effective
from ray_jobs.nightly.event_vectors import EventVectors
from ray_jobs.nightly.histories import NONE, Histories
from ray_jobs.nightly.replay import questions_of
from ray_jobs.shards.texts import TextVectors, write_text_vectors

Row = tuple[int, int, str, int]
"""user_key, user_seq, kind, undoes_seq."""

GAPLESS: list[Row] = [
    (7, 1, "view", NONE),
    (7, 2, "rating", NONE),
    (7, 3, "rating", 2),
    (9, 1, "hide", NONE),
    (9, 2, "undo", 1),
    (9, 3, "view", NONE),
]
TRIMMED: list[Row] = [
    (3, 4, "hide", NONE),
    (3, 90, "undo", 5),  # what it took back is gone
    (7, 12, "rating", 2),
    (7, 50, "view", NONE),
    (7, 51, "undo", 50),
    (9, 50, "view", NONE),
    (9, 52, "undo", 51),
]


def histories_of(
    tmp_path: Path,
    rows: list[Row],
    occurred: list[int] | None = None,
    received: list[int] | None = None,
) -> Histories:
    write_text_vectors(tmp_path, [], np.zeros((0, 4), np.float32))
    keys, seqs, kinds, undoes = zip(*rows, strict=True) if rows else ((), (), (), ())
    size = len(rows)
    return Histories(
        user_keys_E=np.array(keys, np.int64),
        user_seqs_E=np.array(seqs, np.int64),
        kinds_E=np.array(kinds, np.str_),
        ordinals_E=np.array(seqs, np.int64),
        undoes_E=np.array(undoes, np.int64),
        values_E=np.full(size, np.nan),
        occurred_E=np.array(occurred or [0] * size, np.int64),
        received_E=np.array(received or [0] * size, np.int64),
        rows_E=np.full(size, NONE, np.int64),
        texts=TextVectors.open(tmp_path),
        event_vectors=EventVectors(np.zeros((0, 2), np.int64), np.zeros((0, 4), np.float32)),
    )


@pytest.mark.parametrize("rows", [GAPLESS, TRIMMED, [], [(1, 5, "undo", 4)]])
def test_the_columns_say_what_the_fold_says(tmp_path: Path, rows: list[Row]) -> None:
    histories = histories_of(tmp_path, rows)
    counted = {
        (key, event.user_seq) for key, events in histories.users() for event in effective(events)
    }
    by_columns = histories.effective_E
    assert {(row[0], row[1]) for row, c in zip(rows, by_columns, strict=True) if c} == counted


VIEWS: list[Row] = [(1, seq, "view", NONE) for seq in range(1, 6)]


def test_lines_of_a_basket_are_one_moment_and_what_a_post_tells_at_once_is_not(
    tmp_path: Path,
) -> None:
    occurred, later = [5, 5, 9, 9, 9], [10**9] * 5
    basket = histories_of(tmp_path, VIEWS, occurred, later).moments_E
    assert (basket[0] == basket[1], basket[1] == basket[2], basket[2] == basket[4]) == (
        *(True, False, True),
    )
    for received in (occurred, [5_000] * 5, [1] * 5):  # at once, a moment later, a wrong clock
        at_once = histories_of(tmp_path, VIEWS, occurred, received).moments_E
        assert len(set(at_once.tolist())) == 5


def test_each_line_of_a_basket_is_asked_from_what_was_known_before_it(tmp_path: Path) -> None:
    items = np.arange(1, 6)
    everything = np.ones(5, np.bool_)

    def positions(occurred: list[int]) -> list[int]:
        histories = histories_of(tmp_path, VIEWS, occurred, [10**9] * 5)
        found = questions_of(histories, everything, items, a_user=9, most=9)
        return [question.position for question in found]

    assert positions([5, 5, 9, 9, 9]) == [2, 2, 2]
    assert positions([1, 2, 3, 4, 5]) == [1, 2, 3, 4]
    assert positions([7, 7, 7, 7, 7]) == [1, 2, 3, 4]  # no time is told: log order is
