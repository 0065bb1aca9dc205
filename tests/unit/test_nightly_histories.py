"""Which events count, read from columns: with the gaps that retention leaves in the numbers."""

from pathlib import Path

import numpy as np
import pytest

from ray_jobs.encoders.fold import effective
from ray_jobs.nightly.event_vectors import EventVectors
from ray_jobs.nightly.histories import NONE, Histories
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


@pytest.mark.parametrize("rows", [GAPLESS, TRIMMED, [], [(1, 5, "undo", 4)]])
def test_the_columns_say_what_the_fold_says(tmp_path: Path, rows: list[Row]) -> None:
    write_text_vectors(tmp_path, [], np.zeros((0, 4), np.float32))
    keys, seqs, kinds, undoes = zip(*rows, strict=True) if rows else ((), (), (), ())
    size = len(rows)
    histories = Histories(
        user_keys_E=np.array(keys, np.int64),
        user_seqs_E=np.array(seqs, np.int64),
        kinds_E=np.array(kinds, np.str_),
        ordinals_E=np.zeros(size, np.int64),
        undoes_E=np.array(undoes, np.int64),
        values_E=np.full(size, np.nan),
        occurred_E=np.zeros(size, np.int64),
        received_E=np.zeros(size, np.int64),
        rows_E=np.full(size, NONE, np.int64),
        texts=TextVectors.open(tmp_path),
        event_vectors=EventVectors(np.zeros((0, 2), np.int64), np.zeros((0, 4), np.float32)),
    )
    counted = {
        (key, event.user_seq) for key, events in histories.users() for event in effective(events)
    }
    by_columns = histories.effective_E
    assert {(row[0], row[1]) for row, c in zip(rows, by_columns, strict=True) if c} == counted
