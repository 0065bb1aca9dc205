"""Step 8. Online against night, on what the day really holds (promise 3).

For a seeded sample of users, those with events after the night first: the user vector as a replica
makes it (stored session, tail of the log, fold) against the same log folded from nothing and
against torch `forward`. For canary texts, of items and of searches: BERT now against the vector
that is stored. The figures are kept beside the generation's metrics.

Run: python -m ray_jobs.nightly.parity --generation ID, or `moonlark parity`
"""

import logging
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.item_bert import open_bert
from ray_jobs.encoders.item_text import clean
from ray_jobs.encoders.logged import fold_events
from ray_jobs.encoders.reference import Reference
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly import canary
from ray_jobs.nightly.canary import TextEncoder
from ray_jobs.nightly.carried import directory_of
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import NightError
from ray_jobs.shards.object_store import ObjectStore
from ray_jobs.shards.texts import TextVectors
from sql import catalog, events, generations
from sql.engine import read_snapshot
from sql.events import StoredEvent
from sql.generations import Generation
from sql.live_sessions import MAX_KEY, sample_texts, sample_users
from sql.snapshot import read_recommendation

log = logging.getLogger("moonlark.night")

MAX_DIFF = 1e-5
FAR = 2.0
"""Where one side has a vector and the other none, or one that is no number: no two unit vectors are
further apart."""
USERS = 200
MAX_HISTORY = 100_000

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """A user vector that the day gave: of which generation, after how many events."""

    generation: str
    user_seq: int
    vector: Vector | None


Ask = Callable[[str], Answer | None]
"""The day's answer for a user; None for a user whom it does not know (any more)."""


class ParityBroken(NightError):
    """The day and the night do not agree."""


def parity(night: Night) -> Report:
    """The night's step: measure, store, and fail where a promise is broken."""
    return parity_with(night, open_bert(night.settings))


def parity_with(night: Night, bert: TextEncoder) -> Report:
    """`parity`, the canary texts embedded by `bert`."""
    seed = zlib.crc32(night.generation_id.encode())
    report = of_night(night).report(bert, USERS, seed)
    store(night.engine, night.generation_id, report, night.now_ms())
    check(report)
    return report


def of_night(night: Night) -> "Parity":
    """Of the night's generation, fetched if this node lacks it."""
    workspace = night.workspace
    return Parity(night.engine, workspace.root, night.generation_id, objects=workspace.objects)


def store(engine: Engine, generation_id: str, report: Report, at_ms: int) -> None:
    """Beside the generation's metrics: `moonlark status` and /v1/status show it from there."""
    generations.add_metrics(engine, generation_id, {**report, "parity_at_ms": at_ms})


def check(report: Report) -> None:
    """Raises ParityBroken with the figure that is out of bounds."""
    hint = "moonlark rollback --why parity, then `moonlark parity --json FILE` for a report"
    difference, cosine = report["parity_max_abs_diff"], report["canary_min_cosine"]
    if difference is not None and not difference <= MAX_DIFF:
        raise ParityBroken(
            f"user vectors differ by {difference:.2e} (at most {MAX_DIFF})", hint=hint
        )
    if cosine is not None and not cosine >= canary.MIN_COSINE:
        raise ParityBroken(
            f"a text embedded again has cosine {cosine:.6f} to its stored vector "
            f"(at least {canary.MIN_COSINE})",
            hint=hint,
        )


class Parity:
    """Compares day and night for one generation. `ask`: a replica; by default the day's own way
    from the store to a user vector, in this process.

    Raises:
        ValueError: no such generation.
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        generation_id: str,
        ask: Ask | None = None,
        *,
        objects: ObjectStore | None = None,
    ) -> None:
        self._engine = engine
        with read_snapshot(engine) as conn:
            found = generations.get_generation(conn, generation_id)
        if found is None:
            raise ValueError(f"generation {generation_id!r} is not known to this store")
        self._generation: Generation = found
        self._directory = directory_of(root, objects, found)
        self._ask = ask or self._by_the_days_own_way
        weights = self._directory / "weights.safetensors"
        self._encoder = load_weights(weights)
        self._reference = Reference.load(weights)

    def report(self, bert: TextEncoder, users: int, seed: int) -> Report:
        """The figures; None where there was nothing to compare."""
        start_key = int(np.random.default_rng(seed).integers(MAX_KEY))
        return {**self.compare_users(users, start_key), **self._canaries(bert, seed, start_key)}

    def compare_users(self, count: int, start_key: int) -> Report:
        """Largest difference of a coordinate of a unit user vector."""
        with read_snapshot(self._engine) as conn:
            user_ids, with_tail = sample_users(
                conn, self._generation.generation_id, count, start_key
            )
        differences: list[float] = []
        for user_id in user_ids:
            difference = self._difference(user_id)
            if difference is not None:
                differences.append(difference)
        return {
            "parity_users": len(differences),
            "parity_users_with_tail": with_tail,
            "parity_max_abs_diff": max(differences, default=None),
        }

    def _difference(self, user_id: str) -> float | None:
        """Against the fold from nothing and against torch; None for a user who left meanwhile."""
        answer = self._ask(user_id)
        if answer is None:
            return None
        if answer.generation != self._generation.generation_id:
            raise ValueError(
                f"the replica answers from {answer.generation}, not from "
                f"{self._generation.generation_id}"
            )
        with read_snapshot(self._engine) as conn:
            user = events.find_user(conn, user_id)
            if user is None:
                return None
            history = events.read_tail(conn, user.user_key, 0, MAX_HISTORY)
            until = [event for event in history if event.user_seq <= answer.user_seq]
            fed = self._fed(conn, user.user_key, until)
        session = fold(self._encoder, None, fed)
        return max(
            _apart(answer.vector, user_vector(self._encoder, session)),
            _apart(answer.vector, self._reference.user_vector(fed)),
        )

    def _by_the_days_own_way(self, user_id: str) -> Answer | None:
        """What a replica that has just started does (`serve.user_state`), with the same parts."""
        generation_id, encoder_id = self._generation.generation_id, self._generation.encoder_id
        snapshot = read_recommendation(
            self._engine, user_id, [generation_id], {generation_id: encoder_id}
        )
        if snapshot.user is None:
            return None
        base = None
        if snapshot.base == "session" and snapshot.session is not None:
            base = Session.from_bytes(snapshot.session.state)
        tail, user_key = snapshot.tail, snapshot.user.user_key
        with read_snapshot(self._engine) as conn:
            if snapshot.tail_truncated:
                base, tail = None, events.read_tail(conn, user_key, 0, MAX_HISTORY)
            fed = self._fed(conn, user_key, tail)
        session = fold(self._encoder, base, fed)
        return Answer(generation_id, session.user_seq, user_vector(self._encoder, session))

    def _fed(self, conn: Connection, user_key: int, tail: Sequence[StoredEvent]) -> list[FoldEvent]:
        seqs = [event.user_seq for event in tail if event.kind in events.TEXT_KINDS]
        own = events.read_text_vectors(conn, user_key, seqs, self._generation.encoder_id)
        digests = [event.text_digest for event in tail if event.text_digest is not None]
        return fold_events(tail, own, self._vectors(conn, digests))[0]

    def _vectors(self, conn: Connection, digests: Sequence[str]) -> dict[str, Vector]:
        vectors = self._texts.get(digests)
        absent = [digest for digest in digests if digest not in vectors]
        encoder_id = self._generation.encoder_id
        return {**vectors, **catalog.read_item_vectors(conn, encoder_id, absent)}

    @cached_property
    def _texts(self) -> TextVectors:
        return TextVectors.open(self._directory)

    def _canaries(self, bert: TextEncoder, seed: int, start_key: int) -> Report:
        """Texts of items and of searches, embedded again."""
        if bert.encoder_id != self._generation.encoder_id:
            raise ValueError(
                f"BERT here is {bert.encoder_id}, generation {self._generation.generation_id} was "
                f"made with {self._generation.encoder_id}: set MOONLARK_BERT_MODEL and "
                "MOONLARK_BERT_PRECISION as the night has"
            )
        with read_snapshot(self._engine) as conn:
            chosen = self._texts.digests_at(canary.choose(len(self._texts), seed))
            stored: dict[str, Vector] = self._texts.get(chosen)
            texts = catalog.texts_by_digest(conn, chosen)
            searches = sample_texts(conn, bert.encoder_id, canary.CANARIES, start_key)
        for number, (text, vector) in enumerate(searches):
            texts[f"search {number}"], stored[f"search {number}"] = clean(text), vector
        return {
            "canary_texts": len(texts),
            "canary_min_cosine": canary.min_cosine(bert, texts, stored),
        }


def _apart(one: Vector | None, other: Vector | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else FAR
    apart = float(np.max(np.abs(one - other)))
    return apart if math.isfinite(apart) else FAR


def figures(metrics: Any) -> Report:
    """The parity figures among a generation's metrics; empty where none was measured."""
    return {k: v for k, v in metrics.items() if k.startswith(("parity_", "canary_"))}


if __name__ == "__main__":
    main("parity", parity)
