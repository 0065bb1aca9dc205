"""Rounds of drills `shard-gone` and `encoder-gone`: a deployment dead, then slow, then as before.

Of each round: an ordinary time, the fault while the clients go on, and the recovery, which is over
when lists are whole again. Who is dead is held off from being replaced for as long.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
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

ORDINARY_S = 3.0
FAULT_S = 6.0
RECOVERY_S = 60.0
"""A dead replica is made anew in some 5 s on a machine that does nothing else."""
WHOLE_IN_A_ROW = 12
"""Lists over connections of their own, so that every gateway replica is among them."""


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
    """Spans of one drill. `user_id`: whose lists are asked for to see whether they are whole."""

    stack: DrillStack
    record: Record
    figures: Figures
    user_id: str
    spans: dict[str, list[Span]] = field(
        default_factory=lambda: {"ordinary": [], "dead": [], "slow": []}
    )
    recovered_s: list[float] = field(default_factory=list)

    def ordinary(self) -> None:
        """Undisturbed traffic for a while."""
        self._span("ordinary", ORDINARY_S)

    def dead(self, name: str) -> None:
        """kill -9, and nobody in its place until the span is over."""
        sickness = Sickness(self.stack.faults, name)
        os.kill(sickness.hold_off(), signal.SIGKILL)
        self._span("dead", FAULT_S)
        self._heal(sickness)

    def slow(self, name: str, seconds: float) -> None:
        """Each of its answers takes `seconds` more."""
        sickness = Sickness(self.stack.faults, name)
        sickness.slow_down(seconds)
        self._span("slow", FAULT_S)
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
        if until_whole(self.stack.url, self.user_id, started_s + RECOVERY_S):
            self.recovered_s.append(time.monotonic() - started_s)
        else:
            self.figures.tell(f"{sickness.name} healed, lists are marked {RECOVERY_S:g} s later")


def until_whole(
    url: str, user_id: str, deadline_s: float, *, in_a_row: int = WHOLE_IN_A_ROW
) -> bool:
    """Ask for lists until so many in a row have no mark; False when the deadline passed."""
    whole = 0
    while whole < in_a_row:
        if time.monotonic() > deadline_s:
            return False
        answer = httpx.get(f"{url}/v1/users/{user_id}/recommendations", timeout=30)
        is_whole = answer.status_code == 200 and not answer.json()["degraded"]
        whole = whole + 1 if is_whole else 0
        if not is_whole:
            time.sleep(0.1)
    return True
