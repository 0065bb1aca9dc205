"""Held-out events as questions: what weights are learned from, which the models have not seen."""

from dataclasses import replace

import numpy as np

from infra.evaluation.interactions import DAY_MS, Ints
from infra.evaluation.log import Log
from infra.evaluation.task import Question

QUESTIONS, QUESTIONS_A_USER = 2_000, 20
"""As by night: a user's newest ones, drawn evenly where they are more."""


def taught(log: Log, rows: Ints) -> list[Question]:
    """Held-out events of users with a history, asked with what came before their moment."""
    events = log.interactions
    rows = log.newest_of_each_user(rows, QUESTIONS_A_USER)
    if len(rows) > QUESTIONS:
        rows = np.sort(np.random.default_rng(0).choice(rows, QUESTIONS, replace=False))
    published = events.published_ms_I
    questions = []
    for row in rows.tolist():
        user, at_ms = int(events.users_E[row]), int(events.at_ms_E[row])
        moment = log.row_at(at_ms)
        history = log.history(user, moment)
        if not len(history):
            continue
        questions.append(
            Question(
                user=user,
                at_ms=at_ms,
                history=history,
                seen=events.items_E[log.history(user, row)],
                known=moment,
                night=moment,
                night_ms=at_ms,
                relevant=events.items_E[row : row + 1],
                candidates=None if published is None else published <= at_ms,
            )
        )
    return questions


def at_midnight(log: Log, question: Question) -> Question:
    """The same, with the nightly counts of a replay: as of the midnight before it."""
    night_ms = question.at_ms // DAY_MS * DAY_MS
    return replace(question, night=log.row_at(night_ms), night_ms=night_ms)
