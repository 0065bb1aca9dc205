"""Each question is put to a model, and its list scored: NDCG, hit, reciprocal rank.

Of two items with the same score the first in the catalog is ranked first, as the shards' merge
does. With R relevant items NDCG divides by what R items could gain in K places.

Shapes: Q questions, I items, K list length.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Ints
from infra.evaluation.task import Question, Ranker, Task

CUTOFF = 10
"""Length of the lists, unless another is asked for; options are always chosen by this one."""

Progress = Callable[[int], None]
"""Told how many questions were answered since the last call."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model answered, by question."""

    ndcg_Q: NDArray[np.float64]
    hit_Q: NDArray[np.float64]
    reciprocal_Q: NDArray[np.float64]
    """1 / (rank + 1) of the first relevant item in the whole list; 0 where none is listed."""
    lists_QK: Ints
    """-1 where fewer were listed."""
    fit_s: float
    """CPU seconds of this process, and those that a fit took whose outcome was kept from before."""
    ask_s: float


def walk(
    task: Task, ranker: Ranker, progress: Progress = lambda count: None, k: int = CUTOFF
) -> Answers:
    """Tune where the ranker can, then learn and answer with lists of `k`, lesson by lesson.

    A ranker that rather answers many at once has a method `ahead(log, questions)`: it is told those
    of the lesson before `scores` is asked them one by one.
    """
    count = task.steps.count
    figures_3Q = np.zeros((3, count))
    lists_QK = np.full((count, k), -1, np.int64)
    fit_s = ask_s = 0.0
    saved_before_s = _saved_fit_s(ranker)
    started = time.process_time()
    tune = getattr(ranker, "tune", None)
    if tune is not None and task.validation is not None:
        tune(task.validation)
    ahead = getattr(ranker, "ahead", None)
    row = 0
    for lesson, questions in task.steps:
        ranker.fit(task.log, lesson)
        fit_s += time.process_time() - started
        started = time.process_time()
        if ahead is not None:
            ahead(task.log, questions)
        for question in questions:
            scores_I = listed(np.asarray(ranker.scores(task.log, question)), question)
            lists_QK[row] = first_items(scores_I, k)
            figures_3Q[:, row] = score(scores_I, lists_QK[row], question.relevant)
            row += 1
            progress(1)
        ask_s += time.process_time() - started
        started = time.process_time()
    ndcg_Q, hit_Q, reciprocal_Q = figures_3Q
    fit_s += _saved_fit_s(ranker) - saved_before_s
    return Answers(ndcg_Q, hit_Q, reciprocal_Q, lists_QK, fit_s, ask_s)


def _saved_fit_s(ranker: Ranker) -> float:
    return float(getattr(ranker, "saved_fit_s", 0.0))


def listed(scores_I: NDArray[np.floating], question: Question) -> NDArray[np.float64]:
    """The scores, -inf for what is not to be listed."""
    scores = np.array(scores_I, np.float64)
    scores[np.isnan(scores)] = -np.inf
    scores[question.seen] = -np.inf
    if question.candidates is not None:
        scores[~question.candidates] = -np.inf
    return scores


def first_items(scores_I: NDArray[np.float64], k: int) -> Ints:
    """The k best items, ties in the order of the catalog; -1 where fewer can be listed."""
    count = min(k, len(scores_I))
    bound = np.partition(scores_I, len(scores_I) - count)[len(scores_I) - count]
    better = np.flatnonzero(scores_I > bound)
    best = better[np.argsort(-scores_I[better], kind="stable")]
    if bound > -np.inf:  # of those at the bound, the first in the catalog
        best = np.append(best, np.flatnonzero(scores_I == bound)[: k - len(best)])
    return np.pad(best, (0, k - len(best)), constant_values=-1)


def score(
    scores_I: NDArray[np.float64], list_K: Ints, relevant: Ints
) -> tuple[float, float, float]:
    """NDCG@K, whether any is among the K, and the reciprocal rank of the first."""
    gains_K = 1.0 / np.log2(np.arange(2, len(list_K) + 2))
    hits_K = np.isin(list_K, relevant)
    ndcg = float(gains_K[hits_K].sum() / gains_K[: len(relevant)].sum())
    first = relevant[np.lexsort((relevant, -scores_I[relevant]))[0]]
    if scores_I[first] == -np.inf:
        return ndcg, float(hits_K.any()), 0.0
    before = np.count_nonzero(scores_I > scores_I[first])
    before += np.count_nonzero(scores_I[:first] == scores_I[first])
    return ndcg, float(hits_K.any()), 1.0 / (before + 1)
