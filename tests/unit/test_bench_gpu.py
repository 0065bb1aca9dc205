"""The bench of the GPU with the CPU in its place, and what it says where there is none."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.bench import gpu as bench
from infra.drills.made_bert import make_bert
from infra.evaluation.interactions import from_columns


def test_both_sides_do_the_same_work(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 12)
    films = from_columns(
        "films",
        texts_I=[f"film {item}" for item in range(40)],
        users_E=users,
        items_E=rng.integers(40, size=len(users)),
        at_ms_E=np.arange(len(users)) * 3_600_000,
        kinds_E="rating",
    )
    found = bench.report(make_bert(tmp_path / "bert"), films, "small", "cpu")
    ratios = {ratio.name: ratio.value for ratio in found.ratios}
    assert ratios["training, an epoch: on the CPU"] > 0
    assert ratios["BERT, 1 - cosine"] < 0.01
    assert any("faiss-gpu" in note for note in found.notes) == (bench.gpus() == 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_so_and_is_no_failure() -> None:
    command = [sys.executable, "-m", "infra.bench.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no GPU here" in done.stdout
