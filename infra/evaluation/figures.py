"""From answers to the figures of a table: over all questions, in parts, and model against model.

Shapes: Q questions, I items, K list length, T text_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import DAY_MS, LONG_AGO_MS, Ints
from infra.evaluation.task import Task
from infra.evaluation.walk import Answers
from ray_jobs.ranking.metrics import coverage
from ray_jobs.ranking.significance import paired_bootstrap

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of each question, whoever answers it."""

    user_Q: Ints
    at_ms_Q: Ints
    history_Q: Ints
    """Events that the user had, whatever the variant."""
    age_days_Q: Doubles
    """Of the (first) relevant item: since its publication, else since its first event; NaN where
    neither was before the question."""
    warm_Q: Bools
    """At least half of the relevant items have events in the first lesson."""
    known_Q: Bools
    """The user has events in the first lesson."""
    could_list: int
    """Items that were a candidate at the last question."""


def facts_of(task: Task) -> Facts:
    """Walk the questions once."""
    questions = [question for _, asked in task.steps for question in asked]
    events = task.log.interactions
    since_I = np.full(events.item_count, np.iinfo(np.int64).max)
    np.minimum.at(since_I, events.items_E, events.at_ms_E)
    published = events.published_ms_I
    if published is not None:
        since_I = np.where(published == LONG_AGO_MS, since_I, published)
    at_ms_Q = np.array([question.at_ms for question in questions], np.int64)
    first_Q = np.array([question.relevant[0] for question in questions], np.int64)
    age_Q = (at_ms_Q - since_I[first_Q]) / DAY_MS
    last = questions[-1].candidates
    return Facts(
        user_Q=np.array([question.user for question in questions], np.int64),
        at_ms_Q=at_ms_Q,
        history_Q=np.array([len(question.seen) for question in questions], np.int64),
        age_days_Q=np.where(age_Q > 0, age_Q, np.nan),
        warm_Q=np.array([task.warm_I[q.relevant].mean() >= 0.5 for q in questions]),
        known_Q=np.array([task.known_U[question.user] for question in questions]),
        could_list=events.item_count if last is None else int(last.sum()),
    )


def figures_of(
    facts: Facts, runs: Sequence[Answers], bert_IT: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Of one model; the mean over its `runs` (seeds). Their names have the lists' length."""
    ndcg_Q = mean_ndcg(runs)
    k = runs[0].lists_QK.shape[1]
    figures: dict[str, Any] = {
        f"ndcg@{k}": float(ndcg_Q.mean()),
        f"hr@{k}": float(np.mean([run.hit_Q for run in runs])),
        "mrr": float(np.mean([run.reciprocal_Q for run in runs])),
        f"coverage@{k}": float(
            np.mean([coverage(run.lists_QK.tolist(), facts.could_list) for run in runs])
        ),
    }
    if bert_IT is not None:
        figures["diversity"] = float(np.mean([diversity(run.lists_QK, bert_IT) for run in runs]))
    for name, part_Q in parts_of(facts).items():
        figures[name] = float(ndcg_Q[part_Q].mean()) if part_Q.any() else None
    figures["by_seed"] = [float(run.ndcg_Q.mean()) for run in runs]
    figures["fit_s"] = round(float(np.mean([run.fit_s for run in runs])), 3)
    figures["ask_s"] = round(float(np.mean([run.ask_s for run in runs])), 3)
    low, high = paired_bootstrap(ndcg_Q, np.zeros_like(ndcg_Q), facts.user_Q, seed=0)
    figures["interval"] = [low, high]
    return figures


def parts_of(facts: Facts) -> Mapping[str, Bools]:
    """Warm and cold items, known and new users."""
    return {
        "warm": facts.warm_Q,
        "cold": ~facts.warm_Q,
        "known_users": facts.known_Q,
        "new_users": ~facts.known_Q,
    }


def difference(facts: Facts, first_Q: Doubles, second_Q: Doubles) -> dict[str, Any]:
    """How much more NDCG the first gains: mean, 95 % interval, and whether it leaves 0 out."""
    low, high = paired_bootstrap(first_Q, second_Q, facts.user_Q, seed=0)
    mean = float((first_Q - second_Q).mean())
    return {"mean": mean, "low": low, "high": high, "is_real": low > 0 or high < 0}


def mean_ndcg(runs: Sequence[Answers]) -> Doubles:
    """(Q,) over the runs."""
    ndcg_Q: Doubles = np.stack([run.ndcg_Q for run in runs]).mean(axis=0)
    return ndcg_Q


def diversity(lists_QK: Ints, bert_IT: NDArray[np.float32]) -> float:
    """Mean over lists of 1 - cosine between the texts of two items of a list (Ziegler et al.,
    WWW 2005); lists with fewer than two items are left out."""
    unit_IT = bert_IT / np.maximum(np.linalg.norm(bert_IT, axis=1, keepdims=True), 1e-12)
    values = []
    for list_K in lists_QK:
        items = list_K[list_K >= 0]
        if len(items) > 1:
            total_T = unit_IT[items].sum(axis=0)
            pairs = len(items) * (len(items) - 1)
            values.append(1 - (float(total_T @ total_T) - len(items)) / pairs)
    return float(np.mean(values)) if values else 0.0
