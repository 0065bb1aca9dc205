"""Drill `kill-database`: Postgres is killed with -9 and started again; then it hangs (SIGSTOP), and
goes on; then, with SQLite, those who write to it are killed.

What was acknowledged is in the log afterwards, once. While Postgres is away, lists are answered
from what a replica holds, marked `database_gone` with the moment they are of, and hold to all that
was acknowledged before that moment; writes are answered 503 and tried again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil

from infra.client import Moonlark, MoonlarkError
from infra.drills.figures import Figures, Options
from infra.drills.kills import ITEMS, PATIENT, USERS, Rounds, whole_again
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import gateways, kill, wait_for
from infra.stack.postgres import PostgresServer, create_database

ROUNDS = 10
DOWN_S = 5.0
HANGS_S = 12.0


def run(options: Options) -> Figures:
    """`rounds` on Postgres, then as many on SQLite, each on a stack of its own."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("kill-database", rounds, options.seed)
    server = PostgresServer()
    try:
        server.start()
        create_database(server.url(), "moonlark")
        url = server.url("moonlark")
        with drill_stack(items=ITEMS, users=USERS, seed=options.seed, database_url=url) as stack:
            away = _Away(stack, options, rounds, figures)
            away.run("postgres_", server.kill, DOWN_S, server.serve)
            # Its connections stay, so that only time tells.
            away.run("hanging_", server.freeze, HANGS_S, server.thaw)
    finally:
        server.stop()
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        writers_on(stack, options, rounds, figures)
    return figures


@dataclass
class _Away:
    """Rounds in which Postgres answers nobody for a while; nothing is done to the replicas."""

    stack: DrillStack
    options: Options
    rounds: int
    figures: Figures

    def run(
        self, prefix: str, go: Callable[[], None], seconds: float, come_back: Callable[[], None]
    ) -> None:
        def harm(_: int, __: np.random.Generator) -> None:
            before = gateways(self.stack)
            go()
            try:
                time.sleep(seconds)
            finally:
                come_back()
            wait_for("the replicas' leases", lambda: before.items() <= gateways(self.stack).items())
            wait_for("an answer from the database", lambda: _is_fresh(self.stack))

        Rounds(self.stack, harm, PATIENT).run(self.options, self.rounds, self.figures, prefix)
        # Of these rounds alone: the next ones are counted anew.
        from_memory = self.figures.more.pop("answers_from_memory")
        self.figures.more[f"{prefix}answers_from_memory"] = from_memory
        if not from_memory:
            self.figures.tell(f"{prefix}rounds: no list was answered while Postgres was away")


def writers_on(stack: DrillStack, options: Options, rounds: int, figures: Figures) -> None:
    """All replicas at once, in the middle of commits: nobody is left who knows what was open."""

    def harm(_: int, __: np.random.Generator) -> None:
        victims = sorted(gateways(stack))
        for pid in victims:
            kill(psutil.Process(pid))
        whole_again(stack, victims)

    Rounds(stack, harm, PATIENT).run(options, rounds, figures, "sqlite_")


def _is_fresh(stack: DrillStack) -> bool:
    with Moonlark(stack.url, timeout_s=2.0) as api:
        try:
            return not api.recommend("idle1").degraded
        except MoonlarkError:
            return False
