"""The rejects file: JSON Lines, one reason a line, so that the rows can be mended and sent again.

    {"line": 17, "field": "kind", "value": "viewed", "reason": "accepted: view, click, ...",
     "row": {"user_id": "u1", "item_id": "9", "kind": "viewed"}, "row_is_cut": false}

`line` is that of the file at which the row begins, from 1 (the header and blank lines are lines);
of Parquet it is the number of the row. `row` is the row as it was read: cells by column, a list
where there are not as many as columns, a text where it is no row at all. Of a long one it is the
beginning. It may name users: `moonlark erase --finish` deletes the file.

Reasons are kept until the end of the ingestion and the file is then read once more for the rows:
to hold the cells of all events until the last is stored would double its memory.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.ingest.pace import chunks
from infra.ingest.readers import Row
from sql.ids import BadInput

MAX_LINES = 100_000
"""Reasons that are written; beyond it rows are counted only (the file is for a person to read)."""
MAX_VALUE_CHARACTERS = 200
MAX_ROW_CHARACTERS = 4_000
"""Of a row as JSON. A longer one has its first cells, each cut as a value is."""
MAX_CUT_CELLS = 20
ROWS_AT_ONCE = 1_000

Cells = Mapping[str, Any]
MayBeShown = Callable[[Sequence[Cells]], Sequence[bool]]
"""Of rows that were read as cells: whether each may be written down."""


class Rejects:
    """Counts the rejected rows and writes their reasons to `path`, which is made when needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._count = 0
        self._reasons: dict[int, list[dict[str, object]]] = {}

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)  # the reasons of an earlier run
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the reasons whose rows were not read again (it broke off), without the rows."""
        for number in sorted(self._reasons):
            self._write(number, None)

    def add(self, number: int, reasons: Iterable[BadInput]) -> None:
        """Reject the row of that number, for one or more reasons."""
        self.rows += 1
        for reason in islice(reasons, MAX_LINES - self._count):
            self._count += 1
            self._reasons.setdefault(number, []).append(
                {
                    "field": reason.field,
                    "value": _shown(reason.value),
                    "reason": f"accepted: {reason.accepted}",
                }
            )

    def write(self, rows: Iterable[Row], may_be_shown: MayBeShown | None = None) -> None:
        """Write the reasons with their rows. `rows`: the file, read again from its beginning."""
        last = max(self._reasons, default=0)
        wanted = ((n, r) for n, r in takewhile(lambda row: row[0] <= last, rows) if self._has(n))
        for chunk in chunks(wanted, ROWS_AT_ONCE):
            cells = [{} if isinstance(read, BadInput) else read for _, read in chunk]
            shown = [True] * len(chunk) if may_be_shown is None else may_be_shown(cells)
            for (number, read), is_shown in zip(chunk, shown, strict=True):
                self._write(number, read, is_shown=is_shown)

    def _has(self, number: int) -> bool:
        return number in self._reasons

    def _write(self, number: int, read: Cells | BadInput | None, *, is_shown: bool = True) -> None:
        row, is_cut = _bounded(read.value if isinstance(read, BadInput) else read)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            for reason in self._reasons.pop(number):
                line = {"line": number, **reason, "row": row, "row_is_cut": is_cut}
                if not is_shown:
                    line |= {"value": None, "row": None, "row_is_cut": False}
                file.write(json.dumps(line) + "\n")


def _bounded(read: object) -> tuple[object, bool]:
    """What was read as JSON has it, and whether something of it is missing."""
    if isinstance(read, str):
        return read[:MAX_ROW_CHARACTERS], len(read) > MAX_ROW_CHARACTERS
    try:
        text = json.dumps(read, default=str, allow_nan=False)
        if len(text) <= MAX_ROW_CHARACTERS:
            return json.loads(text), False
    except (ValueError, TypeError):  # a NaN, a name that is no text
        pass
    if isinstance(read, Mapping):
        cells = islice(read.items(), MAX_CUT_CELLS)
        return {str(name)[:MAX_VALUE_CHARACTERS]: _shown(cell) for name, cell in cells}, True
    return [_shown(cell) for cell in read[:MAX_CUT_CELLS]] if isinstance(read, list) else None, True


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else repr(value)
    return text[:MAX_VALUE_CHARACTERS]
