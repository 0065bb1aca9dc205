"""The record of a drill against the store and a brute-force model.

Every acknowledged event must be in the log once, under the number that was told; every
acknowledged item change in the catalog log. Every answer must be what one generation gives at the
`user_seq` and `catalog_seq` that it names: the fold of the user's log from nothing, against every
item of the catalog at that change, by a matrix product. D = dimension.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from infra.drills.catalog import ENCODER_ID
from infra.drills.figures import Figures
from infra.drills.generation import fold_events
from infra.drills.record import Ack, Answer, Record
from ray_jobs.encoders.fold import Session, fold, user_vector
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.manifest import Manifest, open_manifest
from ray_jobs.shards.placement import shard_of
from sql import catalog
from sql.engine import read_snapshot
from sql.events import StoredEvent, find_user, read_tail

SCORE_TOLERANCE = 2e-3
"""Shards may hold fp16. Two generations differ by tenths."""

GONE = "database_gone"
PAGE = 5_000
Vectors = dict[str, NDArray[np.float32]]


def check(record: Record, engine: Engine, root: Path, figures: Figures) -> None:
    """Count what was broken into `figures`."""
    figures.acked += len(record.acks) + len(record.item_acks)
    figures.failed_requests += len(record.failures)
    for failure in record.failures:
        figures.tell(failure)
    logs = _logs(engine, record)
    _check_log(record, logs, figures)
    changes = _changes(engine)
    _check_catalog_log(record, changes, figures)
    vectors = _vectors(engine, logs, changes)
    _check_answers(record, logs, _Catalog(changes, vectors), root, figures)


def _logs(engine: Engine, record: Record) -> dict[str, list[StoredEvent]]:
    users = {ack.user_id for ack in record.acks} | {a.user_id for a in record.answers}
    logs: dict[str, list[StoredEvent]] = {}
    with read_snapshot(engine) as conn:
        for user_id in users:
            user = find_user(conn, user_id)
            logs[user_id] = read_tail(conn, user.user_key, 0, PAGE) if user else []
    return logs


def _check_log(record: Record, logs: dict[str, list[StoredEvent]], figures: Figures) -> None:
    stored = {
        (user_id, event.event_id): event.user_seq for user_id, log in logs.items() for event in log
    }
    for ack in record.acks:
        seq = stored.get((ack.user_id, ack.event_id))
        if seq != ack.user_seq:
            figures.lost += 1
            figures.tell(f"{ack}: the log has it as {seq}")
    for user_id, log in logs.items():
        times = Counter(event.event_id for event in log)
        gaps = [event.user_seq for event in log] != list(range(1, len(log) + 1))
        figures.duplicated += sum(n - 1 for n in times.values()) + gaps
        if gaps:
            figures.tell(f"the log of {user_id} is not numbered 1, 2, ...")


def _changes(engine: Engine) -> list[catalog.CatalogChange]:
    changes: list[catalog.CatalogChange] = []
    with read_snapshot(engine) as conn:
        while page := catalog.read_changes(conn, changes[-1].change_seq if changes else 0, PAGE):
            changes += page
    return changes


def _check_catalog_log(
    record: Record, changes: list[catalog.CatalogChange], figures: Figures
) -> None:
    logged = {change.change_seq: change for change in changes}
    for ack in record.item_acks:
        change = logged.get(ack.catalog_seq)
        title = change.body.title if change and change.body else None
        if change is None or (change.item_id, change.op, title) != (ack.item_id, ack.op, ack.title):
            figures.lost += 1
            figures.tell(f"{ack}: the catalog log has {change}")


def _vectors(
    engine: Engine, logs: dict[str, list[StoredEvent]], changes: list[catalog.CatalogChange]
) -> Vectors:
    digests = {event.text_digest for log in logs.values() for event in log if event.text_digest}
    wanted = sorted(digests | {c.text_digest for c in changes if c.text_digest})
    vectors: Vectors = {}
    with read_snapshot(engine) as conn:
        for first in range(0, len(wanted), PAGE):
            part = wanted[first : first + PAGE]
            vectors.update(catalog.read_item_vectors(conn, ENCODER_ID, part))
    return vectors


class _Catalog:
    """The catalog at each change, in one walk over the log, and its vectors under any weights."""

    def __init__(self, changes: list[catalog.CatalogChange], vectors: Vectors) -> None:
        self._changes, self._next = changes, 0
        self.vectors = vectors
        span = max((change.ordinal for change in changes), default=-1) + 1
        self._changed_at = np.zeros(span, np.int64)
        self.alive = np.zeros(span, np.bool_)
        self.ordinals: dict[str, int] = {}
        self._bert = np.zeros((span, len(next(iter(vectors.values())))), np.float32)
        self._projected: dict[str, tuple[UserEncoder, NDArray[np.float32]]] = {}

    def advance(self, catalog_seq: int) -> None:
        """To `catalog_seq`, which is not before the present one."""
        touched: set[int] = set()
        while (
            self._next < len(self._changes) and self._changes[self._next].change_seq <= catalog_seq
        ):
            change = self._changes[self._next]
            self._next += 1
            if change.replaced_ordinal is not None:
                self.alive[change.replaced_ordinal] = False
            self.alive[change.ordinal] = change.op == "put"
            self._changed_at[change.ordinal] = change.change_seq
            if change.text_digest is not None:
                self.ordinals[change.item_id] = change.ordinal
                self._bert[change.ordinal] = self.vectors[change.text_digest]
                touched.add(change.ordinal)
        rows = np.array(sorted(touched), np.int64)
        for encoder, projected in self._projected.values():
            if len(rows):
                projected[rows] = encoder.item_vectors(self._bert[rows], rows)

    def in_shards(self, missing: tuple[int, ...], manifest: Manifest) -> NDArray[np.bool_]:
        """By ordinal: whether the item is only in one of these shards, as the night put it there
        (what changed since is in the delta)."""
        if not missing:
            return np.zeros(len(self.alive), np.bool_)
        numbers = shard_of(np.arange(len(self.alive)), manifest.shard_count)
        return np.isin(numbers, missing) & (self._changed_at <= manifest.catalog_seq)

    def item_vectors(self, generation_id: str, encoder: UserEncoder) -> NDArray[np.float32]:
        """All items (ordinal_span, D) under that generation's weights; rows of dead ones too."""
        if generation_id not in self._projected:
            everything = np.arange(len(self.alive), dtype=np.int64)
            made = encoder.item_vectors(self._bert, everything)
            self._projected[generation_id] = (encoder, made)
        return self._projected[generation_id][1]


class _Generation(NamedTuple):
    encoder: UserEncoder
    manifest: Manifest


class _Users:
    """Sessions by (generation, user, user_seq), folded from nothing."""

    def __init__(self, logs: dict[str, list[StoredEvent]], vectors: Vectors) -> None:
        self._logs, self._vectors = logs, vectors
        self._folded: dict[tuple[str, str, int], Session] = {}

    def session(self, generation_id: str, encoder: UserEncoder, user_id: str, seq: int) -> Session:
        """The fold of the first `seq` events."""
        key = (generation_id, user_id, seq)
        if key not in self._folded:
            events = fold_events(self._logs[user_id][:seq], self._vectors)
            self._folded[key] = fold(encoder, None, events)
        return self._folded[key]


def _check_answers(
    record: Record,
    logs: dict[str, list[StoredEvent]],
    items: _Catalog,
    root: Path,
    figures: Figures,
) -> None:
    generations: dict[str, _Generation] = {}
    users, told = _Users(logs, items.vectors), _Told(record)
    shown: dict[str, int] = defaultdict(int)
    for answer in sorted(record.answers, key=lambda a: a.catalog_seq):
        items.advance(answer.catalog_seq)
        shown[answer.generation] += 1
        if answer.generation not in generations:
            directory = generation_directory(root, answer.generation)
            weights = load_weights(directory / "weights.safetensors")
            generations[answer.generation] = _Generation(weights, open_manifest(directory))
        generation, least = generations[answer.generation], told.least(answer)
        for kind, what in _faults(answer, generation, items, users, least, figures):
            setattr(figures, kind, getattr(figures, kind) + 1)
            figures.tell(f"{what}: {answer._replace(items=answer.items[:3])}")
    counted = {
        "answers": len(record.answers),
        "answers_from_memory": sum(GONE in answer.degraded for answer in record.answers),
        "answers_degraded": sum(bool(answer.degraded) for answer in record.answers),
    }
    for name, count in counted.items():  # a drill may have two records, each of its own stack
        figures.more[name] = figures.more.get(name, 0) + count
    figures.more["generations_that_answered"] = len(shown)


class _Told:
    """What had been acknowledged by a moment, of a user and of the catalog."""

    def __init__(self, record: Record) -> None:
        self._events: dict[str, list[Ack]] = defaultdict(list)
        for ack in record.acks:
            self._events[ack.user_id].append(ack)
        self._items = record.item_acks

    def least(self, answer: Answer) -> tuple[int, int]:
        """(user_seq, catalog_seq) that the answer may not be behind. One from memory, without the
        database, is held to what was acknowledged before the moment that it says it is of."""
        if GONE not in answer.degraded:
            return answer.least_user_seq, answer.least_catalog_seq
        acks = self._events[answer.user_id]
        events = (ack.user_seq for ack in acks if ack.at_ms < answer.as_of_ms)
        items = (ack.catalog_seq for ack in self._items if ack.at_ms < answer.as_of_ms)
        return max(events, default=0), max(items, default=0)


def _faults(
    answer: Answer,
    generation: _Generation,
    items: _Catalog,
    users: _Users,
    least: tuple[int, int],
    figures: Figures,
) -> Iterator[tuple[str, str]]:
    """(figure, what is wrong) of an answer, each figure at most once."""
    encoder = generation.encoder
    if answer.user_seq < least[0] or answer.catalog_seq < least[1]:
        yield "stale_reads", "stale"
    session = users.session(answer.generation, encoder, answer.user_id, answer.user_seq)
    listed = np.array([items.ordinals.get(item_id, -1) for item_id, _ in answer.items], np.int64)
    eligible = items.alive.copy()
    eligible[session.seen] = False
    eligible[session.excluded] = False
    if len(set(listed.tolist())) != len(listed) or not bool(
        np.all((listed >= 0) & eligible[listed])
    ):
        yield "resurrected", "an item that may not be shown, or one twice"
        return
    vector_D = user_vector(encoder, session)
    if vector_D is None or answer.basis != "session" or "text_not_embedded" in answer.degraded:
        return  # of the last, which texts were folded as unknown is not told
    eligible &= ~items.in_shards(answer.shards_missing, generation.manifest)
    if not bool(np.all(eligible[listed])):
        yield "mixed_generation", "an item of a shard that did not answer"
        return
    scores = items.item_vectors(answer.generation, encoder) @ vector_D
    told = np.array([score for _, score in answer.items], np.float32)
    difference = float(np.abs(scores[listed] - told).max(initial=0.0))
    if difference > SCORE_TOLERANCE:
        yield "mixed_generation", f"scores are off by {difference:.3f}"
        return
    figures.parity_max_abs_diff = max(figures.parity_max_abs_diff or 0.0, difference)
    best = np.sort(scores[eligible])[::-1][: answer.k]
    if len(best) != len(told) or float(np.abs(best - told).max(initial=0.0)) > SCORE_TOLERANCE:
        yield "mixed_generation", f"not the best {answer.k} of {int(eligible.sum())}"
