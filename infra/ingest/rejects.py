"""The rejects file: JSON Lines, one reason a line, so that the rows can be mended and sent again.

    {"row": 17, "field": "kind", "value": "viewed", "reason": "accepted: view, click, ..."}

`row` counts from 1; in a CSV file the header is not counted.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from sql.ids import BadInput

MAX_LINES = 100_000
"""Reasons that are written; beyond it rows are counted only (the file is for a person to read)."""
MAX_VALUE_CHARACTERS = 200


class Rejects:
    """Counts the rejected rows and writes their reasons to `path`, which is made when needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._lines = 0
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)  # the reasons of an earlier run
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: int, reasons: Iterable[BadInput]) -> None:
        """Reject a row, for one or more reasons."""
        self.rows += 1
        for reason in reasons:
            if self._lines >= MAX_LINES:
                return
            self._lines += 1
            self._write(
                {
                    "row": row,
                    "field": reason.field,
                    "value": _shown(reason.value),
                    "reason": f"accepted: {reason.accepted}",
                }
            )

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
        self._file.write(json.dumps(line) + "\n")


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else repr(value)
    return text[:MAX_VALUE_CHARACTERS]
