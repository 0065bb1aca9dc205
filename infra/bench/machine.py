"""Where and of what a figure was measured: machine, versions and commit, as the pages of
`infra.bench` name them."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CODE = ("*.py", "pyproject.toml", "constraints.txt")
"""What makes a tree dirty: a bench writes its own pages and plots."""


def machine() -> str:
    """Cores, processor and Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed, and the commit where there is one."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if (of := commit()) is not None:
        found["commit"] = of
    return found


def commit() -> str | None:
    """Short hash of the project's commit, with "+" where code differs from it; None without git."""
    if not (PROJECT / ".git").exists():
        return None
    head, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--short", "--", *CODE)
    return None if head is None else head + ("+" if changed else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def told(found: dict[str, str]) -> str:
    """Versions in one line."""
    return ", ".join(f"{name} {number}" for name, number in found.items())
