"""Rate limits: how many requests a key and how many events a user may send a minute.

The generic cell rate algorithm (GCRA; ATM Forum TM 4.0, and https://brandur.org/rate-limiting): one
float a name says when its burst will be used up. In memory, so the limits are per replica. The
libraries were measured (decisions/LOG.md): 14 to 43 us a hit against 0.5 us here, and a batch has
500 hits.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping


class Rates:
    """Tracks at most `max_tracked` names, the least recently seen is forgotten first.

    To forget is to forgive: who sends under so many names is bounded by the limit of the key.
    """

    def __init__(self, max_tracked: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_tracked = max_tracked
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at_s)

    def take(self, costs: Mapping[str, int], per_minute: int) -> tuple[str, float] | None:
        """Count `costs` (name -> how many) where all of them fit, else nothing of them.

        Each name may burst a minute's worth. Returns None, or (the name that was refused longest,
        seconds until its cost fits). A cost above `per_minute` never fits: refuse it before.
        """
        now_s, a_cost_s = self._clock(), 60.0 / per_minute
        worst: tuple[str, float] | None = None
        after: dict[str, float] = {}
        for name, cost in costs.items():
            after[name] = max(now_s, self._full_at_s.get(name, 0.0)) + cost * a_cost_s
            wait_s = after[name] - now_s - 60.0
            if wait_s > 1e-6 and (worst is None or wait_s > worst[1]):
                worst = name, wait_s
        if worst is not None:
            return worst
        for name, full_at_s in after.items():
            self._full_at_s[name] = full_at_s
            self._full_at_s.move_to_end(name)
        while len(self._full_at_s) > self._max_tracked:
            self._full_at_s.popitem(last=False)
        return None
