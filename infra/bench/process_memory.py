"""What a process has in memory, by the kernel's account."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes: its own, and its share of the pages of files."""

    private: int
    mapped: int

    @property
    def pss(self) -> int:
        """Both: shared pages divided by those who share them."""
        return self.private + self.mapped


def memory_of(process: int | str = "self") -> ProcessMemory:
    """Of this process, or of one by its pid. Raises FileNotFoundError where it is gone."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        found[name.rstrip(":")] = int(value) * 1024
    return ProcessMemory(found["Pss_Anon"], found["Pss_File"] + found.get("Pss_Shmem", 0))
