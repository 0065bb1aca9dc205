"""Drills `kill-proxy` and `kill-controller`: kill -9 of HAProxy, and of Serve's controller.

Nothing is lost, nothing is there twice, and an event that is tried again for a minute is stored.
Lists that had no answer within their 2 s are counted.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from infra.client import Moonlark
from infra.drills.figures import Figures, Options
from infra.drills.kills import ITEMS, PATIENT, USERS, Rounds, whole_again
from infra.drills.stack import DrillStack, drill_stack
from infra.drills.victims import controllers, kill, proxies, wait_for

ROUNDS = 10
STEADY_S = 3.0
"""A controller that is back looks around for so long before the next is killed."""


def run_proxy(options: Options) -> Figures:
    """`rounds` deaths of HAProxy on a stack of their own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return proxy_on(stack, options)


def run_controller(options: Options) -> Figures:
    """`rounds` deaths of the controller on a stack of their own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return controller_on(stack, options)


def proxy_on(stack: DrillStack, options: Options, **crowd: Any) -> Figures:
    """`rounds` deaths of HAProxy on a stack that is there already."""

    def recovered(gone: set[int]) -> bool:
        if not {process.pid for process in proxies(stack)} - gone:
            return False
        with Moonlark(stack.url, timeout_s=1.0) as api:
            return api.ready()

    return _rounds("kill-proxy", stack, options, proxies, recovered, crowd)


def controller_on(stack: DrillStack, options: Options, **crowd: Any) -> Figures:
    """`rounds` deaths of the controller on a stack that is there already."""

    def recovered(gone: set[int]) -> bool:
        return bool({process.pid for process in controllers(stack)} - gone)

    return _rounds("kill-controller", stack, options, controllers, recovered, crowd)


def _rounds(
    scenario: str,
    stack: DrillStack,
    options: Options,
    find: Callable[[DrillStack], list[psutil.Process]],
    recovered: Callable[[set[int]], bool],
    crowd: dict[str, Any],
) -> Figures:
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures(scenario, rounds, options.seed)

    def harm(_: int, __: np.random.Generator) -> None:
        victims = find(stack)
        assert victims, f"{scenario}: the stack has none"
        for victim in victims:
            kill(victim)
        gone = {victim.pid for victim in victims}
        wait_for(f"{scenario}: another", lambda: recovered(gone))
        whole_again(stack)
        time.sleep(STEADY_S)

    Rounds(stack, harm, PATIENT, **crowd).run(options, rounds, figures)
    return figures
