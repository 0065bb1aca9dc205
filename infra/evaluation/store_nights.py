"""A data set in a real store, and nights of the shipped steps on it as of any moment of its log.

What came before a moment is laid into the store, and a night runs with its clock there. Texts stand
for their numbers and have the vectors that they are known to have.

Shapes: E events, I items, T text_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.drills.local import LocalStore
from infra.drills.small_night import sleep_shortly
from infra.evaluation.errors import NoReplay
from infra.evaluation.interactions import LONG_AGO_MS, Interactions, Ints
from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.item_text import text_digest
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.workspace import Workspace
from sql import catalog
from sql.events import EventKind, NewEvent, Rejected, append

AT_ONCE = 500


class KnownTexts:
    """Texts whose vectors are known: nothing is embedded twice."""

    encoder_id = "replay"

    def __init__(self, bert_IT: NDArray[np.float32]) -> None:
        self.dim = bert_IT.shape[1]
        self.bert_IT = bert_IT
        self._by_text = {title_of(item): vector for item, vector in enumerate(bert_IT)}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, T). Raises KeyError for any other text."""
        return np.array([self._by_text[text] for text in texts]).reshape(-1, self.dim)

    async def embed(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        """As the day asks for it."""
        return self.encoder_id, self.encode(texts)


def title_of(item: int) -> str:
    """The text that stands for the item's own: two items may have the same, and one vector each."""
    return f"item {item}"


@dataclass(frozen=True, eq=False)
class CatalogByDay:
    """Items in the order in which the store gets them: at the cut or, later, when their day comes
    or (where dates are wrong) when something is done with them, withdrawn until their day."""

    put_ms_I: Ints
    published_ms_I: Ints
    """LONG_AGO_MS where nobody says."""

    def body(self, item: int, now_ms: int) -> catalog.ItemBody:
        """The item as it is at a time."""
        at_ms = int(self.published_ms_I[item])
        return catalog.ItemBody(
            title=title_of(item),
            published_at_ms=None if at_ms == LONG_AGO_MS else at_ms,
            available=at_ms <= now_ms,
        )


def in_order_of_puts(
    events: Interactions, bert_IT: NDArray[np.float32], cut_ms: int
) -> tuple[Interactions, NDArray[np.float32], CatalogByDay]:
    """Items numbered as the store will."""
    published_I = events.published_ms_I
    if published_I is None:
        published_I = np.full(events.item_count, LONG_AGO_MS)
    put_I = published_I.copy()
    np.minimum.at(put_I, events.items_E, events.at_ms_E)
    order = np.argsort(np.maximum(put_I, cut_ms), kind="stable")
    moved = replace(
        events,
        texts_I=tuple(events.texts_I[item] for item in order),
        items_E=np.argsort(order)[events.items_E],
        published_ms_I=None if events.published_ms_I is None else published_I[order],
    )
    return moved, bert_IT[order], CatalogByDay(put_I[order], published_I[order])


def put_items(
    store: LocalStore, items: CatalogByDay, encoder: KnownTexts, first: int, now_ms: int
) -> int:
    """The catalog from item `first` on, as of that moment; gives the first that is yet to come."""
    end = int((items.put_ms_I <= now_ms).sum())
    puts = [
        catalog.ItemPut(
            f"i{item}",
            items.body(item, now_ms),
            title_of(item),
            text_digest(title_of(item)),
            None,
            {encoder.encoder_id: encoder.bert_IT[item]},
        )
        for item in range(first, end)
    ]
    for begin in range(0, len(puts), AT_ONCE):
        catalog.put_items(store.engine, puts[begin : begin + AT_ONCE], now_ms)
    return end


def post_events(store: LocalStore, events: Interactions, from_ms: int, to_ms: int) -> None:
    """The log from one moment to the other, received at the latter.

    Raises:
        NoReplay: the store refuses an event.
    """
    rows = np.flatnonzero((events.at_ms_E >= from_ms) & (events.at_ms_E < to_ms))
    for first in range(0, len(rows), AT_ONCE):
        request = [event_of(events, row) for row in rows[first : first + AT_ONCE].tolist()]
        (answer,) = append(store.engine, [request], received_at_ms=to_ms, history=True)
        if isinstance(answer, Rejected):
            raise NoReplay(events.name, f"the store refuses its events: {answer}")


def event_of(events: Interactions, row: int) -> NewEvent:
    """As a client would post it."""
    value = float(events.values_E[row])
    return NewEvent(
        user_id=f"u{events.users_E[row]}",
        event_id=f"e{row}",
        kind=EventKind(KINDS[events.kinds_E[row]]),
        item_id=f"i{events.items_E[row]}",
        value=None if np.isnan(value) else value,
        occurred_at_ms=int(events.at_ms_E[row]),
    )


def night_at(store: LocalStore, generation_id: str, now_ms: int) -> Night:
    """A night whose clock stands there."""
    settings = NightSettings(stage_deadline_s=20, verify_deadline_s=20)
    workspace = Workspace(store.root, generation_id)
    return Night(store.engine, store.settings, settings, workspace, lambda: now_ms, sleep_shortly)
