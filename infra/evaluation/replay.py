"""Temporal replay: learn from what came before a cut, then walk through the later events in order.

Before each event (or basket) the list is asked for, and scored; then the event becomes known.
Every event counts, also of new users and of items without events. Where items have a day of
publication, candidates are those whose day has come. A test item that is no candidate is a miss.

Variants, of what is known when a list is asked for:

    frozen        what was learned, and all histories, as of the cut
    nightly       everything as of midnight, learned anew every N nights
    live          histories as of now, what was learned as of the cut
    nightly+live  histories as of now, learned anew every N nights: the product
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import numpy as np

from infra.evaluation.errors import NoReplay
from infra.evaluation.interactions import DAY_MS, Interactions, Ints, ReplayRule
from infra.evaluation.log import Log
from infra.evaluation.task import Lesson, Question, Task

Variant = Literal["frozen", "nightly", "live", "nightly+live"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)

MIN_HELD_OUT = 2_000
"""Events that a model may keep from training to choose by: the last day, widened until it holds so
many (as the night's validation does), but never past a tenth of the log."""

HELD_OUT_A_USER = 20
"""A user's newest events that count for that."""


def replay(
    interactions: Interactions,
    variant: Variant = "nightly+live",
    nights: int = 7,
    until_ms: int | None = None,
) -> Task:
    """The task; its validation replays the days before the cut, learned as of their first.

    Args:
        nights: learned anew every so many nights (nightly variants).
        until_ms: stop there; None for the end of the data.

    Raises:
        NoReplay: the data set has no rule, or no event on one side of the cut.
        ValueError: nights < 1.
    """
    rule = interactions.rule
    if rule is None:
        raise NoReplay(interactions.name, "its events span less than two days")
    if nights < 1:
        raise ValueError(f"nights must be at least 1, got {nights}")
    log = Log(interactions)
    start_ms = rule.cut_ms - rule.validation_days * DAY_MS
    validation = _task(log, rule, start_ms, rule.cut_ms, variant, nights, None)
    end_ms = int(interactions.at_ms_E.max()) + 1 if until_ms is None else until_ms
    return _task(log, rule, rule.cut_ms, end_ms, variant, nights, validation)


def _task(
    log: Log,
    rule: ReplayRule,
    cut_ms: int,
    until_ms: int,
    variant: Variant,
    nights: int,
    validation: Task | None,
) -> Task:
    events = log.interactions
    cut = log.row_at(cut_ms)
    if not 0 < cut < log.row_at(until_ms):
        raise NoReplay(events.name, f"no events before or after {cut_ms} ms")
    steps = _Nights(log, rule, cut_ms, until_ms, variant, nights)
    warm_I = np.bincount(events.items_E[:cut], minlength=events.item_count) > 0
    known_U = np.bincount(events.users_E[:cut], minlength=events.user_count) > 0
    return Task(log, steps, warm_I, known_U, validation)


@dataclass(frozen=True, slots=True, eq=False)
class _Nights:
    log: Log
    rule: ReplayRule
    cut_ms: int
    until_ms: int
    variant: Variant
    nights: int

    @property
    def count(self) -> int:
        return len(self._asked())

    def __iter__(self) -> Iterator[tuple[Lesson, list[Question]]]:
        step_ms = self.nights * DAY_MS if "nightly" in self.variant else self.until_ms
        at_E = self.log.interactions.at_ms_E

        def lesson_of(rows: Ints) -> int:
            return int((at_E[rows[0]] - self.cut_ms) // step_ms)

        for number, asked in groupby(self._asked(), key=lesson_of):
            yield self._lesson(self.cut_ms + number * step_ms), [self._question(r) for r in asked]

    def _asked(self) -> list[Ints]:
        """Rows of each question, in order of their first event."""
        events = self.log.interactions
        rows = np.arange(self.log.row_at(self.cut_ms), self.log.row_at(self.until_ms))
        if self.rule.question == "event":
            return list(rows[:, None])
        order = rows[np.lexsort((rows, events.users_E[rows], events.at_ms_E[rows]))]
        same_user = np.diff(events.users_E[order]) == 0
        same_time = np.diff(events.at_ms_E[order]) == 0
        baskets = np.split(order, np.flatnonzero(~(same_user & same_time)) + 1)
        return sorted(baskets, key=lambda basket: int(basket[0]))

    def _lesson(self, at_ms: int) -> Lesson:
        rows = np.arange(self.log.row_at(at_ms))
        counted = self.log.newest_of_each_user(rows, HELD_OUT_A_USER)
        most = min(MIN_HELD_OUT, len(counted) // 10)
        if most < 1:
            return Lesson(at_ms, rows, rows[:0])
        held_out = min(self.log.row_at(at_ms - DAY_MS), int(counted[-most]))
        return Lesson(at_ms, rows, rows[held_out:])

    def _question(self, rows: Ints) -> Question:
        events = self.log.interactions
        first, user = int(rows[0]), int(events.users_E[rows[0]])
        at_ms = int(events.at_ms_E[first])
        # A basket knows what came before its minute, an event what came before it in the log.
        before = self.log.row_at(at_ms) if self.rule.question == "basket" else first
        night_ms = self.cut_ms if self.variant == "frozen" else at_ms // DAY_MS * DAY_MS
        night = self.log.row_at(night_ms)
        known = before if "live" in self.variant else night
        published = events.published_ms_I
        return Question(
            user=user,
            at_ms=at_ms,
            history=self.log.history(user, known),
            seen=events.items_E[self.log.history(user, before)],
            known=known,
            night=night,
            night_ms=night_ms,
            relevant=events.items_E[rows],
            candidates=None if published is None else published <= at_ms,
        )
