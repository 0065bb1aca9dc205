"""Rows of the log become what the fold reads: the same code by day, by night and in the check that
compares the two.

E = text_dim.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import TEXT_KINDS
from ray_jobs.encoders.fold import FoldEvent, event_time

Vector = NDArray[np.float32]


class LoggedEvent(Protocol):
    """What the fold needs of a row of the log; `sql.events.StoredEvent` is one."""

    @property
    def user_seq(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def ordinal(self) -> int | None: ...
    @property
    def text_digest(self) -> str | None: ...
    @property
    def value(self) -> float | None: ...
    @property
    def undoes_seq(self) -> int | None: ...
    @property
    def occurred_at_ms(self) -> int: ...
    @property
    def received_at_ms(self) -> int: ...


Logged = TypeVar("Logged", bound=LoggedEvent)


def fold_events(
    events: Sequence[Logged],
    own_vectors: Mapping[int, Vector],
    item_vectors: Mapping[str, Vector],
) -> tuple[list[FoldEvent], list[Logged]]:
    """The events as the fold reads them, and those of them whose text no vector was found for.

    `own_vectors`: `user_seq` -> BERT vector (E,) of a search or comment. `item_vectors`: text
    digest -> BERT vector (E,) of an item's text as it was when the event was appended.
    """
    fed: list[FoldEvent] = []
    unembedded: list[Logged] = []
    for event in events:
        vector: Vector | None = None
        if event.kind in TEXT_KINDS:
            vector = own_vectors.get(event.user_seq)
        elif event.text_digest is not None:
            vector = item_vectors.get(event.text_digest)
        if vector is None and (event.kind in TEXT_KINDS or event.text_digest is not None):
            unembedded.append(event)
        fed.append(
            FoldEvent(
                user_seq=event.user_seq,
                kind=str(event.kind),
                ordinal=event.ordinal,
                vector=vector,
                value=event.value,
                undoes_seq=event.undoes_seq,
                at_ms=event_time(event.occurred_at_ms, event.received_at_ms),
            )
        )
    return fed, unembedded
