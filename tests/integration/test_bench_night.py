"""The bench of the night, small, on its own Ray cluster: every step is run and timed."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.bench.report import Report

PROJECT_ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(2_400)
def test_each_step_of_each_night_is_timed(tmp_path: Path) -> None:
    path = tmp_path / "night.json"
    command = [sys.executable, "-m", "infra.bench.night", "--small", "--json", str(path)]
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=2_300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = Report.model_validate_json(path.read_bytes())
    first, second, made, workers = report.tables
    steps = ["export", "check", "embed", "train", "build", "fuse", "fold", "evaluate"]
    steps += ["publish", "verify"]
    assert [row[0] for row in first.rows] == [*steps, "parity", "prune", "together"]
    assert [row[0] for row in second.rows] == [*steps, "parity", "prune", "together"]
    assert [row[0] for row in made.rows] == [*steps, "prune", "together"]
    assert [row[0] for row in workers.rows] == ["export", "check", "embed", "train"]
    # 1 % of 400 texts, and none but these.
    assert "4 texts embedded, 39" in second.title
    ratios = {ratio.name: ratio.value for ratio in report.ratios}
    assert ratios["embed after 1 % changed"] > 0  # a time: judged by the bench alone
