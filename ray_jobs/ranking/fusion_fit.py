"""How the weights of `fusion` are learned: a conditional logit, by Newton's method.

    L(w) = sum over questions q of  log sum_i exp(w . x_qi)  -  w . x_q,target   +  ridge |w|^2 / 2

It is convex, has some twenty unknowns and is solved to the last digit in a dozen steps, so the
result needs no seed, no learning rate and no early stopping. Features are scaled to unit variance
first, so one `ridge` suits all.

Shapes: Q questions, N candidates of one (differs), F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.fusion import (
    FEATURES,
    IS_NEVER_WORSE_F,
    IS_USERS_F,
    Fusion,
    UserWeights,
)

RIDGE = 1e-3
"""Times the number of questions."""

LEAST_SCALE = 0.1
"""A feature that hardly varied among the candidates is scaled as if it varied by so much. By its
own deviation the ridge would leave it a weight in the hundreds, and the first item in which it
differs (one published today, in a catalog of old ones) would be on top of every list."""

MAX_STEPS = 50
TOLERANCE = 1e-8
"""Of the loss of a question, between two steps."""

EVERY_F = np.ones(len(FEATURES), np.bool_)

MIN_QUESTIONS = 100
"""Fewer teach some twenty weights nothing: the generation then goes without fusion."""


class Question(NamedTuple):
    """Features (N, F) of the candidates, and the row of the one that the user took."""

    features: NDArray[np.float32]
    target: int


def fit_fusion(
    lively: Sequence[Question],
    quiet: Sequence[Question],
    usual_month: float,
    used_F: NDArray[np.bool_] = EVERY_F,
    never_worse_F: NDArray[np.bool_] = IS_NEVER_WORSE_F,
) -> Fusion | None:
    """The weights that these questions teach; None where they are fewer than MIN_QUESTIONS.

    `quiet`: the same questions, their features as if all activity were long ago. Features that are
    not `used_F` weigh 0, those of `never_worse_F` 0 or more.
    """
    if len(lively) < MIN_QUESTIONS:
        return None
    return Fusion(
        lively=_fit_users(lively, used_F, never_worse_F),
        quiet=_fit_users(quiet, used_F, never_worse_F),
        usual_month=usual_month,
        questions=len(lively),
    )


def _fit_users(
    questions: Sequence[Question], used_F: NDArray[np.bool_], never_worse_F: NDArray[np.bool_]
) -> UserWeights:
    """Scaled to scores that are spread as widely as the cosines are."""
    cosine_F = np.array([name == "cosine" for name in FEATURES], np.float64)
    spread = _spread(questions, cosine_F)
    of_users = []
    for of_users_F in (EVERY_F, ~IS_USERS_F):
        weights_F = fit_logit(questions, used_F & of_users_F, never_worse_F)
        of_users.append(weights_F * spread / max(_spread(questions, weights_F), 1e-9))
    return UserWeights(known=tuple(of_users[0]), new=tuple(of_users[1]))


def fit_logit(
    questions: Sequence[Question],
    used_F: NDArray[np.bool_],
    never_worse_F: NDArray[np.bool_] = IS_NEVER_WORSE_F,
) -> NDArray[np.float64]:
    """Weights (F,), 0 where not `used_F` or where a feature never varies.

    Those of `never_worse_F` that would be negative are 0, and the others are learned again without
    them (an active set that only grows: one pass more for each).
    """
    while True:
        weights_F = _newton(questions, used_F)
        negative_F = never_worse_F & (weights_F < 0)
        if not negative_F.any():
            return weights_F
        used_F = used_F & ~negative_F


def _newton(questions: Sequence[Question], used_F: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows = np.concatenate([question.features for question in questions]).astype(np.float64)
    scale_F = rows.std(axis=0)
    used_F = used_F & (scale_F > 1e-9)
    scale_F = np.maximum(scale_F, LEAST_SCALE)
    scaled = [
        Question(question.features[:, used_F] / scale_F[used_F], question.target)
        for question in questions
    ]
    weights = np.zeros(int(used_F.sum()))
    ridge = RIDGE * len(questions)
    loss, gradient, hessian = _loss(scaled, weights, ridge)
    for _ in range(MAX_STEPS):
        step = np.linalg.solve(hessian, gradient)
        before = loss
        length = 1.0
        while True:  # halved until it leads down, which Newton's direction does
            moved = weights - length * step
            loss, gradient, hessian = _loss(scaled, moved, ridge)
            if loss <= before or length < 1e-6:
                break
            length /= 2
        weights = moved
        if before - loss <= TOLERANCE * len(questions):
            break
    result = np.zeros(len(used_F))
    result[used_F] = weights / scale_F[used_F]
    return result


def _loss(
    questions: Sequence[Question], weights: NDArray[np.float64], ridge: float
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """L, its gradient (F,) and its Hessian (F, F)."""
    loss = ridge * float(weights @ weights) / 2
    gradient, hessian = ridge * weights, ridge * np.eye(len(weights))
    for features, target in questions:
        logits = features @ weights
        highest = logits.max()
        odds = np.exp(logits - highest)
        total = odds.sum()
        chance = odds / total
        loss += float(highest + np.log(total) - logits[target])
        mean = chance @ features
        gradient = gradient + mean - features[target]
        hessian = hessian + (features * chance[:, None]).T @ features - np.outer(mean, mean)
    return loss, gradient, hessian


def _spread(questions: Sequence[Question], weights: NDArray[np.float64]) -> float:
    """Mean standard deviation of the scores over the candidates of a question."""
    return float(np.mean([(question.features @ weights).std() for question in questions]))
