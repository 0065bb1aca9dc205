"""What a bench found, as it is printed, kept as JSON and put on RESULTS.md.

A bench is a module `infra.bench.NAME` with `def measure(size: Size) -> Report` and
`if __name__ == "__main__": run_bench(NAME, measure)`. Absolute times mean little on a shared
machine, so each claim is a Ratio against a floor or a peer of the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table as RichTable

from infra.bench.machine import machine, told, versions
from ray_jobs.shards.atomic import whole_file

RESULTS = Path(__file__).with_name("results")
PLOTS = Path(__file__).with_name("plots")

Size = Literal["full", "small"]
"""`small` ends within a minute: to try a bench, and for its test; its figures say nothing."""

NO_PLOTS = "No plots: matplotlib is missing (pip install -e '.[evaluation]')."
PACKAGES = ("moonlark", "ray", "torch", "faiss-cpu", "faiss-gpu", "numpy", "sqlalchemy")


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings"
    )


class Ratio(_Frozen):
    """One claim. `at_most`, `at_least`: the goal, None where there is none."""

    name: str
    value: float = Field(allow_inf_nan=True)
    """Infinite where what it is of never came; no goal is met then, but for a least one."""
    of: str
    """What by what: "p50 of 1 shard / p50 of faiss alone"."""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_reached(self) -> bool:
        """Whether the goal, if there is one, is met."""
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)

    @property
    def goal(self) -> str:
        """As it is shown; empty where there is none."""
        parts = [] if self.at_most is None else [f"≤ {self.at_most:g}"]
        parts += [] if self.at_least is None else [f"≥ {self.at_least:g}"]
        return " and ".join(parts)


class Table(_Frozen):
    """Measured figures: cells are text already, units in the titles."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Report(_Frozen):
    """What one run of a bench found."""

    bench: str
    about: str
    """One or two sentences: what was measured, on what data, in what order."""
    ratios: tuple[Ratio, ...]
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to read the figures: what is missing, and why."""
    plots: tuple[str, ...] = ()
    """Names of PNG files in PLOTS."""
    size: Size = "full"
    """As it was run: `run_bench` says it."""
    arguments: tuple[str, ...] = ()
    """Of the command, where it had some; a folder by its name alone."""
    at: datetime | None = None
    machine: str = ""
    versions: dict[str, str] = {}
    """A bench adds those of what is no package."""


def run_bench(
    name: str,
    measure: Callable[[Size], Report],
    packages: Sequence[str] = PACKAGES,
    command_line: Sequence[str] | None = None,
) -> None:
    """The command `python -m infra.bench.NAME`: measure, print, and keep as JSON.

    `command_line`: what is left of it where a bench has options of its own.
    """
    parser = argparse.ArgumentParser(prog=f"python -m infra.bench.{name}")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", metavar="FILE")
    parser.add_argument("--small", action="store_true", help="a minute; its figures say nothing")
    arguments = parser.parse_args(command_line)
    of = versions(packages)  # before it: hours later the tree may have moved
    size: Size = "small" if arguments.small else "full"
    found = measure(size)
    report = found.model_copy(
        update={
            "size": size,
            "at": datetime.now(UTC),
            "machine": machine(),
            "versions": of | found.versions,
        }
    )
    show(report, Console(file=sys.stdout))
    if arguments.small and arguments.json.resolve().parent == RESULTS.resolve():
        return  # figures that say nothing do not replace others
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(arguments.json) as temporary:
        temporary.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


def show(report: Report, console: Console) -> None:
    """Print it."""
    console.print(f"{report.bench}: {report.about}")
    console.print(f"{command(report)}; {report.machine}; {told(report.versions)}")
    for table in report.tables:
        _print(console, table)
    _print(console, ratio_table(report))
    for note in report.notes:
        console.print(note)


def command(report: Report) -> str:
    """What makes it again."""
    return " ".join(("python -m", f"infra.bench.{report.bench}", *report.arguments))


def ratio_table(report: Report) -> Table:
    """The ratios, with their goals."""
    rows = tuple(
        (ratio.name, f"{ratio.value:.3g}", ratio.goal, _reached(ratio), ratio.of)
        for ratio in report.ratios
    )
    return Table(title="ratios", columns=("", "ratio", "goal", "reached", "of"), rows=rows)


def _reached(ratio: Ratio) -> str:
    if not ratio.goal:
        return ""
    return "yes" if ratio.is_reached else "no"


def _print(console: Console, table: Table) -> None:
    shown = RichTable(title=table.title, title_justify="left")
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
