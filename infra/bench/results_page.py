"""RESULTS.md from the JSON that the benches kept: no figure is written by hand.

python -m infra.bench.results_page
"""

from collections.abc import Sequence
from pathlib import Path

from infra.bench.machine import told
from infra.bench.report import PLOTS, RESULTS, Report, Table, command, ratio_table

PAGE = Path(__file__).with_name("RESULTS.md")

HEAD = """# Speed

Regenerate: `make bench` (all), or `python -m infra.bench.NAME` and then
`python -m infra.bench.results_page`. Absolute times mean little on a shared machine: each claim is
a ratio against a floor or a peer of the same run, measured in turn.
"""


def results_page(reports: Sequence[Report]) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(_section(report) for report in reports)])


def _section(report: Report) -> str:
    at = "" if report.at is None else f"{report.at.date()}, "
    lines = [
        f"## {report.bench}",
        "",
        f"{report.about} `{command(report)}`; {at}{report.machine}; {told(report.versions)}.",
        "",
    ]
    for table in (ratio_table(report), *report.tables):
        lines += _markdown(table)
    lines += [line for note in report.notes for line in (f"- {note}",)]
    lines += ["", *(f"![{name}]({PLOTS.name}/{name})" for name in report.plots)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(table: Table) -> list[str]:
    lines = [] if table.title == "ratios" else [f"{table.title}:", ""]
    lines += ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table.rows]
    return [*lines, ""]


def main() -> None:
    """Write the page."""
    kept = sorted(RESULTS.glob("*.json"))
    reports = [Report.model_validate_json(path.read_bytes()) for path in kept]
    PAGE.write_text(results_page(reports), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
