"""Leave-one-out: per user the last event is the test, the one before it validation.

Users and items with at least 5 events (items are filtered first, each once). Every item that is
left is ranked, those seen before excluded. Training events alone are learned from and counted;
histories hold all that the user did before the test.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.errors import TooLittleData
from infra.evaluation.interactions import DAY_MS, Interactions, Ints
from infra.evaluation.log import Log
from infra.evaluation.task import Lesson, Question, Task

MIN_EVENTS = 5


def leave_one_out(interactions: Interactions) -> Task:
    """Filter and split.

    Raises:
        TooLittleData: nobody is left.
    """
    kept = filtered(interactions)
    roles_E = roles(kept)
    train, valid = roles_E == 0, roles_E == 1
    log = Log(kept, counted_E=train)
    validation = _task(log, Lesson(0, np.flatnonzero(train), _NONE), np.flatnonzero(valid), None)
    lesson = Lesson(0, np.flatnonzero(train), np.flatnonzero(valid))
    return _task(log, lesson, np.flatnonzero(roles_E == 2), validation)


def filtered(interactions: Interactions) -> Interactions:
    """Items with at least 5 events, then users with at least 5 of those left, numbered anew."""
    counts_I = np.bincount(interactions.items_E, minlength=interactions.item_count)
    items = np.flatnonzero(counts_I >= MIN_EVENTS)
    by_item_E = counts_I[interactions.items_E] >= MIN_EVENTS
    counts_U = np.bincount(interactions.users_E[by_item_E], minlength=interactions.user_count)
    kept_E = by_item_E & (counts_U[interactions.users_E] >= MIN_EVENTS)
    users, users_E = np.unique(interactions.users_E[kept_E], return_inverse=True)
    if not len(users):
        raise TooLittleData(interactions.name, len(users), len(items))
    published = interactions.published_ms_I
    return replace(
        interactions,
        texts_I=tuple(interactions.texts_I[item] for item in items),
        users_E=users_E.astype(np.int64),
        items_E=np.searchsorted(items, interactions.items_E[kept_E]).astype(np.int64),
        at_ms_E=interactions.at_ms_E[kept_E],
        kinds_E=interactions.kinds_E[kept_E],
        values_E=interactions.values_E[kept_E],
        published_ms_I=None if published is None else published[items],
    )


def roles(interactions: Interactions) -> NDArray[np.int8]:
    """0 training, 1 validation, 2 test, of each event."""
    roles_E = np.zeros(len(interactions.users_E), np.int8)
    by_user = np.argsort(interactions.users_E, kind="stable")
    ends = np.cumsum(np.bincount(interactions.users_E))
    roles_E[by_user[ends - 2]] = 1
    roles_E[by_user[ends - 1]] = 2
    return roles_E


_NONE: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _OneLesson:
    log: Log
    lesson: Lesson
    asked: Ints

    @property
    def count(self) -> int:
        return len(self.asked)

    def __iter__(self) -> Iterator[tuple[Lesson, list[Question]]]:
        events = self.log.interactions
        questions = []
        for row in self.asked.tolist():
            at_ms = int(events.at_ms_E[row])
            night_ms = at_ms // DAY_MS * DAY_MS
            history = self.log.history(int(events.users_E[row]), row)
            questions.append(
                Question(
                    user=int(events.users_E[row]),
                    at_ms=at_ms,
                    history=history,
                    seen=events.items_E[history],
                    known=row,
                    night=self.log.row_at(night_ms),
                    night_ms=night_ms,
                    relevant=events.items_E[row : row + 1],
                    candidates=None,
                )
            )
        yield self.lesson, questions


def _task(log: Log, lesson: Lesson, asked: Ints, validation: Task | None) -> Task:
    events = log.interactions
    warm_I = np.bincount(events.items_E[lesson.rows], minlength=events.item_count) > 0
    known_U = np.ones(events.user_count, np.bool_)
    return Task(log, _OneLesson(log, lesson, asked), warm_I, known_U, validation)
