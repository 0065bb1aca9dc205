"""What processes cost: CPU seconds and memory, by group, from /proc."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

from infra.bench.process_memory import ProcessMemory, memory_of


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """CPU that they have used since they began, seconds; 0 of those that are gone."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


@dataclass(frozen=True)
class Spent:
    """CPU seconds of each group while something ran."""

    by_group: Mapping[str, float]

    def of(self, *groups: str) -> float:
        """Of these groups together."""
        return sum(self.by_group[group] for group in groups)


class Meter:
    """CPU of named groups of processes; a group is asked for its members at each reading."""

    def __init__(self, groups: Mapping[str, Callable[[], list[psutil.Process]]]) -> None:
        self._groups = groups

    def read(self) -> dict[str, float]:
        """Of each group, since its processes began."""
        return {name: cpu_s(members()) for name, members in self._groups.items()}

    def since(self, before: Mapping[str, float]) -> Spent:
        """What was used since that reading."""
        return Spent({name: now - before[name] for name, now in self.read().items()})


def memory(processes: Iterable[psutil.Process]) -> ProcessMemory:
    """Of all of them together."""
    found = [memory_of(process.pid) for process in processes]
    return ProcessMemory(sum(one.private for one in found), sum(one.mapped for one in found))
