"""What the last full run of `serve` measured, which the sizing formula is held against."""

from dataclasses import dataclass
from pathlib import Path

from infra.bench.report import RESULTS, Report
from infra.bench.serve import PLANS
from infra.bench.serving.page import MEMORY_AFTER, RECOMMENDATIONS
from infra.bench.serving.stack import REPLICAS

MB = 1e6


@dataclass(frozen=True)
class Served:
    """One stack. `pss`: bytes of all gateways after the load."""

    items: int
    users: int
    gateways: int
    pss: float
    list_cpu_s: float


def served(path: Path = RESULTS / "serve.json") -> list[Served]:
    """A row a catalog; none where no full run was kept."""
    if not path.is_file():
        return []
    report = Report.model_validate_json(path.read_bytes())
    if report.size != "full":
        return []
    cells = {(table.title, row[0]): row[1:] for table in report.tables for row in table.rows}
    found = []
    for plan in PLANS["full"]:
        (pss,) = cells[f"{plan.name}: floors and memory", MEMORY_AFTER]
        cpu_ms = cells[f"{plan.name}: rates", RECOMMENDATIONS][1]
        found.append(
            Served(plan.items, plan.users, REPLICAS, _number(pss) * MB, _number(cpu_ms) / 1000)
        )
    return found


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))
