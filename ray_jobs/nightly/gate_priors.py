"""What the gate asks of the priors: what lists read beside the vectors is what the log says.

`evaluate` counts neighbours itself, before the holdout, so that nobody's have seen the answers; the
files could hold anything and pass it. Here they are counted anew, to the watermark. What users'
lists would read is compared, not bytes: another machine may round otherwise, and of equal
neighbours keep another.

Shapes: N items, U users asked, T items of one of them.
"""

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.fold import effective
from ray_jobs.nightly import canary
from ray_jobs.nightly.fuse import priors_of
from ray_jobs.nightly.gate_contents import HINT
from ray_jobs.nightly.histories import Histories, open_histories
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.priors import Priors

USERS = 200
RECENT = 50
MAX_DIFFERENCE = 0.1
"""Of what a user's list reads, relative: about a cosine of 0.995."""
MAX_OTHER = 0.01
"""Of the users asked: where equal neighbours were kept by their rounding."""
SEED = 0

Ints = NDArray[np.int64]


def check_priors(night: Night) -> None:
    """Activity of every item, and the neighbours of a sample of users, against the exported log.

    Raises:
        GateRefused: which of the files says something else, and of whom.
        ray_jobs.ranking.priors.PriorsError: a file cannot be read.
    """
    written = Priors.open(night.workspace.directory)
    if written is None:
        return
    histories = open_histories(night.workspace)
    counted = priors_of(night.workspace, histories, written.fusion)
    _check_activity(written.activity, counted.activity)
    _check_neighbours(written.neighbours, counted.neighbours, histories)


def _check_activity(written: Activity, counted: Activity) -> None:
    if not np.array_equal(written.ordinals, counted.ordinals):
        raise GateRefused(
            f"activity is written of {len(written.ordinals)} items, the log has it of "
            f"{len(counted.ordinals)}, or of others",
            hint=HINT,
        )
    same_NH = np.isclose(written.sums, counted.sums, rtol=1e-3, atol=1e-6)
    other = np.flatnonzero(~same_NH.all(axis=1))
    if len(other):
        raise GateRefused(
            f"the activity of {len(other)} of {len(same_NH)} items is not what the log says, such "
            f"as that of ordinals {written.ordinals[other[:3]].tolist()}",
            hint=HINT,
        )


def _check_neighbours(written: Neighbours, counted: Neighbours, histories: Histories) -> None:
    users = canary.choose(len(histories.offsets_U1) - 1, SEED, USERS)
    other = [
        user
        for user in users
        if not _tell_the_same(written, counted, _items_of(histories, int(user)))
    ]
    if len(other) > MAX_OTHER * len(users):
        keys = histories.user_keys_E[histories.offsets_U1[other[:3]]].tolist()
        raise GateRefused(
            f"the neighbours of what {len(other)} of {len(users)} users took are not those that "
            f"the log says, such as of user_key {keys}",
            hint=HINT,
        )


def _items_of(histories: Histories, user: int) -> Ints:
    """What a user acted on, in log order, (T,)."""
    events = effective(histories.events_of(user))
    return np.array([e.ordinal for e in events if e.ordinal is not None], np.int64)


def _tell_the_same(written: Neighbours, counted: Neighbours, items_T: Ints) -> bool:
    newest_first, seen = items_T[: -RECENT - 1 : -1].copy(), np.unique(items_T)
    near, wanted_near = written.near(newest_first), counted.near(newest_first)
    whole, wanted_whole = written.whole, counted.whole
    found = np.union1d(near.ordinals, wanted_near.ordinals)
    found = np.union1d(found, np.union1d(whole.late_items_C, wanted_whole.late_items_C))
    for told, expected in (
        (near.at(found), wanted_near.at(found)),
        (whole.says(seen, found), wanted_whole.says(seen, found)),
    ):
        for column, wanted in zip(told.T, expected.T, strict=True):
            if not _near(column, wanted):
                return False
    return True


def _near(told_N: NDArray[np.float32], wanted_N: NDArray[np.float32]) -> bool:
    """The difference is small beside what is wanted; or both are nothing."""
    off = float(np.linalg.norm(told_N - wanted_N))
    return off <= MAX_DIFFERENCE * float(np.linalg.norm(wanted_N))
