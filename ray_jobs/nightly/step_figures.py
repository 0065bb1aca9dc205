"""How long each step of a night took, on how many rows: kept with the generation, told by day.

The steps' reports lie in the work folder, which goes after the publish. What an on-call asks of
them weeks later is copied into the registry when the generation is sealed; steps that come after
add theirs themselves.
"""

from collections.abc import Mapping
from typing import Any

from ray_jobs.nightly.workspace import Workspace

PLAN = "plan_shards"
"""The first part of the build, and its report."""
SHARD = "build_shard"
"""The second part, a job for each shard."""

ROWS = {
    "export": "events",
    "check": "events",
    "embed": "embedded",
    "train": "windows",
    PLAN: "items",
    SHARD: "shard_items",
    "build": "items",
    "fuse": "neighbours",
    "fold": "sessions",
    "evaluate": "questions",
    "verify": "items",
    "parity": "parity_users",
}
"""The figure of a step's report that counts the rows it worked on."""

STEPS = "steps"
"""Where they are among the generation's metrics: step -> {"seconds", "rows"}."""


def of_report(step: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of one report; `rows` None where the step counts none."""
    rows = report.get(ROWS.get(step, ""))
    if isinstance(rows, list):  # a number a worker
        rows = sum(rows)
    return {"seconds": report["seconds"], "rows": rows if isinstance(rows, int) else None}


def shard_step(number: int) -> str:
    """The name under which the job of a shard is reported."""
    return f"{SHARD}-{number:04d}"


def of_night(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Of every step whose report lies there."""
    reports = {step: workspace.report(step) for step in ROWS if step != SHARD}
    told = {step: of_report(step, report) for step, report in reports.items() if report}
    shards = _of_shards(workspace, (reports[PLAN] or {}).get("shards", 0))
    return told if shards is None else {**told, SHARD: shards}


def _of_shards(workspace: Workspace, count: int) -> dict[str, Any] | None:
    """All of them as one step: its rows are theirs together, its time is that of the longest. None
    where no job of its own made any: then `build` has the time."""
    reports = [workspace.report(shard_step(number)) for number in range(count)]
    parts = [of_report(SHARD, each) for each in reports if each and "seconds" in each]
    if not parts:
        return None
    seconds = max(part["seconds"] for part in parts)
    return {"seconds": seconds, "rows": sum(part["rows"] or 0 for part in parts)}
