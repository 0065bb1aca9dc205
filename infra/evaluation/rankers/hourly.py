"""Activity as the day counts it, for a replay: the replay itself counts to the millisecond."""

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Ints
from ray_jobs.ranking.activity import Tally
from ray_jobs.ranking.sources import POOL, Pools, most_active
from ray_jobs.ranking.timeline import Timeline
from ray_jobs.ranking.trend import HOUR_MS


class HourlyTimeline(Timeline):
    """As the day counts: by the hour, all that was done in one as of its middle."""

    def __init__(
        self,
        at_ms_E: Ints,
        ordinals_E: Ints,
        weights_E: NDArray[np.float32],
        published_S: Ints,
        start: int = 0,
    ) -> None:
        super().__init__(at_ms_E, ordinals_E, weights_E, published_S, 0)
        self._middles_E = at_ms_E // HOUR_MS * HOUR_MS + HOUR_MS // 2
        self._counted_E, self._weighed_E = ordinals_E, weights_E

    def forward(self, end: int, at_ms: int) -> Pools:
        pools = super().forward(0, at_ms)  # what is newest
        everything = np.arange(len(self.published_S))
        self.tally = Tally.of_events(
            len(everything),
            self._counted_E[:end],
            self._middles_E[:end],
            self._weighed_E[:end],
            at_ms,
        )
        self.month = self.tally.month(at_ms)
        sums_SH = self.tally.at(everything, at_ms)
        active = most_active(everything, sums_SH, POOL)
        return Pools(active, sums_SH[active], pools.newest, pools.published)
