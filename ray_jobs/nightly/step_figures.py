"""How long each step of a night took, on how many rows: kept with the generation, told by day.

The steps' reports lie in the work folder, which goes after the publish. What an on-call asks of
them weeks later is copied into the registry when the generation is sealed; steps that come after
add theirs themselves.
"""

from collections.abc import Mapping
from typing import Any

from ray_jobs.nightly.workspace import Workspace

ROWS = {
    "export": "events",
    "embed": "embedded",
    "train": "windows",
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


def of_night(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Of every step whose report lies there."""
    reports = {step: workspace.report(step) for step in ROWS}
    return {step: of_report(step, report) for step, report in reports.items() if report}
