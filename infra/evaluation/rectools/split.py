"""The split as a file for a peer, and a peer's lists as a ranker: its answers are scored by the
same `walk` as ours.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infra.evaluation.leave_one_out import roles
from infra.evaluation.log import Log
from infra.evaluation.task import Floats, Lesson, Question, Task
from infra.evaluation.walk import walk

COLUMNS = ("user", "item", "row", "role")


def write_split(task: Task, path: Path) -> None:
    """CSV, an event a line in order of time; no text, rating or time goes over."""
    events = task.log.interactions
    columns = (events.users_E, events.items_E, np.arange(len(events.users_E)), roles(events))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


class Listed:
    """A ranker whose lists are known: by user, best first."""

    def __init__(self, lists_U: Sequence[Sequence[int]]) -> None:
        self._lists_U = lists_U

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Learned elsewhere."""

    def scores(self, log: Log, question: Question) -> Floats:
        """NaN where the list does not go."""
        scores_I = np.full(log.interactions.item_count, np.nan)
        items = self._lists_U[question.user]
        scores_I[list(items)] = np.arange(len(items), 0, -1)
        return scores_I


def ndcg_of_lists(task: Task, lists_U: Sequence[Sequence[int]]) -> float:
    """NDCG@10 of a list a user.

    Raises:
        ValueError: not a list for each user, or an item that the catalog does not have.
    """
    events = task.log.interactions
    if len(lists_U) != events.user_count:
        raise ValueError(f"{len(lists_U)} lists for {events.user_count} users")
    listed = [item for items in lists_U for item in items]
    if listed and not 0 <= min(listed) <= max(listed) < events.item_count:
        raise ValueError(f"items must lie in 0..{events.item_count - 1}")
    return float(walk(task, Listed(lists_U)).ndcg_Q.mean())
