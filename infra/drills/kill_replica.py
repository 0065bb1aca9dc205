"""Drill `kill-replica`: kill -9 of a gateway replica in the middle of 200 events/s and reads.

Nothing is lost, nothing is there twice, no list is behind what was acknowledged, and with our
client, which tries again, no request fails.
"""

from typing import Any

import numpy as np
import psutil

from infra.drills.figures import Figures, Options
from infra.drills.kills import ITEMS, USERS, Rounds, whole_again
from infra.drills.shoppers import Load
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import gateways, kill

ROUNDS = 50


def run(options: Options) -> Figures:
    """`rounds` kills on a stack of their own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return run_on(stack, options)


def run_on(stack: DrillStack, options: Options, **crowd: Any) -> Figures:
    """`rounds` kills on a stack that is there already. `crowd`: of `Rounds`."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("kill-replica", rounds, options.seed)

    def harm(_: int, rng: np.random.Generator) -> None:
        victim = int(rng.choice(sorted(gateways(stack))))
        kill(psutil.Process(victim))
        whole_again(stack, [victim])

    Rounds(stack, harm, Load(), **crowd).run(options, rounds, figures)
    return figures
