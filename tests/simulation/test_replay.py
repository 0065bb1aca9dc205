"""A seed is one history: on any process, whatever else is random there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from infra.simulation.run import one_thread, run_seed
from infra.simulation.world import open_bench
one_thread()
with open_bench() as bench:
    digests = [run_seed(seed, bench).digest for seed in (3, 7, 3)]
print(json.dumps(digests))
"""


def digests(hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(1_200)
def test_the_same_seed_is_the_same_history_in_another_process() -> None:
    first, second = digests("1"), digests("2")
    assert first == second
    assert first[0] == first[2] != first[1]
