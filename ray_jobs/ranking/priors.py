"""What a generation knows beside its vectors, on disk: activity, neighbours, and how to weigh them.

    fusion.json               the weights (`fusion.Fusion`); without it there is none of this
    activity.ordinals.npy     int64   [A]     items ever acted on, ascending
    activity.sums.npy         float32 [A, H]  `activity.Activity` as of the start of `activity_hour`
    neighbours.offsets.npy    int64   [S + 1] `neighbours.Neighbours`
    neighbours.ordinals.npy   int32   [E]
    neighbours.weights.npy    float16 [E, 2]
    whole.items.npy           int64   [M]     `whole_history.WholeHistory`
    whole.factors.npy         float32 [M, K]
    lately.before.npy         float32 [M, J]
    lately.items.npy          int64   [C]
    lately.after.npy          float32 [C, J]

The arrays are mapped, not read. The manifest of the generation holds the digest of each file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.fusion import Fusion
from ray_jobs.ranking.neighbours import Neighbours
from ray_jobs.ranking.sources import POOL, most_active
from ray_jobs.ranking.trend import HOUR_MS
from ray_jobs.ranking.whole_history import WholeHistory

FUSION_NAME = "fusion.json"
ACTIVITY_FILES = {"activity.ordinals.npy": ("<i8", 1), "activity.sums.npy": ("<f4", 2)}
NEIGHBOURS_FILES = {
    "neighbours.offsets.npy": ("<i8", 1),
    "neighbours.ordinals.npy": ("<i4", 1),
    "neighbours.weights.npy": ("<f2", 2),
}
WHOLE_FILES = {
    "whole.items.npy": ("<i8", 1),
    "whole.factors.npy": ("<f4", 2),
    "lately.before.npy": ("<f4", 2),
    "lately.items.npy": ("<i8", 1),
    "lately.after.npy": ("<f4", 2),
}
FILES = {**ACTIVITY_FILES, **NEIGHBOURS_FILES, **WHOLE_FILES}
"""Name -> type and dimensions, in the order in which they are written."""
MAX_FUSION_BYTES = 1 << 20
OLDER_VERSIONS = frozenset({1, 2})

log = logging.getLogger(__name__)

T = TypeVar("T")
WholeFile = Callable[[Path], AbstractContextManager[Path]]
"""Yields a temporary path that becomes the file when the body is done (`shards.atomic`)."""


class PriorsError(Exception):
    """A file is damaged or of another version. `hint` names what to do next."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.hint = "roll back to a generation that verifies, and make a new one: moonlark night"
        super().__init__(f"{path}: {reason} (hint: {self.hint})")


@dataclass(frozen=True)
class Priors:
    """Immutable; shared between threads."""

    fusion: Fusion
    activity: Activity
    neighbours: Neighbours

    @cached_property
    def most_active(self) -> NDArray[np.int64]:
        """The union of the POOL most active items of each horizon, ascending. While nothing new
        happens this never changes: all sums of a horizon decay alike."""
        return most_active(self.activity.ordinals, self.activity.sums, POOL)

    @classmethod
    def open(cls, directory: Path, listed: Collection[str] | None = None) -> Priors | None:
        """Those of a generation, None where it has no fusion, or one of an older version: its lists
        are then ordered by cosine, until the next night. Raises PriorsError.

        `listed`: the files that its manifest names, and that were verified; what else lies in the
        folder is not opened. None: whatever is there, by the night that makes it.
        """
        path = directory / FUSION_NAME
        is_there = path.is_file() if listed is None else FUSION_NAME in listed
        if not is_there:
            return None
        with path.open("rb") as file:
            content = file.read(MAX_FUSION_BYTES + 1)
        if _is_older(content):
            log.warning("%s is of an older version: lists by cosine until the next night", path)
            return None
        if listed is not None and not FILES.keys() <= set(listed):
            raise PriorsError(path, f"the manifest lacks {sorted(FILES.keys() - set(listed))}")
        try:
            fusion = Fusion.model_validate_json(content)
        except ValidationError as error:
            raise PriorsError(path, str(error.errors()[0]["msg"])) from error
        ordinals, sums = _mapped(directory, ACTIVITY_FILES)
        at_ms = fusion.activity_hour * HOUR_MS
        activity = _made(directory / "activity.ordinals.npy", Activity, ordinals, sums, at_ms)
        beside = _mapped(directory, NEIGHBOURS_FILES)
        whole = _made(directory / "whole.items.npy", WholeHistory, *_mapped(directory, WHOLE_FILES))
        neighbours = _made(directory / "neighbours.offsets.npy", Neighbours, *beside, whole)
        return cls(fusion, activity, neighbours)

    def write(self, directory: Path, whole_file: WholeFile) -> None:
        """Write the files, `fusion.json` last."""
        beside, whole = self.neighbours, self.neighbours.whole
        arrays: tuple[NDArray[Any], ...] = (
            *(self.activity.ordinals, self.activity.sums),
            *(beside.offsets_S1, beside.ordinals_E, beside.weights_E2),
            *(whole.items_M, whole.factors_MK),
            *(whole.before_MJ, whole.late_items_C, whole.after_CJ),
        )
        for name, array in zip(FILES, arrays, strict=True):
            with whole_file(directory / name) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        with whole_file(directory / FUSION_NAME) as temporary:
            temporary.write_text(self.fusion.model_dump_json(indent=2) + "\n", encoding="utf-8")


class _Version(BaseModel):
    format_version: int


def _is_older(content: bytes) -> bool:
    try:
        return _Version.model_validate_json(content).format_version in OLDER_VERSIONS
    except ValidationError:
        return False  # `Fusion` says what is wrong with it


def _made(path: Path, kind: Callable[..., T], *arrays: Any) -> T:
    """Of these arrays, which `kind` checks: kernels do not."""
    try:
        return kind(*arrays)
    except ValueError as error:
        raise PriorsError(path, str(error)) from error


def _mapped(directory: Path, files: Mapping[str, tuple[str, int]]) -> list[NDArray[Any]]:
    return [_map(directory / name, *kind) for name, kind in files.items()]


def _map(path: Path, dtype: str, dimensions: int) -> NDArray[Any]:
    if not path.is_file():
        raise PriorsError(path, "is missing")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:  # bad magic, truncated, or an object array
        raise PriorsError(path, str(error)) from error
    if array.dtype != np.dtype(dtype) or array.ndim != dimensions:
        raise PriorsError(path, f"{array.dtype} {list(array.shape)}")
    # No memmap, of which each index costs microseconds of its own; and in C's order, whatever the
    # file's is: kernels know no other.
    return np.ascontiguousarray(array)
