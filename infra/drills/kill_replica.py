"""Drill `kill-replica`: kill -9 of a gateway replica in the middle of 200 events/s and reads.

Nothing is lost, nothing is there twice, no list is behind what was acknowledged, and with our
client, which tries again, no request fails.
"""

import numpy as np
import psutil

from infra.drills.figures import Figures, Options
from infra.drills.kills import ALL_MUST_ANSWER, ITEMS, USERS, Rounds, whole_again
from infra.drills.shoppers import Load
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import gateways, kill

ROUNDS = 50


def run(options: Options) -> Figures:
    """`rounds` kills on a stack of their own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return run_on(stack, options)


def run_on(
    stack: DrillStack, options: Options, *, load: Load = ALL_MUST_ANSWER, items: int = ITEMS
) -> Figures:
    """`rounds` kills on a stack that is there already, of `items`."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("kill-replica", rounds, options.seed)

    def harm(_: int, rng: np.random.Generator) -> None:
        victim = int(rng.choice(sorted(gateways(stack))))
        kill(psutil.Process(victim))
        whole_again(stack, [victim])

    Rounds(stack, harm, load, items).run(options, rounds, figures)
    return figures
