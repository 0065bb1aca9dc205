"""The holdout: the last hours of the log, kept from training, on which the gate compares.

Neither the candidate nor the live generation has seen it: the live one's watermark lies before it.
"""

import numpy as np
from numpy.typing import NDArray

from ray_jobs.nightly.histories import Histories
from ray_jobs.nightly.settings import NightSettings

MAX_SHARE = 0.1
"""The holdout never takes more than this share of the log from training."""


def held_out(histories: Histories, settings: NightSettings) -> NDArray[np.bool_]:
    """(E,) mask: the last `holdout_hours`, widened until it holds `holdout_events` events.

    An event of a user after a held-out one is held out too, whatever its time says: training
    stops at one point of each history (a late import may carry older times).
    """
    occurred_E = histories.occurred_E
    if not len(occurred_E):
        return np.zeros(0, np.bool_)
    wanted = min(settings.holdout_events, int(MAX_SHARE * len(occurred_E)))
    newest_first = np.sort(occurred_E)[::-1]
    cut = int(newest_first[0] - settings.holdout_hours * 3_600_000)
    if wanted > 0:
        cut = min(cut, int(newest_first[wanted - 1]))
    if int(np.count_nonzero(occurred_E >= cut)) > MAX_SHARE * len(occurred_E):
        # Many events at once (a bulk import): the newest tenth, nothing at all of a tiny log.
        cut = int(newest_first[wanted - 1]) if wanted > 0 else int(newest_first[0]) + 1
    mask_E = occurred_E >= cut
    for first, last in zip(histories.offsets_U1[:-1], histories.offsets_U1[1:], strict=True):
        mask_E[first:last] = np.logical_or.accumulate(mask_E[first:last])
    return mask_E
