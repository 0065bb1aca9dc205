"""Step 7. The candidate is measured on the holdout, beside the live generation and popularity.

Every held-out event is one question: the list for what was known before it, the seen items left
out (the protocol of the gate; DESIGN.md, "Generations"). The live generation answers the same
questions with its own weights. Each orders its candidates as it would by day (`replay`), and once
by the user vector alone: behind a fusion that knows what is popular, an encoder that learned
nothing would hide.

And what was live feedback worth? The day since the live generation was made is replayed twice
against it: as it was, each event known at once, and as if everything had waited for this night.

Run: python -m ray_jobs.nightly.evaluate --generation ID

Shapes: N items, Q questions.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ray_jobs.nightly.carried import directory_of
from ray_jobs.nightly.fuse import model_of, neighbours_of
from ray_jobs.nightly.histories import Histories, open_histories
from ray_jobs.nightly.holdout import can_hold_out, held_out
from ray_jobs.nightly.replay import Model, Question, Replay, drawn, questions_of
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import write_json
from ray_jobs.ranking.metrics import hit_rate, mrr, ndcg_at_k, ranks_of_targets
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.significance import paired_bootstrap
from ray_jobs.shards.items import read_items
from sql import generations
from sql.engine import read_snapshot
from sql.generations import Generation

MAX_QUESTIONS = 5_000
MAX_VECTOR_QUESTIONS = 1_000
"""Of them: what the user vector is asked by itself, over all items."""
MAX_QUESTIONS_A_USER = 50
"""One busy user must not decide."""
GATE_CONFIDENCE, GATE_RESAMPLES = 0.998, 20_000
"""Of a thousand good nights one is refused for bad luck. With 95 % it would be 25: a person called
every six weeks for nothing."""
MIN_DAY_QUESTIONS = 30
"""A day with fewer says nothing."""
SEED = 0


def evaluate(night: Night) -> Report:
    """Write metrics.json; the gate reads the report."""
    night.workspace.require_report("fuse")
    histories = open_histories(night.workspace)
    held_E = held_out(histories, night.settings)
    # Nobody's neighbours have seen the answers: those in the files were counted up to a watermark,
    # and where the holdout reaches further back (a small log, a night run twice) a good candidate
    # would be refused.
    before = neighbours_of(histories, histories.effective_E & ~held_E, night.workspace)
    priors = Priors.open(night.workspace.directory)
    model = model_of(night.workspace, before, None if priors is None else priors.fusion)
    questions = questions_of(
        histories, held_E, model.ordinals_N, a_user=MAX_QUESTIONS_A_USER, most=MAX_QUESTIONS
    )
    few = drawn(questions, MAX_VECTOR_QUESTIONS)
    candidate_Q, vector_Q = _ranks(model, histories, questions, few)
    report: Report = {
        "questions": len(questions),
        "users": len(np.unique(_users(questions))),
        "can_compare": can_hold_out(histories),
        "finite": bool(np.isfinite(model.vectors_ND).all()),
        "fused": model.fusion is not None,
        **_summary(candidate_Q),
        "vector": _summary(vector_Q),
    }
    popular_Q = _popularity_ranks(histories, held_E, questions, model)
    report["popularity"] = _compared(candidate_Q, popular_Q, questions)
    live = _live_model(night)
    if live is not None:
        _tell_worth_of_day(night, histories, *live)
    if live is not None and questions:
        generation, live_model = live
        live_model = replace(live_model, neighbours=before)
        live_Q, live_vector_Q = _ranks(live_model, histories, questions, few)
        report["live"] = {
            "generation": generation.generation_id,
            **_compared(candidate_Q, live_Q, questions),
            "vector": _compared(vector_Q, live_vector_Q, few),
        }
    write_json(night.workspace.directory / "metrics.json", report)
    return report


def _ranks(
    model: Model, histories: Histories, questions: list[Question], few: list[Question]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks (Q,) of the lists, and of the cosine to the user vector alone for the few."""
    by_vector = replace(model, fusion=None)
    return (
        Replay(model, histories, questions).ranks(),
        Replay(by_vector, histories, few).ranks(),
    )


def _users(questions: list[Question]) -> NDArray[np.int64]:
    return np.array([question.user for question in questions], np.int64)


def _compared(
    candidate_Q: NDArray[np.int64], other_Q: NDArray[np.int64], questions: list[Question]
) -> dict[str, float]:
    """Figures of the other one, and the interval of the candidate's NDCG@10 less its."""
    if not questions:
        return _summary(other_Q)
    low, high = paired_bootstrap(
        *(_gains(candidate_Q), _gains(other_Q), _users(questions)),
        seed=SEED,
        confidence=GATE_CONFIDENCE,
        resamples=GATE_RESAMPLES,
    )
    return {**_summary(other_Q), "difference_low": low, "difference_high": high}


def _tell_worth_of_day(
    night: Night, histories: Histories, generation: Generation, model: Model
) -> None:
    """Keep beside the metrics of the live generation what its day showed."""
    made_at_ms = generation.created_at_ms
    questions = questions_of(
        histories,
        histories.at_ms_E >= made_at_ms,
        model.ordinals_N,
        a_user=MAX_QUESTIONS_A_USER,
        most=MAX_QUESTIONS,
    )
    if len(questions) < MIN_DAY_QUESTIONS:
        return
    directory = directory_of(night.workspace.root, night.workspace.objects, generation)
    known_N = np.isin(model.ordinals_N, read_items(directory).blocks[0].ordinals)
    of_the_night = replace(
        model,
        ordinals_N=model.ordinals_N[known_N],
        vectors_ND=model.vectors_ND[known_N],
        published_N=model.published_N[known_N],
    )
    lively_Q = Replay(model, histories, questions).ranks()
    frozen_Q = Replay(of_the_night, histories, questions, frozen_at_ms=made_at_ms).ranks()
    users = _users(questions)
    low, high = paired_bootstrap(_gains(lively_Q), _gains(frozen_Q), users, seed=SEED)
    day: Report = {
        "questions": len(questions),
        "users": len(np.unique(users)),
        "ndcg@10": _summary(lively_Q)["ndcg@10"],
        "frozen_ndcg@10": _summary(frozen_Q)["ndcg@10"],
        "difference_low": low,
        "difference_high": high,
    }
    generations.add_metrics(night.engine, generation.generation_id, {"day": day})


def _live_model(night: Night) -> tuple[Generation, Model] | None:
    """The live generation, if it reads the same text vectors as the candidate; its item vectors are
    those of tonight's catalog under its own weights."""
    embedded = night.workspace.require_report("embed")
    with read_snapshot(night.engine) as conn:
        pointer = generations.read_live(conn)
        if pointer is None:
            return None
        live = generations.get_generation(conn, pointer.generation_id)
    assert live is not None, "the pointer names a registered generation"
    if live.encoder_id != embedded["encoder_id"] or live.generation_id == night.generation_id:
        return None
    directory = directory_of(night.workspace.root, night.workspace.objects, live)
    priors = Priors.open(directory)
    if priors is None:
        return live, model_of(night.workspace, Neighbours.nobody(), directory=directory)
    return live, model_of(night.workspace, priors.neighbours, priors.fusion, directory)


def _popularity_ranks(
    histories: Histories, held_E: NDArray[np.bool_], questions: list[Question], model: Model
) -> NDArray[np.int64]:
    """Rank (Q,) by how often an item occurs before the holdout, among all that are not seen."""
    rows_E = model.rows_of(histories.ordinals_E[histories.effective_E & ~held_E])
    counts_N = np.bincount(rows_E[rows_E >= 0], minlength=len(model.ordinals_N)).astype(np.float32)
    ranks_Q = np.zeros(len(questions), np.int64)
    for index, question in enumerate(questions):
        before = question.events[: question.position]
        known = np.array([e.ordinal for e in before if e.ordinal is not None], np.int64)
        barred_N = np.isin(model.ordinals_N, known)
        target = model.rows_of(np.array([question.ordinal], np.int64))
        ranks_Q[index] = ranks_of_targets(counts_N[None, :], target, barred_N[None, :])[0]
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


if __name__ == "__main__":
    main("evaluate", evaluate)
