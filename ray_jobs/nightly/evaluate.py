"""Step 6. The candidate is measured on the holdout, beside the live generation and popularity.

Every held-out event is one question: the list for what the user had done before it, all items
ranked, the seen ones left out (the protocol of the gate; DESIGN.md, "Generations"). The live
generation answers the same questions with its own weights.

Run: python -m ray_jobs.nightly.evaluate --generation ID

Shapes: N items, Q questions, D dim.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.encoders.fold import FoldEvent, effective, fold, user_vector
from ray_jobs.encoders.session import Session
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.build import item_vectors
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.holdout import can_hold_out, held_out
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import generation_directory, write_json
from ray_jobs.ranking.metrics import hit_rate, mrr, ndcg_at_k, ranks_of_targets
from ray_jobs.ranking.significance import paired_bootstrap
from ray_jobs.shards.texts import TextVectors
from sql import generations
from sql.engine import read_snapshot

MAX_QUESTIONS = 5_000
MAX_QUESTIONS_A_USER = 50
"""One busy user must not decide."""
SEED = 0


@dataclass(frozen=True)
class Question:
    """What a user did before a held-out event, and the item it was about."""

    user: int
    events: list[FoldEvent]
    """The user's effective events, shared by all questions about the user."""
    position: int
    """The question is asked before `events[position]`."""
    row: int
    """Row of the item in the catalog."""
    seen_rows: NDArray[np.int64]


def evaluate(night: Night) -> Report:
    """Write metrics.json; the gate reads the report."""
    night.workspace.require_report("build")
    ordinals_N, vectors_ND = item_vectors(night.workspace)
    questions = _questions(night, ordinals_N)
    encoder = load_weights(night.workspace.directory / "weights.safetensors")
    users = np.array([question.user for question in questions], np.int64)
    candidate_Q = _ranks(questions, vectors_ND, encoder)
    report: Report = {
        "questions": len(questions),
        "users": len(np.unique(users)),
        "can_compare": can_hold_out(open_histories(night.workspace)),
        "finite": bool(np.isfinite(vectors_ND).all()),
        **_summary(candidate_Q),
        "popularity": _summary(_popularity_ranks(night, questions, ordinals_N)),
    }
    live = _live_encoder(night)
    if live is not None and questions:
        generation_id, live_encoder = live
        live_Q = _ranks(questions, _project(night, live_encoder, ordinals_N), live_encoder)
        low, high = paired_bootstrap(_gains(candidate_Q), _gains(live_Q), users, seed=SEED)
        report["live"] = {
            "generation": generation_id,
            **_summary(live_Q),
            "difference_low": low,
            "difference_high": high,
        }
    write_json(night.workspace.directory / "metrics.json", report)
    return report


def _questions(night: Night, ordinals_N: NDArray[np.int64]) -> list[Question]:
    histories = open_histories(night.workspace)
    held_E = held_out(histories, night.settings)
    row_of = {int(ordinal): row for row, ordinal in enumerate(ordinals_N)}
    questions: list[Question] = []
    starts = histories.offsets_U1
    for user, (_, events) in enumerate(histories.users()):
        held = int(np.count_nonzero(held_E[starts[user] : starts[user + 1]]))
        first_held_seq = events[-held].user_seq if held else events[-1].user_seq + 1
        # What is taken back is left out here, so no event need say any more what it took back.
        counted = [replace(event, undoes_seq=None) for event in effective(events)]
        seen: set[int] = set()
        asked: list[Question] = []
        for position, event in enumerate(counted):
            row = row_of.get(event.ordinal, -1) if event.ordinal is not None else -1
            is_new = row >= 0 and event.kind in SEEN_KINDS and row not in seen
            if is_new and position and event.user_seq >= first_held_seq:
                seen_rows = np.array(sorted(seen), np.int64)
                asked.append(Question(user, counted, position, row, seen_rows))
            if row >= 0:
                seen.add(row)
        questions += _some(asked, MAX_QUESTIONS_A_USER)
    return _some(questions, MAX_QUESTIONS)


def _some(questions: list[Question], most: int) -> list[Question]:
    """At most so many, drawn evenly, in their order."""
    if len(questions) <= most:
        return questions
    kept = np.random.default_rng(SEED).choice(len(questions), most, replace=False)
    return [questions[index] for index in np.sort(kept)]


def _ranks(
    questions: list[Question], vectors_ND: NDArray[np.float32], encoder: UserEncoder
) -> NDArray[np.int64]:
    """Rank (Q,) of each question's item, by the shipped fold."""
    sessions: dict[int, tuple[int, Session | None]] = {}

    def scores(question: Question) -> NDArray[np.float32]:
        # Questions of one user follow each other: fold on from the last one.
        done, base = sessions.get(question.user, (0, None))
        session = fold(encoder, base, question.events[done : question.position])
        sessions[question.user] = (question.position, session)
        vector_D = user_vector(encoder, session)
        assert vector_D is not None, "a question has a history"
        result: NDArray[np.float32] = vectors_ND @ vector_D
        return result

    return _rank_all(questions, scores)


def _popularity_ranks(
    night: Night, questions: list[Question], ordinals_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    histories = open_histories(night.workspace)
    trained_E = histories.effective_E & ~held_out(histories, night.settings)
    counts_N = np.zeros(len(ordinals_N), np.float32)
    rows = np.searchsorted(ordinals_N, histories.ordinals_E[trained_E])
    rows = np.minimum(rows, len(ordinals_N) - 1)
    known = ordinals_N[rows] == histories.ordinals_E[trained_E]
    np.add.at(counts_N, rows[known], 1)
    return _rank_all(questions, lambda _: counts_N)


def _rank_all(
    questions: list[Question], scores: Callable[[Question], NDArray[np.float32]]
) -> NDArray[np.int64]:
    """Rank (Q,) from 0 of each question's item among all that the user has not seen."""
    ranks_Q = np.zeros(len(questions), np.int64)
    for index, question in enumerate(questions):
        scores_N = scores(question)
        barred_N = np.zeros(len(scores_N), np.bool_)
        barred_N[question.seen_rows] = True
        target = np.array([question.row], np.int64)
        ranks_Q[index] = ranks_of_targets(scores_N[None, :], target, barred_N[None, :])[0]
    return ranks_Q


def _gains(ranks_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    """NDCG@10 of each question."""
    return np.array([ndcg_at_k(ranks_Q[index : index + 1], 10) for index in range(len(ranks_Q))])


def _summary(ranks_Q: NDArray[np.int64]) -> dict[str, float]:
    if not len(ranks_Q):
        return {"ndcg@10": 0.0, "hr@10": 0.0, "mrr": 0.0}
    return {
        "ndcg@10": ndcg_at_k(ranks_Q, 10),
        "hr@10": hit_rate(ranks_Q, 10),
        "mrr": mrr(ranks_Q),
    }


def _live_encoder(night: Night) -> tuple[str, UserEncoder] | None:
    """The live generation's encoder, if it reads the same text vectors as the candidate."""
    embedded = night.workspace.require_report("embed")
    with read_snapshot(night.engine) as conn:
        pointer = generations.read_live(conn)
        if pointer is None:
            return None
        live = generations.get_generation(conn, pointer.generation_id)
    assert live is not None, "the pointer names a registered generation"
    if live.encoder_id != embedded["encoder_id"] or live.generation_id == night.generation_id:
        return None
    directory = generation_directory(night.workspace.root, live.generation_id)
    return live.generation_id, load_weights(directory / "weights.safetensors")


def _project(
    night: Night, encoder: UserEncoder, ordinals_N: NDArray[np.int64]
) -> NDArray[np.float32]:
    items = pq.read_table(night.workspace.items, columns=["text_digest"])
    texts = TextVectors.open(night.workspace.directory)
    rows_N = texts.rows_of(items["text_digest"].to_pylist())
    return encoder.item_vectors(np.asarray(texts.vectors[rows_N]), ordinals_N)


if __name__ == "__main__":
    main("evaluate", evaluate)
