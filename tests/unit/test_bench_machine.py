"""What a figure says of the code it was measured on."""

import subprocess
from pathlib import Path

import pytest

from infra.bench import machine


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_is_told_and_whether_code_differs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PROJECT", tmp_path)
    assert machine.commit() is None
    assert "commit" not in machine.versions(())
    (tmp_path / "code.py").write_text("1\n")
    _git(tmp_path, "init", "--quiet")
    assert machine.commit() is None  # no commit yet
    _git(tmp_path, "add", "code.py")
    _git(tmp_path, "commit", "--quiet", "-m", "one")
    of = _git(tmp_path, "rev-parse", "--short", "HEAD").strip()
    assert machine.versions(("numpy",))["commit"] == of
    (tmp_path / "RESULTS.md").write_text("a bench wrote this\n")
    assert machine.commit() == of
    (tmp_path / "code.py").write_text("2\n")
    assert machine.commit() == of + "+"


def test_without_the_command_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(machine, "PROJECT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit() is None
