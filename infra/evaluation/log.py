"""The events as a question sees them: a user's history, and how often items occurred in a window.

Shapes: E events in order, I items.
"""

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Interactions, Ints


class Log:
    """`interactions`, and which of its events may be counted (all but the answers, by default)."""

    def __init__(self, interactions: Interactions, counted_E: NDArray[np.bool_] | None = None):
        self.interactions = interactions
        everything = np.ones(len(interactions.users_E), np.bool_)
        self.countable_E: NDArray[np.bool_] = everything if counted_E is None else counted_E
        self._rows_by_user = np.argsort(interactions.users_E, kind="stable")
        sizes_U = np.bincount(interactions.users_E, minlength=interactions.user_count)
        self._offsets_U1 = np.concatenate([[0], np.cumsum(sizes_U)])

    def history(self, user: int, known: int) -> Ints:
        """Events (rows) of the user before row `known`, in order."""
        rows = self._rows_by_user[self._offsets_U1[user] : self._offsets_U1[user + 1]]
        return rows[: np.searchsorted(rows, known)]

    def row_at(self, at_ms: int) -> int:
        """The row of the first event at or after a time: those before it were known then."""
        return int(np.searchsorted(self.interactions.at_ms_E, at_ms))

    def newest_of_each_user(self, rows: Ints, most: int) -> Ints:
        """Of these rows, in order, the `most` that came last of each user."""
        users = self.interactions.users_E[rows]
        by_user = np.argsort(users, kind="stable")
        ends = np.searchsorted(users[by_user], users[by_user], side="right")
        kept = by_user[ends - np.arange(len(rows)) <= most]
        return np.sort(rows[kept])

    def counts(self, first_row: int, end_row: int) -> Ints:
        """(I,) how often each item occurred in these rows."""
        rows = slice(first_row, end_row)
        items = self.interactions.items_E[rows][self.countable_E[rows]]
        return np.bincount(items, minlength=self.interactions.item_count).astype(np.int64)
