"""What is right, worked out plainly and apart from the shipped code.

Reads the shadows (`shadow`) over a connection of its own. The fold here is the textbook's, one
event at a time; the list is a sort of all items. Nothing is cached that a bug could make stale.

Shapes: D dim, H hidden, N items.
"""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.simulation.fake_model import Floats, Model, embed_text
from infra.simulation.scheduler import Violation
from infra.simulation.shadow import CHANGE_COLUMNS, ERASED

SEEN = {"view", "click", "rating", "favourite", "purchase"}
EXCLUDED = {"dislike", "hide"}
TEXTS = {"search", "comment"}


class Event(NamedTuple):
    """A row of the log, as it was committed."""

    user_key: int
    user_seq: int
    event_id: str
    kind: str
    item_id: str | None
    ordinal: int | None
    text_digest: str | None
    text: str | None
    value: float | None
    undoes_seq: int | None
    received_at_ms: int
    place: int
    """In the order of commits of all users."""
    trimmed_at: int | None
    """The user's `trimmed_seq` from which on it was gone."""
    trimmed_place: int | None

    def gone_before(self, other: "Event") -> bool:
        """Whether it was deleted when `other` was appended."""
        return self.trimmed_place is not None and self.trimmed_place < other.place

    def kept_at(self, trimmed_seq: int) -> bool:
        """Whether the log holds it for a user at `trimmed_seq`."""
        return self.trimmed_at in (None, ERASED) or self.trimmed_at > trimmed_seq


class Change(NamedTuple):
    """A row of the catalog log."""

    change_seq: int
    op: str
    item_id: str
    ordinal: int
    version: int | None
    body: str | None
    text_digest: str | None


class Item(NamedTuple):
    """An item as it stands after some change."""

    item_id: str
    ordinal: int
    text_digest: str
    version: int | None
    body: str


@dataclass(frozen=True)
class State:
    """A user after some event, by the textbook."""

    h: Floats
    c: Floats
    pooled: Floats
    steps: int
    seen: frozenset[int]
    excluded: frozenset[int]
    recent: tuple[int, ...]
    """Distinct items seen last, newest last."""


class Truth:
    """The shadows, read; what should come of them, worked out."""

    def __init__(self, database: Path) -> None:
        self._db = sqlite3.connect(database, isolation_level=None)
        self.undo_targets: dict[str, str] = {}
        """Event id of an undo -> of what it takes back, as its client said."""

    def close(self) -> None:
        self._db.close()

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """For checks that read tables directly."""
        return self._db.execute(query, parameters).fetchall()

    def log(self, user_key: int, until: int = 2**62) -> list[Event]:
        """The user's events 1..until, in order of commit; raises where numbers are not gapless."""
        found = [
            Event(*row)
            for row in self.rows(
                f"SELECT {', '.join(Event._fields)} FROM shadow_events "
                "WHERE user_key = ? AND user_seq <= ? ORDER BY place",
                user_key,
                until,
            )
        ]
        if [event.user_seq for event in found] != list(range(1, len(found) + 1)):
            raise Violation(f"log of {user_key}: numbers {[e.user_seq for e in found]}")
        return found

    def changes(self, until: int = 2**62) -> list[Change]:
        """The catalog's changes 1..until."""
        assert set(Change._fields) <= set(CHANGE_COLUMNS)
        found = [
            Change(*row)
            for row in self.rows(
                f"SELECT {', '.join(Change._fields)} FROM shadow_changes "
                "WHERE change_seq <= ? ORDER BY place",
                until,
            )
        ]
        if [change.change_seq for change in found] != list(range(1, len(found) + 1)):
            raise Violation(f"catalog log: numbers {[c.change_seq for c in found]}")
        return found

    def catalog(self, until: int) -> dict[int, Item]:
        """Ordinal -> item, as the catalog stood after change `until`."""
        live: dict[str, Item] = {}
        for change in self.changes(until):
            live.pop(change.item_id, None)
            if change.op == "put":
                assert change.text_digest is not None
                assert change.body is not None
                live[change.item_id] = Item(
                    change.item_id, change.ordinal, change.text_digest, change.version, change.body
                )
        return {item.ordinal: item for item in live.values()}

    def ids_of(self, ordinals: Collection[int]) -> set[str]:
        """The item ids that ever had those ordinals."""
        return {change.item_id for change in self.changes() if change.ordinal in ordinals}

    def was_away(self, item_id: str | None) -> bool:
        """Whether the item was ever deleted, or never there."""
        changes = [change for change in self.changes() if change.item_id == item_id]
        return not changes or any(change.op == "delete" for change in changes)

    def effective(self, log: Sequence[Event]) -> list[Event]:
        """The events that count, by what clients said, not by `undoes_seq`, which is checked."""
        latest: dict[str, Event] = {}
        rated: dict[str, Event] = {}
        gone: set[int] = set()
        for event in log:
            before: Event | None = None
            if event.kind == "undo":
                before = latest.get(self.undo_targets[event.event_id])
            elif event.kind == "rating":
                assert event.item_id is not None
                before = rated.get(event.item_id)
                if before is not None and (before.user_seq in gone or before.gone_before(event)):
                    before = None
                rated[event.item_id] = event
            takes = None if before is None else before.user_seq
            if takes != event.undoes_seq:
                raise Violation(f"{event} should take back {takes}")
            if takes is not None:
                gone.add(takes)
            latest[event.event_id] = event
        return [e for e in log if e.kind != "undo" and e.user_seq not in gone]

    def text_vector(self, digest: str) -> Floats:
        """BERT's vector of the text of a digest."""
        ((text,),) = self.rows("SELECT text FROM texts WHERE text_digest = ?", digest)
        return embed_text(text)

    def fold(
        self,
        model: Model,
        log: Sequence[Event],
        trimmed_seq: int,
        unembedded: frozenset[int] = frozenset(),
    ) -> State:
        """From nothing over the whole log, but for what retention took up to `trimmed_seq`.

        `unembedded`: numbers of texts that have no vector.
        """
        w = model.tensors
        counted = [event for event in self.effective(log) if event.kept_at(trimmed_seq)]
        h, c = np.zeros(8, np.float32), np.zeros(8, np.float32)
        sums = np.zeros(8, np.float32)
        average = np.zeros(8, np.float32)
        for event in counted:
            x = self._input(model, event, event.user_seq in unembedded)
            gates = w["lstm.weight_ih"] @ x + w["lstm.weight_hh"] @ h + w["lstm.bias"]
            i, f, g, o = np.split(gates, 4)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
            h = _sigmoid(o) * np.tanh(c)
            sums = sums + h
            average = np.float32(0.9) * average + np.float32(0.1) * h
        pooled = {"last": np.zeros(0, np.float32), "mean": sums, "ema": average}
        return State(
            h=h,
            c=c,
            pooled=pooled[model.config.pooling],
            steps=len(counted),
            seen=_ordinals(counted, SEEN),
            excluded=_ordinals(counted, EXCLUDED),
            recent=_recent(counted),
        )

    def user_vector(self, model: Model, state: State) -> Floats | None:
        """Unit (D,), None where nothing was fed."""
        if not state.steps:
            return None
        read = state.h
        if model.config.pooling != "last":
            read = state.pooled
        if model.config.pooling == "mean":
            read = np.asarray(read / state.steps, np.float32)
        return _unit(model.tensors["out.weight"] @ read + model.tensors["out.bias"])

    def item_vector(self, model: Model, digest: str, ordinal: int) -> Floats:
        """Unit (D,)."""
        return _unit(self._projected(model, self.text_vector(digest)) + _residual(model, ordinal))

    def scores(
        self, model: Model, items: Mapping[int, Item], query_D: Floats
    ) -> list[tuple[float, str]]:
        """(score, item_id) of all items, the best first, ties by ordinal."""
        scored = [
            (-float(self.item_vector(model, item.text_digest, ordinal) @ query_D), ordinal)
            for ordinal, item in items.items()
        ]
        return [(-score, items[ordinal].item_id) for score, ordinal in sorted(scored)]

    def _input(self, model: Model, event: Event, without_text: bool) -> Floats:
        w, config = model.tensors, model.config
        if event.kind in TEXTS and not without_text:
            assert event.text is not None
            x = self._projected(model, embed_text(event.text))
        elif event.kind not in TEXTS and event.text_digest is not None:
            x = self._projected(model, self.text_vector(event.text_digest))
        else:
            x = w["unknown"]
        bucket = 0
        if event.kind == "rating" and event.value is not None:
            bucket = 1 + sum(edge <= event.value for edge in config.rating_edges)
        x = x + w["kind"][config.kinds.index(event.kind)] + w["rating"][bucket]
        if event.ordinal is not None:
            x = x + _residual(model, event.ordinal)
        return np.asarray(x, np.float32)

    @staticmethod
    def _projected(model: Model, vector: Floats) -> Floats:
        projected: Floats = model.tensors["text.weight"] @ vector + model.tensors["text.bias"]
        return projected


def _residual(model: Model, ordinal: int) -> Floats:
    at: NDArray[np.intp] = np.flatnonzero(model.residual_ordinals == ordinal)
    return model.tensors["residual"][at[0]] if len(at) else np.zeros(8, np.float32)


def _ordinals(events: Sequence[Event], kinds: set[str]) -> frozenset[int]:
    return frozenset(e.ordinal for e in events if e.kind in kinds and e.ordinal is not None)


def _recent(events: Sequence[Event]) -> tuple[int, ...]:
    seen = [e.ordinal for e in events if e.kind in SEEN and e.ordinal is not None]
    return tuple(list(dict.fromkeys(reversed(seen)))[:50][::-1])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.sqrt(np.sum(x * x)), np.float32)
