"""`explain=true`: what a score is made of, where the item was found, which past events are near.

Nothing here runs for a list that is not explained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.ranking.candidates import Candidates
from ray_jobs.ranking.explain import nearest_events
from ray_jobs.shards.merge import in_sorted
from ray_jobs.shards.search import live_vectors_of
from serve.loaded_generation import LoadedGeneration
from serve.user_state import UserState
from sql.engine import read_snapshot
from sql.events import (
    TEXT_KINDS,
    EventKind,
    StoredEvent,
    effective,
    read_effective,
    read_text_vectors,
)

MAX_PAST = 200
"""Of a user's effective events only the last so many are compared."""


@dataclass(frozen=True, slots=True)
class Past:
    """Events that count, newest first (M), and their vectors in the generation's space (M, D)."""

    events: Sequence[StoredEvent]
    vectors_MD: NDArray[np.float32]


def explanations(state: UserState, ranked: Candidates, past: Past) -> list[dict[str, Any]]:
    """One explanation an item of `ranked`, in its order."""
    shards, delta = state.shards, state.view.delta
    found_N, items_ND = live_vectors_of(shards, delta, ranked.ordinals)
    from_base_N = shards.contains(ranked.ordinals) & ~in_sorted(ranked.ordinals, delta.masked)
    rows_NE, cosines_NE = nearest_events(items_ND, past.vectors_MD)
    return [
        {
            "parts": {name: float(part[row]) for name, part in ranked.parts.items()},
            # Without a vector an item is in neither; it can be popular all the same.
            "source": ("base" if from_base_N[row] else "delta") if found_N[row] else "catalog",
            "nearest_events": [
                _told(past.events[event], float(cosine))
                for event, cosine in zip(rows_NE[row], cosines_NE[row], strict=True)
                if found_N[row]
            ],
        }
        for row in range(len(ranked))
    ]


def read_past(engine: Engine, state: UserState) -> Past:
    """What counts of the user's log, as far as the answer reflects it."""
    if state.user is None or state.user_seq == 0:
        return past_of(engine, state.generation, [], {})
    user_key = state.user.user_key
    with read_snapshot(engine) as conn:
        events = read_effective(conn, user_key, state.user_seq, MAX_PAST)
        texts = [event.user_seq for event in events if event.kind in TEXT_KINDS]
        vectors = read_text_vectors(conn, user_key, texts, state.generation.encoder_id)
    return past_of(engine, state.generation, events, vectors)


def past_of(
    engine: Engine,
    generation: LoadedGeneration,
    log: Sequence[StoredEvent],
    text_vectors: Mapping[int, NDArray[np.float32]],
) -> Past:
    """The last `MAX_PAST` events of `log` that count and have a vector.

    `log` must reach to its end (an undo may come late); `text_vectors`: by `user_seq`.
    """
    counted = effective(log)[-MAX_PAST:][::-1]
    digests = [event.text_digest for event in counted if event.text_digest is not None]
    item_texts = generation.text_vectors(engine, digests)
    events: list[StoredEvent] = []
    bert: list[NDArray[np.float32]] = []
    rows: list[int] = []
    # By text and ordinal: what happened with one item has one vector, equal to the last bit.
    places: dict[tuple[int | str | None, int], int] = {}
    for event in counted:
        is_text = event.kind in TEXT_KINDS
        vector = (
            text_vectors.get(event.user_seq) if is_text else item_texts.get(event.text_digest or "")
        )
        if vector is not None:
            # A text is no item, also where it is a comment on one: it has no residual.
            ordinal = -1 if is_text or event.ordinal is None else event.ordinal
            key = event.user_seq if is_text else event.text_digest, ordinal
            if key not in places:
                places[key] = len(bert)
                bert.append(vector)
            events.append(event)
            rows.append(places[key])
    if not events:
        return Past([], np.zeros((0, generation.encoder.dim), np.float32))
    ordinals = np.array([ordinal for _, ordinal in places], np.int64)
    vectors_MD = generation.encoder.item_vectors(np.stack(bert), ordinals)[rows]
    return Past(events, vectors_MD)


def _told(event: StoredEvent, cosine: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "event_id": event.event_id,
        "user_seq": event.user_seq,
        "kind": str(EventKind(event.kind)),
        "item_id": event.item_id,
        "text": event.text,
        "cosine": cosine,
    }
    return {name: value for name, value in told.items() if value is not None}
