"""What a drill comes to: the same keys for every scenario, and whatever else it measured."""

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import psutil
from rich.table import Table

PROMISED_ZERO = (
    "lost",
    "duplicated",
    "stale_reads",
    "mixed_generation",
    "resurrected",
    "failed_requests",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What every scenario is told. None: the scenario's own default."""

    rounds: int | None = None
    ops: int | None = None
    seed: int = 0
    progress: bool = True
    name: str | None = None
    """Of the one thing that a scenario with several is to do (`runbook`)."""


@dataclass
class Figures:
    """Counts of broken promises, and measures. A figure that a scenario has none of is None."""

    scenario: str
    rounds: int
    seed: int
    acked: int = 0
    lost: int = 0
    duplicated: int = 0
    stale_reads: int = 0
    mixed_generation: int = 0
    resurrected: int = 0
    failed_requests: int = 0
    recall_gap: float | None = None
    parity_max_abs_diff: float | None = None
    broken: list[str] = field(default_factory=list)
    """Each broken promise in words, at most `MAX_TOLD`; the counts are whole."""
    more: dict[str, Any] = field(default_factory=dict)
    """Timings and the scenario's own counts: reported, not judged."""

    MAX_TOLD: ClassVar[int] = 20

    def tell(self, broken: str) -> None:
        """Note what was broken, in words."""
        if len(self.broken) < self.MAX_TOLD:
            self.broken.append(broken)

    @property
    def passed(self) -> bool:
        """Whether every promise held. Timings do not count."""
        return not self.broken and not any(getattr(self, name) for name in PROMISED_ZERO)

    def document(self) -> dict[str, Any]:
        """As JSON: the promised keys, then the others."""
        fields = asdict(self)
        more, broken = fields.pop("more"), fields.pop("broken")
        return {
            **fields,
            "passed": self.passed,
            **more,
            "broken": broken,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {psutil.cpu_count()} cores",
        }

    def write(self, path: Path) -> None:
        """The document as a JSON file."""
        path.write_text(json.dumps(self.document(), indent=2) + "\n", encoding="utf-8")

    def table(self) -> Table:
        """A row a figure."""
        table = Table(box=None, pad_edge=False, title=None)
        table.add_column("figure")
        table.add_column("value", justify="right")
        for name, value in self.document().items():
            if name != "broken":
                table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
        return table
