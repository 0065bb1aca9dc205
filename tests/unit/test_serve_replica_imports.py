"""Replicas start with what they need: torch and transformers are the encoder's alone."""

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
sys.exit(", ".join({"torch", "transformers"} & set(sys.modules)) or 0)
"""


@pytest.mark.parametrize("module", ["serve.replica", "serve.shard_server"])
def test_a_replica_loads_neither_torch_nor_transformers(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
