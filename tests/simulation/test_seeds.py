"""The promises over many histories. `moonlark simulate --seeds N` runs more of them."""

import os

import pytest

from infra.simulation.run import run_seeds

SEEDS = 100
"""The planted bugs of `test_finds_bugs` are found by less than half of them."""


@pytest.mark.timeout(1_800)
def test_every_promise_holds_in_every_history() -> None:
    outcomes = list(run_seeds(range(SEEDS), jobs=os.cpu_count() or 1))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    shown = "\n".join((*failed[0].last_steps, str(failed[0].error))) if failed else ""
    assert not failed, f"seeds {[outcome.seed for outcome in failed]} failed:\n{shown}"
    # Histories in which nothing happens would prove nothing.
    assert sum(outcome.exact for outcome in outcomes) > 10 * SEEDS
    assert sum(outcome.flips for outcome in outcomes) > 2 * SEEDS
