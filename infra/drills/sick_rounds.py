"""Rounds of drills `shard-gone` and `encoder-gone`: a deployment dead, then slow, then as before.

Of each round: an ordinary time, the fault while the clients go on, and the recovery, which is over
when nobody misses it any more. Who is dead is held off from being replaced for as long.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from infra.drills.figures import Figures
from infra.drills.night_worker import Span
from infra.drills.record import Record
from infra.drills.sickness import Sickness
from infra.drills.stack import DrillStack
from infra.drills.traffic import Client
from infra.drills.windows import milliseconds, percentile

FAULT_S = 6.0
"""And half of it undisturbed, before."""
RECOVERY_S = 60.0
"""A dead replica is made anew in some 5 s on a machine that does nothing else."""
WHOLE_IN_A_ROW = 12
"""Each over a connection of its own, so that every gateway replica is among them."""


@contextmanager
def running(clients: Sequence[Client]) -> Iterator[None]:
    """The clients, from the first to the last line of the block."""
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.end()
        for client in clients:
            client.join()


@dataclass
class SickRounds:
    """Spans of one drill. `is_whole`: asks, over a connection of its own, whether what was sick is
    missed by nobody."""

    stack: DrillStack
    record: Record
    figures: Figures
    is_whole: Callable[[], bool]
    fault_s: float = FAULT_S
    spans: dict[str, list[Span]] = field(
        default_factory=lambda: {"ordinary": [], "dead": [], "slow": []}
    )
    recovered_s: list[float] = field(default_factory=list)

    def ordinary(self) -> None:
        """Undisturbed traffic for a while."""
        self._span("ordinary", self.fault_s / 2)

    def dead(self, name: str) -> None:
        """kill -9, and nobody in its place until the span is over."""
        sickness = Sickness(self.stack.faults, name)
        os.kill(sickness.hold_off(), signal.SIGKILL)
        self._span("dead", self.fault_s)
        self._heal(sickness)

    def slow(self, name: str, seconds: float) -> None:
        """Each of its answers takes `seconds` more."""
        sickness = Sickness(self.stack.faults, name)
        sickness.slow_down(seconds)
        self._span("slow", self.fault_s)
        self._heal(sickness)

    def report(self) -> None:
        """Latencies and counts by span, into the figures."""
        more = self.figures.more
        for name, spans in self.spans.items():
            for kind in ("recommend", "event"):
                took = milliseconds(self.record.timings, kind, spans)
                more[f"{kind}_{name}_n"] = len(took)
                for at in (50, 99):
                    more[f"{kind}_p{at}_ms_{name}"] = percentile(took, at)
                more[f"{kind}_max_ms_{name}"] = round(max(took), 1) if took else None
        if self.recovered_s:
            more["recovered_s_max"] = round(max(self.recovered_s), 1)

    def _span(self, name: str, seconds: float) -> None:
        started_s = time.monotonic()
        time.sleep(seconds)
        self.spans[name].append(Span(started_s, time.monotonic()))

    def _heal(self, sickness: Sickness) -> None:
        sickness.heal()
        started_s = time.monotonic()
        if until(self.is_whole, started_s + RECOVERY_S, WHOLE_IN_A_ROW):
            self.recovered_s.append(time.monotonic() - started_s)
        else:
            self.figures.tell(f"{sickness.name} healed, and is missed {RECOVERY_S:g} s later")


def until(is_so: Callable[[], bool], deadline_s: float, in_a_row: int = 1) -> bool:
    """Ask until it is so so many times in a row; False when the deadline passed."""
    times = 0
    while times < in_a_row:
        if time.monotonic() > deadline_s:
            return False
        times = times + 1 if is_so() else 0
        if not times:
            time.sleep(0.1)
    return True


def list_is_whole(url: str, user_id: str) -> bool:
    """Whether the user gets a list without a mark."""
    answer = httpx.get(f"{url}/v1/users/{user_id}/recommendations", timeout=30)
    return answer.status_code == 200 and not answer.json()["degraded"]
