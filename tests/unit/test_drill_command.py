"""`moonlark drill all` runs every scenario, and one that fails or breaks fails the whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.cli import drill
from infra.cli.main import app
from infra.drills.figures import Figures, Options


def run_all(monkeypatch: pytest.MonkeyPatch, path: Path, ends: dict[str, Any]) -> tuple[int, Any]:
    asked: list[Options] = []

    def load(where: str) -> Any:
        def scenario(options: Options) -> Figures:
            asked.append(options)
            end = ends[where]
            if isinstance(end, Exception):
                raise end
            return Figures(where, 1, options.seed, lost=end)

        return scenario

    monkeypatch.setattr(drill, "SCENARIOS", {name: name for name in ends})
    monkeypatch.setattr(drill, "load", load)
    result = CliRunner().invoke(app, ["drill", "all", "--seed", "7", "--json", str(path)])
    assert [options.seed for options in asked] == [7] * len(ends)
    return result.exit_code, json.loads(path.read_text())


def test_all_run_and_all_must_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, documents = run_all(monkeypatch, tmp_path / "f.json", {"a": 0, "b": 0})
    assert code == 0
    assert [document["passed"] for document in documents] == [True, True]


def test_one_that_breaks_a_promise_or_ends_with_an_error_fails_the_whole_and_the_rest_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = {"a": TimeoutError("no replica came back"), "b": 1, "c": 0}
    code, documents = run_all(monkeypatch, tmp_path / "f.json", ends)
    assert code == 1
    assert [document["passed"] for document in documents] == [False, False, True]
    assert "no replica came back" in documents[0]["broken"][0]
