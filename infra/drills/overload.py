"""Drill `overload`: three times what the stack can do, for a minute, and whether it still does it.

First the capacity: closed loops of more and more clients show how many get the most out of it; that
many, in a longer loop, give the peak. Then three times that rate, in an open loop. Good is what is
answered with 200 within `GOOD_S`. Everything else must be refused with 429 or 503 and Retry-After;
and half the peak, sent right afterwards, must be answered whole: it recovers by itself. At last the
peak again, since the machine may have become slower or faster meanwhile: the goodput must be at
least `LEAST_SHARE` of the mean of both.

The sender (`load`) shares the machine with the stack, and three times the rate costs it more. What
that explains is told by `goodput_of_peak_by_cpu`: both by the processor time that the sender left.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from urllib.parse import urlsplit

import numpy as np
from sqlalchemy import Engine, func, select

from infra.drills.figures import Figures, Options
from infra.drills.load import Shots, closed_loop, open_loop
from infra.drills.stack import DrillStack, drill_stack
from sql.engine import read_snapshot
from sql.tables import events

CORES = os.cpu_count() or 1
ITEMS = 2_000
USERS = 2_000
TIMES = 3.0
OVERLOAD_S = 60.0
PROBE_S = 6.0
CLIENTS = (8, 16, 32, 64)
PEAK_PROBES = 3
"""The peak takes as long as so many probes: the best of several short ones is the luckiest."""
GOOD_S = 1.0
LEAST_SHARE = 0.9
RECOVERED_SHARE = 0.97
"""Of half the peak. Poisson's noise in 6 s of it is 3 %."""
REFUSALS = (429, 503)
MOST_GIVEN_UP = 0.01
"""Of all: without an answer, or a refusal, within 2 s."""
LEAST_REFUSED = 0.2
"""Of three times the capacity two thirds have to be; the clients give up what is not refused."""


@dataclass(frozen=True)
class _Rate:
    """Good answers a second, in all and for each second of a core that the sender left."""

    per_s: float
    per_cpu_s: float
    sender_cores: float

    @classmethod
    def of(cls, shots: Shots, seconds: float) -> "_Rate":
        per_s = int(np.count_nonzero(shots.good(GOOD_S))) / seconds
        sender_cores = shots.cpu_s / seconds
        return cls(per_s, per_s / max(CORES - sender_cores, 0.1), sender_cores)


@dataclass
class _Overload:
    stack: DrillStack
    users: int
    items: int
    figures: Figures
    pool: ProcessPoolExecutor
    seed: int
    sent: list[Shots] = field(default_factory=list)

    def closed(self, clients: int, seconds: float) -> "_Rate":
        """Of so many clients that wait for their answers."""
        return _Rate.of(self._fire(closed_loop, clients, seconds), seconds)

    def open(self, rate: float, seconds: float) -> tuple["_Rate", Shots]:
        """Of that rate, and what became of each request."""
        shots = self._fire(open_loop, rate, seconds)
        return _Rate.of(shots, seconds), shots

    def _fire(self, loop: Callable[..., Shots], amount: float, seconds: float) -> Shots:
        port = urlsplit(self.stack.url).port
        self.seed += 1
        sent = self.pool.submit(
            loop, port, amount, seconds, users=self.users, items=self.items, seed=self.seed
        )
        shots = sent.result()
        self.sent.append(shots)
        return shots


def run(options: Options) -> Figures:
    """A minute of overload on a stack of its own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return run_on(stack, options, items=ITEMS, users=USERS)


def run_on(
    stack: DrillStack,
    options: Options,
    *,
    items: int,
    users: int,
    probe_s: float = PROBE_S,
    overload_s: float = OVERLOAD_S,
    judge_goodput: bool = True,
) -> Figures:
    """`rounds` overloads, one by default, on a stack that is there already.

    `judge_goodput`: False for a run of seconds beside other work, which says nothing of it.
    """
    rounds = 1 if options.rounds is None else options.rounds
    figures = Figures("overload", rounds, options.seed)
    before = _event_count(stack.engine)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        drill = _Overload(stack, users, items, figures, pool, options.seed)
        for _ in range(rounds):
            _overload(drill, probe_s, overload_s)
            _judge(figures, judge_goodput=judge_goodput)
    figures.acked = sum(shots.acked_events for shots in drill.sent)
    figures.lost = max(0, figures.acked - (_event_count(stack.engine) - before))
    return figures


def _overload(drill: _Overload, probe_s: float, overload_s: float) -> None:
    figures = drill.figures
    drill.closed(CLIENTS[0], probe_s)  # warms
    clients = max(CLIENTS, key=lambda clients: drill.closed(clients, probe_s).per_s)
    before = drill.closed(clients, PEAK_PROBES * probe_s)
    goodput, shots = drill.open(TIMES * before.per_s, overload_s)
    half, _ = drill.open(before.per_s / 2, probe_s)
    after = drill.closed(clients, PEAK_PROBES * probe_s)
    good = shots.good(GOOD_S)
    refused = np.isin(shots.status, REFUSALS)
    silent = refused & ~shots.told_when
    answered = shots.took_s[shots.status == 200]
    figures.more |= {
        "clients_of_the_peak": clients,
        "peak_before_per_s": round(before.per_s, 1),
        "peak_after_per_s": round(after.per_s, 1),
        "offered_per_s": round(len(shots.status) / overload_s, 1),
        "goodput_per_s": round(goodput.per_s, 1),
        "sender_cores": [round(r.sender_cores, 3) for r in (before, goodput, after)],
        "goodput_of_peak": round(2 * goodput.per_s / (before.per_s + after.per_s), 3),
        "goodput_of_peak_by_cpu": round(
            2 * goodput.per_cpu_s / (before.per_cpu_s + after.per_cpu_s), 3
        ),
        "sent": len(shots.status),
        "good": int(good.sum()),
        "refused": int(refused.sum()),
        "refused_without_retry_after": int(silent.sum()),
        "late": int(((shots.status == 200) & ~good).sum()),
        "gave_up": int((shots.status == 0).sum()),
        "others": int((~np.isin(shots.status, (0, 200, *REFUSALS))).sum()),
        "answered_p50_ms": round(float(np.percentile(answered, 50)) * 1000, 1),
        "answered_p99_ms": round(float(np.percentile(answered, 99)) * 1000, 1),
        "after_of_half_the_peak": round(half.per_s / (before.per_s / 2), 3),
    }


def _judge(figures: Figures, *, judge_goodput: bool) -> None:
    more = figures.more
    if more["refused_without_retry_after"] or more["others"]:
        figures.tell(
            f"{more['refused_without_retry_after']} refusals without Retry-After, "
            f"{more['others']} answers that are neither 200 nor a refusal"
        )
    if more["refused"] < LEAST_REFUSED * more["sent"]:
        figures.tell(f"of {more['sent']} requests only {more['refused']} were refused")
    if judge_goodput and more["gave_up"] > MOST_GIVEN_UP * more["sent"]:
        figures.tell(f"of {more['sent']} requests {more['gave_up']} had no answer at all")
    if judge_goodput and more["goodput_of_peak"] < LEAST_SHARE:
        figures.tell(f"goodput is less than {LEAST_SHARE} of the peak")
    if judge_goodput and more["after_of_half_the_peak"] < RECOVERED_SHARE:
        figures.tell(f"afterwards only {more['after_of_half_the_peak']} of half the peak was good")


def _event_count(engine: Engine) -> int:
    with read_snapshot(engine) as conn:
        return int(conn.execute(select(func.count()).select_from(events)).scalar_one())
