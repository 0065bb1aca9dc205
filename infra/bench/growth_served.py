"""What the last full run of `serve` measured, which the sizing formula is held against."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from infra.bench import sizing
from infra.bench.report import RESULTS, Report
from infra.bench.serve import PLANS
from infra.bench.serving.made_catalog import EVENTS
from infra.bench.serving.page import (
    LISTS_ANSWERED,
    MAPPED_AFTER,
    MB,
    NOOP_ASGI,
    OWN_AFTER,
    RECOMMENDATIONS,
)
from infra.bench.serving.stack import REPLICAS

ITEM_BYTES = 40.0
"""Of id, title, category and attributes of `made_catalog`."""


@dataclass(frozen=True)
class Served:
    """One stack. `private`, `mapped`: bytes of all gateways after a load of so many `lists`."""

    ask: sizing.Ask
    gateways: int
    private: float
    mapped: float
    lists: float
    list_cpu_s: float
    """Under 16 clients."""
    noop_cpu_s: float
    """Of an answer of the app that does nothing, in turn with the lists."""

    def expected(self) -> sizing.Bytes:
        """The same by the formula, as `moonlark size` has it, and with its usual neighbours: each
        list is of a user who was not in the session cache, as nearly all are."""
        one = sizing.replica_bytes(replace(self.ask, users=0), 1, sizing.Floors())
        cached = min(self.lists, self.gateways * self.ask.cached_users)
        sessions = cached * sizing.cached_session_bytes(self.ask)
        return sizing.Bytes(self.gateways * one.private + sessions, one.mapped)


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
        own_mb, mapped_mb, lists = (
            _number(*cells[f"{plan.name}: floors and memory", row])
            for row in (OWN_AFTER, MAPPED_AFTER, LISTS_ANSWERED)
        )
        cpu_s = [
            _number(cells[f"{plan.name}: rates", row][1]) / 1000
            for row in (RECOMMENDATIONS, NOOP_ASGI)
        ]
        ask = sizing.Ask(
            items=plan.items,
            users=plan.users,
            item_bytes=ITEM_BYTES,
            residual_share=0.0,
            seen=sum(EVENTS) // 2,
        )
        found.append(Served(ask, REPLICAS, own_mb * MB, mapped_mb * MB, lists, *cpu_s))
    return found


def with_lists(floors: sizing.Floors, found: Sequence[Served]) -> sizing.Floors:
    """`floors` with the CPU of a list at the smallest catalog, less its search by the formula; as
    they are where nothing was served."""
    if not found:
        return floors
    searched_s = floors.search_cpu_s + sizing.search_bytes(found[0].ask) * floors.byte_cpu_s
    return replace(floors, request_cpu_s=found[0].list_cpu_s - searched_s)


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))
