"""The bench of BERT runs on any model, and says what is missing with the command that brings it."""

import sys
from pathlib import Path

import pytest

from infra.bench import encoder as bench
from infra.bench.report import Report
from tests.unit.test_encoders_bert import make_bert

TEXTS = [f"{'a red film of war ' * (1 + n % 5)}{'blue ' * (n % 3)}" for n in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bench") / "model")


@pytest.fixture(scope="module")
def missing(model: Path) -> Report:
    """Neither OpenVINO nor the peer is installed."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "openvino", None)
        patched.setitem(sys.modules, "sentence_transformers", None)
        return bench.report(model, {"films": TEXTS}, "small")


def test_what_is_missing_is_told_with_its_command_and_the_rest_is_measured(
    missing: Report,
) -> None:
    told = " ".join(missing.notes)
    assert "pip install 'moonlark[openvino]'" in told
    assert "pip install 'moonlark[evaluation]'" in told
    rows = {row[0]: row for row in missing.tables[0].rows}
    assert list(rows) == [bench.FP32, bench.BF16, bench.GEMM_FP32, bench.GEMM_BF16]
    assert (rows[bench.FP32][2], rows[bench.FP32][4]) == ("1.00", "1.000000")
    assert float(rows[bench.FP32][6]) == 1.0


def test_goals_are_those_of_the_issue(missing: Report) -> None:
    assert bench.GOALS == {bench.BF16: 1.8, bench.OPENVINO_BF16: 2.2}
    goals = {ratio.name: ratio.goal for ratio in missing.ratios}
    assert goals["films: torch bf16"] == "≥ 1.8"
    assert goals["films: torch bf16, alone"] == "≤ 0.0001"
    assert goals["films: padding"] == "≤ 1.1"


def test_padding_counts_what_is_computed() -> None:
    assert bench._computed([[4, 2]], batch_tokens=8) == pytest.approx(8 / 6)
    assert bench._computed([[4], [2]], batch_tokens=8) == 1.0
