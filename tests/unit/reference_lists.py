"""What the kernels of `ray_jobs.ranking` compute, in plain numpy: what they are held against."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ray_jobs.ranking.activity import Activity, decay
from ray_jobs.ranking.fusion import AGES_DAYS, DAY_MS, Evidence
from ray_jobs.ranking.neighbours import COSINE, DECAYS, LINEAR, Neighbours
from ray_jobs.ranking.sources import ACTIVE_EACH, NEIGHBOURS, NEWEST, Pools
from ray_jobs.ranking.whole_history import WholeHistory

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def near(beside: Neighbours, recent_R: Ints) -> tuple[Ints, Floats]:
    """Ordinals (N,) ascending, and their sums (N, 3)."""
    sums: dict[int, NDArray[np.float64]] = {}
    for position, ordinal in enumerate(recent_R.tolist()):
        if not 0 <= ordinal < len(beside.offsets_S1) - 1:
            continue
        for entry in range(beside.offsets_S1[ordinal], beside.offsets_S1[ordinal + 1]):
            cosine, linear = beside.weights_E2[entry].astype(np.float64)
            now, liked = (base ** float(position) for base in DECAYS)
            share = np.array([cosine * now, cosine * liked, linear * liked])
            neighbour = int(beside.ordinals_E[entry])
            sums[neighbour] = sums.get(neighbour, np.zeros(3)) + share
    ordinals = sorted(sums)
    rows = [sums[ordinal] for ordinal in ordinals]
    return np.array(ordinals, np.int64), np.array(rows, np.float32).reshape(-1, 3)


def candidates(
    pools: Pools,
    near_N: Ints,
    near_N3: Floats,
    nearest: Ints,
    as_of_ms: int,
    may: Callable[[int], bool],
) -> Ints:
    """Of each source the best that may be shown, ties by ordinal; ascending."""

    def best(values: Floats | Ints, ordinals: Ints, most: int) -> list[int]:
        pairs = zip(values.tolist(), ordinals.tolist(), strict=True)
        return [o for _, o in sorted((-value, o) for value, o in pairs if may(o))[:most]]

    found = set(nearest.tolist())
    for column in pools.sums.T:
        found.update(best(column, pools.active, ACTIVE_EACH))
    told = (pools.published >= 0) & (pools.published <= as_of_ms)
    found.update(best(pools.published[told], pools.newest[told], NEWEST))
    for measure in (COSINE, LINEAR):
        found.update(best(near_N3[:, measure], near_N, NEIGHBOURS))
    return np.array(sorted(found), np.int64)


def says(whole: WholeHistory, seen_T: Ints, found_N: Ints) -> Floats:
    """(N, 2)."""
    said_N2 = np.zeros((len(found_N), 2), np.float32)
    from_T = np.flatnonzero(np.isin(whole.items_M, seen_T))
    if not len(from_T):
        return said_N2
    user_K, user_J = whole.factors_MK[from_T].sum(axis=0), whole.before_MJ[from_T].sum(axis=0)
    for row, ordinal in enumerate(found_N.tolist()):
        for item in np.flatnonzero(whole.items_M == ordinal):
            factors_K = whole.factors_MK[item]
            scale = 1 / max(1 - float(factors_K @ factors_K), 1e-3)
            said_N2[row, 0] = factors_K @ user_K * scale
        for item in np.flatnonzero(whole.late_items_C == ordinal):
            said_N2[row, 1] = whole.after_CJ[item] @ user_J
    return said_N2


def activity_at(activity: Activity, found_M: Ints, at_ms: int) -> Floats:
    """(M, H)."""
    sums = np.zeros((len(found_M), activity.sums.shape[1]), np.float32)
    for row, ordinal in enumerate(found_M.tolist()):
        for place in np.flatnonzero(activity.ordinals == ordinal):
            sums[row] = activity.sums[place]
    return np.asarray(sums * decay(np.array([at_ms - activity.at_ms])), np.float32)


def features(evidence: Evidence, as_of_ms: int, *, quiet: bool) -> Floats:
    """(N, F)."""
    near_ND = evidence.neighbours[:, : COSINE + 1]
    linear_N3 = np.column_stack([evidence.neighbours[:, LINEAR], evidence.history])
    logs_N3 = np.log1p(10 * np.maximum(linear_N3, 0))
    highest_D = near_ND.max(axis=0, initial=np.float32(1e-9))
    activity = _added(np.log1p(evidence.activity))
    if quiet:
        activity[:, :-1], activity[:, -1] = 0, np.log1p(evidence.activity[:, -1])
    ages_days = np.maximum(as_of_ms - evidence.published_ms, 0)[:, None] / DAY_MS
    newness = np.exp(-ages_days / np.array(AGES_DAYS)).astype(np.float32)
    newness[(evidence.published_ms < 0) | (evidence.published_ms > as_of_ms)] = 0
    columns = (
        evidence.cosines[:, None],
        activity,
        _added(newness),
        near_ND / highest_D,
        np.log1p(10 * near_ND[:, -1:]),
        np.stack([linear_N3, logs_N3], axis=2).reshape(len(near_ND), 6),
        evidence.recent[:, None],
    )
    return np.concatenate(columns, axis=1).astype(np.float32)


def _added(values_NH: Floats) -> Floats:
    return np.diff(values_NH, axis=1, prepend=np.float32(0))
