"""The exported log as columns, and as the events that the fold reads. One loader for all steps.

Shapes: U users, E events (sorted by user_key, then user_seq), T texts, S search and comment texts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.encoders.config import UNDO
from ray_jobs.encoders.fold import FoldEvent
from ray_jobs.nightly.event_vectors import EventVectors
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.texts import TextVectors

LIVE_MS = 60_000
"""An event that was received so soon after it occurred is of the day, later it is history."""

NONE = -1
"""No ordinal, no text row, nothing undone."""


@dataclass(frozen=True)
class Histories:
    """Every event of some users, in log order."""

    user_keys_E: NDArray[np.int64]
    user_seqs_E: NDArray[np.int64]
    kinds_E: NDArray[np.str_]
    ordinals_E: NDArray[np.int64]
    undoes_E: NDArray[np.int64]
    values_E: NDArray[np.float64]
    """Rating, NaN where there is none."""
    occurred_E: NDArray[np.int64]
    received_E: NDArray[np.int64]
    rows_E: NDArray[np.int64]
    """Row of the event's vector: below T of `texts`, from T on of `event_vectors`, NONE."""
    texts: TextVectors
    event_vectors: EventVectors

    @cached_property
    def at_ms_E(self) -> NDArray[np.int64]:
        """When each event counts as done (`fold.event_time`)."""
        return np.minimum(self.occurred_E, self.received_E)

    @cached_property
    def moments_E(self) -> NDArray[np.int64]:
        """A number for each event; adjacent ones that are equal happened at one time.

        That is so in history only, where a basket's lines share a minute. What came within a minute
        came one after the other, in log order, also where one post gave all of it one time.
        """
        is_history_E = self.received_E - self.occurred_E > LIVE_MS
        return np.where(is_history_E, self.occurred_E, -1 - np.arange(len(self.occurred_E)))

    @cached_property
    def offsets_U1(self) -> NDArray[np.int64]:
        """User u has the events offsets[u] .. offsets[u + 1]."""
        starts = np.flatnonzero(np.diff(self.user_keys_E, prepend=NONE))
        return np.append(starts, len(self.user_keys_E)).astype(np.int64)

    @cached_property
    def effective_E(self) -> NDArray[np.bool_]:
        """Without undos, and without what an undo or a re-rating took back."""
        return effective_rows(self.user_keys_E, self.user_seqs_E, self.kinds_E, self.undoes_E)

    def vectors(self) -> NDArray[np.float32]:
        """All vectors that `rows_E` names, (T + S, text_dim); copies the texts' matrix."""
        if not len(self.event_vectors.vectors_SD):
            return np.asarray(self.texts.vectors)
        return np.concatenate([self.texts.vectors, self.event_vectors.vectors_SD])

    def users(self) -> Iterator[tuple[int, list[FoldEvent]]]:
        """(user_key, events) of each user."""
        for user, first in enumerate(self.offsets_U1[:-1]):
            yield int(self.user_keys_E[first]), self.events_of(user)

    def events_of(self, user: int) -> list[FoldEvent]:
        """All events of the user with that number, in log order."""
        first, last = self.offsets_U1[user : user + 2].tolist()
        rows = slice(first, last)
        columns = (
            self.user_seqs_E,
            self.kinds_E,
            self.ordinals_E,
            self.rows_E,
            self.values_E,
            self.undoes_E,
            self.at_ms_E,
        )
        # Lists of a user's rows: a number taken out of an array one at a time costs ten times that.
        events = zip(*(column[rows].tolist() for column in columns), strict=True)
        return [
            FoldEvent(
                user_seq=seq,
                kind=kind,
                ordinal=None if ordinal == NONE else ordinal,
                vector=self._vector_at(vector_row),
                value=None if value != value else value,
                undoes_seq=None if undoes == NONE else undoes,
                at_ms=at_ms,
            )
            for seq, kind, ordinal, vector_row, value, undoes, at_ms in events
        ]

    def _vector_at(self, row: int) -> NDArray[np.float32] | None:
        if row == NONE:
            return None
        if row < len(self.texts):
            of_item: NDArray[np.float32] = self.texts.vectors[row]
            return of_item
        own: NDArray[np.float32] = self.event_vectors.vectors_SD[row - len(self.texts)]
        return own


def effective_rows(
    user_keys_E: NDArray[np.int64],
    user_seqs_E: NDArray[np.int64],
    kinds_E: NDArray[np.str_],
    undoes_E: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """`Histories.effective_E` of the columns alone."""
    counted: NDArray[np.bool_] = kinds_E != UNDO
    takes = np.flatnonzero(undoes_E != NONE)
    user_E = np.cumsum(np.diff(user_keys_E, prepend=user_keys_E[:1]) != 0)
    # One ascending number for (user, user_seq). Retention leaves gaps, and may have taken what an
    # undo that is still there took back.
    span = int(user_seqs_E.max(initial=0)) + 1
    places_E = user_E * span + user_seqs_E
    wanted = user_E[takes] * span + undoes_E[takes]
    found = np.searchsorted(places_E, wanted)
    counted[found[places_E[found] == wanted]] = False
    return counted


def open_histories(workspace: Workspace, user_keys: tuple[int, int] | None = None) -> Histories:
    """The exported log of all users, or of those with first <= user_key <= last.

    Row groups are sorted by user_key, so a range reads only the groups it needs.
    """
    filters = None
    if user_keys is not None:
        filters = [("user_key", ">=", user_keys[0]), ("user_key", "<=", user_keys[1])]
    table = pq.read_table(workspace.events, filters=filters)
    texts = TextVectors.open(workspace.directory)
    event_vectors = EventVectors.open(workspace.work)
    keys = table["user_key"].to_numpy()
    seqs = table["user_seq"].to_numpy()
    digests = pc.fill_null(table["text_digest"], "").combine_chunks().dictionary_encode()
    rows_of_distinct = texts.rows_of(digests.dictionary.to_pylist())
    rows_E = rows_of_distinct[digests.indices.to_numpy()] if len(table) else keys
    own_E = event_vectors.rows_of(keys, seqs)
    return Histories(
        user_keys_E=keys,
        user_seqs_E=seqs,
        kinds_E=table["kind"].to_numpy().astype(np.str_),
        ordinals_E=pc.fill_null(table["ordinal"], NONE).to_numpy(),
        undoes_E=pc.fill_null(table["undoes_seq"], NONE).to_numpy(),
        values_E=pc.fill_null(table["value"], np.nan).to_numpy(),
        occurred_E=table["occurred_at_ms"].to_numpy(),
        received_E=table["received_at_ms"].to_numpy(),
        rows_E=np.where(own_E == NONE, rows_E, own_E + len(texts)),
        texts=texts,
        event_vectors=event_vectors,
    )
