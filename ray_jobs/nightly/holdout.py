"""The holdout: the last hours of the log, kept from training, on which the gate compares. And
before it the validation, on which the night chooses.

    training ................ | validation: epoch, re-ranking weights | holdout: the gate

Neither the candidate nor the live generation has seen it: the live one's watermark lies before it.
What counts is questions, not events: a first sight of an item by a user with a history. A user who
looks at one thing a thousand times asks nothing, and nobody asks for more than a few.
"""

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.nightly.histories import NONE, Histories
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.ranking.fusion_fit import MIN_QUESTIONS

MAX_SHARE = 0.1
"""Of the log's questions the holdout takes at most about this share from training: more by those of
one moment, up to `CROWDED` times as many."""

CROWDED = 2
"""Where one moment has so many times what is wanted (an import without times), only some users are
taken: else nobody would have anything left to learn from."""

QUESTIONS_A_USER = 20
"""A user's newest questions that count: on MovieLens the last 500 events are of a dozen users."""


def held_out(histories: Histories, settings: NightSettings) -> NDArray[np.bool_]:
    """(E,) mask: the last `holdout_hours`, widened until it holds `holdout_events` questions.

    An event of a user after a held-out one is held out too, whatever its time says: training
    stops at one point of each history (a late import may carry older times).
    """
    occurred_E = histories.occurred_E
    if not len(occurred_E):
        return np.zeros(0, np.bool_)
    newest_first = np.sort(occurred_E[_counted(histories)])[::-1]
    most = int(MAX_SHARE * len(newest_first))
    if most < 1:
        return np.zeros(len(occurred_E), np.bool_)  # nothing at all of a tiny log
    cut = int(occurred_E.max() - settings.holdout_hours * 3_600_000)
    cut = min(cut, int(newest_first[min(settings.holdout_events, most) - 1]))
    if int(np.count_nonzero(newest_first >= cut)) > most:
        cut = int(newest_first[most - 1])  # many at once (a bulk import): the newest tenth
    return _from(histories, cut, newest_first, most, _mixed(histories))


def validation(
    histories: Histories, held_E: NDArray[np.bool_], settings: NightSettings
) -> NDArray[np.bool_]:
    """(E,) mask: the events before the holdout that hold the last `fusion_questions` questions.

    The user encoder is not trained on them: they choose its epoch and teach the weights of
    re-ranking what its cosines are worth on events that it has not seen.
    """
    nothing_E = np.zeros(len(held_E), np.bool_)
    asked = _counted(histories)
    most = int(MAX_SHARE * len(asked))
    newest_first = np.sort(histories.occurred_E[asked[~held_E[asked]]])[::-1]
    wanted = min(settings.fusion_questions, most, len(newest_first))
    if wanted < MIN_QUESTIONS:
        return nothing_E
    cut = int(newest_first[wanted - 1])
    # Of the users, others than the holdout has.
    return _from(histories, cut, newest_first, wanted, ~_mixed(histories)) & ~held_E


def _from(
    histories: Histories,
    cut: int,
    questions_ms: NDArray[np.int64],
    wanted: int,
    numbers_E: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """(E,) mask: what occurred from `cut` on, and what follows it in a user's history. Where far
    more than the `wanted` of these questions did, only of users with small numbers."""
    mask_E: NDArray[np.bool_] = histories.occurred_E >= cut
    crowd = int(np.count_nonzero(questions_ms >= cut))
    if crowd > CROWDED * wanted:
        mask_E &= numbers_E < np.uint64(2**64 * wanted / crowd)
    for first, last in zip(histories.offsets_U1[:-1], histories.offsets_U1[1:], strict=True):
        mask_E[first:last] = np.logical_or.accumulate(mask_E[first:last])
    return mask_E


def _mixed(histories: Histories) -> NDArray[np.uint64]:
    """(E,) a number of each event's user that says nothing, the same in each night."""
    return histories.user_keys_E.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 / phi


def can_hold_out(histories: Histories) -> bool:
    """Whether the log is large enough: of fewer than ten questions nothing is held out."""
    return int(MAX_SHARE * len(_counted(histories))) >= 1


def _counted(histories: Histories) -> NDArray[np.int64]:
    """Positions of the questions, of each user the newest `QUESTIONS_A_USER`, ascending."""
    seen_E = histories.effective_E & (histories.ordinals_E != NONE)
    seen_E &= np.isin(histories.kinds_E, list(SEEN_KINDS))
    rows = np.flatnonzero(seen_E)
    users = np.searchsorted(histories.offsets_U1, rows, side="right") - 1
    pairs = np.stack([users, histories.ordinals_E[rows]], axis=1)
    _, first_times = np.unique(pairs, axis=0, return_index=True)
    asked = np.sort(first_times)
    rows, users = rows[asked], users[asked]
    with_history = rows > histories.offsets_U1[users]
    rows, users = rows[with_history], users[with_history]
    ends = np.searchsorted(users, users, side="right")
    return rows[ends - np.arange(len(rows)) <= QUESTIONS_A_USER]
