"""Fusions that differ from the shipped one: features left out, other signs, learned less often.

The candidates of a question, and what is known of them, are found once; each variant learns its own
weights from the same questions and scores the same candidates.

Shapes: F features, Q questions, I items.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.fused import Fused, Lessons, fused_scores
from infra.evaluation.task import Task
from infra.evaluation.walk import CUTOFF, Answers, Progress, first_items, listed, score
from ray_jobs.ranking.fusion import FEATURES, IS_NEVER_WORSE_F, PARTS, Fusion
from ray_jobs.ranking.fusion_fit import EVERY_F, fit_fusion

Bools = NDArray[np.bool_]

EACH_TIME, NEVER_AGAIN = 0, 10**6
"""Days between two lessons of a variant's weights, beside those of the shipped one."""


def _of(names: Sequence[str]) -> Bools:
    return np.array([name in names for name in FEATURES])


@dataclass(frozen=True, slots=True, eq=False)
class FusionVariant:
    """One row. `used_F`: features that may weigh; `never_worse_F`: those that weigh 0 or more."""

    name: str
    about: str
    used_F: Bools
    never_worse_F: Bools
    days: int = EACH_TIME


def _without(about: str, name: str, names: Sequence[str]) -> FusionVariant:
    return FusionVariant(f"without {name}", about, ~_of(names), IS_NEVER_WORSE_F)


SHIPPED = FusionVariant("shipped", "", EVERY_F, IS_NEVER_WORSE_F)
_LINEAR = ("linear", "linear_log")
_WHOLE = ("whole", "whole_log", "lately", "lately_log")
_CO_OCCURRENCE = tuple(name for name in PARTS["neighbours"] if name not in (*_LINEAR, *_WHOLE))
_NO_AGE = ~_of((*PARTS["age"], *PARTS["activity"]))

FUSIONS: tuple[FusionVariant, ...] = (
    SHIPPED,
    _without("features", "the cosine to the user vector", PARTS["cosine"]),
    _without("features", "activity", PARTS["activity"]),
    _without("features", "the items' age", PARTS["age"]),
    _without("features", "co-occurrence", _CO_OCCURRENCE),
    _without("features", "linear neighbours", _LINEAR),
    _without("features", "the whole history", _WHOLE),
    _without("features", "all three", PARTS["neighbours"]),
    _without("features", "the last items' texts", PARTS["recent"]),
    FusionVariant("without activity and the items' age", "features", _NO_AGE, IS_NEVER_WORSE_F),
    FusionVariant(
        "activity never worse", "signs", EVERY_F, IS_NEVER_WORSE_F | _of(PARTS["activity"])
    ),
    FusionVariant("any sign", "signs", EVERY_F, ~EVERY_F),
    FusionVariant("weights of the first night", "learned", EVERY_F, IS_NEVER_WORSE_F, NEVER_AGAIN),
)


def walk_fusions(
    task: Task,
    fused: Fused,
    variants: Sequence[FusionVariant],
    progress: Progress = lambda count: None,
) -> list[Answers]:
    """Answers of each variant, in their order, whose weights are learned when those of `fused` are.

    Raises:
        ValueError: a lesson has too few questions to learn weights from.
    """
    count = task.steps.count
    figures_V3Q = np.zeros((len(variants), 3, count))
    lists_VQK = np.full((len(variants), count, CUTOFF), -1, np.int64)
    due, lessons = [Every(variant.days) for variant in variants], None
    fusions: list[Fusion | None] = [None] * len(variants)
    started, row = time.process_time(), 0
    for lesson, questions in task.steps:
        fused.fit(task.log, lesson)
        if lessons is not fused.lessons:
            lessons = fused.lessons
            for number, variant in enumerate(variants):
                if due[number].is_due(task.log, lesson):
                    fusions[number] = _learned(lessons, variant)
        for question in questions:
            found, evidence, month = fused.evidence(task.log, question)
            for number, fusion in enumerate(fusions):
                assert fusion is not None, "the first lesson is always due"
                scores_I = np.full(task.log.interactions.item_count, np.nan)
                scores_I[found] = fused_scores(fusion, found, evidence, month, question)
                shown_I = listed(scores_I, question)
                list_K = lists_VQK[number, row] = first_items(shown_I, CUTOFF)
                figures_V3Q[number, :, row] = score(shown_I, list_K, question.relevant)
            row += 1
            progress(1)
    took_s = time.process_time() - started
    return [
        Answers(ndcg_Q, hit_Q, reciprocal_Q, lists_QK, took_s, 0.0)
        for (ndcg_Q, hit_Q, reciprocal_Q), lists_QK in zip(figures_V3Q, lists_VQK, strict=True)
    ]


def _learned(lessons: Lessons, variant: FusionVariant) -> Fusion:
    learned = fit_fusion(
        *(lessons.lively, lessons.quiet, lessons.usual_month),
        *(variant.used_F, variant.never_worse_F),
    )
    if learned is None:
        raise ValueError(f"{len(lessons.lively)} questions teach no weights")
    return learned
