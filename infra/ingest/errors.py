"""What can stop an ingestion. A bad row does not: it goes to the rejects file (see `rejects`).

IngestError
|-- UnreadableFile    absent, of an unknown format, or damaged
|-- BadColumns        the mapping and the file do not fit together
|-- TooManyEvents     more than are sorted in memory
`-- EncoderMismatch   our BERT is not the one of the live generation
"""

from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 100
"""Columns that a message names."""


class IngestError(Exception):
    """Base of the tree. `hint` names what to do next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class UnreadableFile(IngestError):
    """`path` cannot be read as rows."""

    def __init__(self, path: Path, reason: str, *, hint: str) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path


class BadColumns(IngestError):
    """An option about columns is malformed, or names what is not there."""

    def __init__(self, what: str, accepted: Sequence[str] | str) -> None:
        names = [accepted] if isinstance(accepted, str) else list(accepted)
        more = f", and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
        listed = ", ".join(names[:MAX_LISTED]) + more
        super().__init__(f"{what}; accepted: {listed}", hint="see `moonlark ingest --help`")


class TooManyEvents(IngestError):
    """The file at `path` has more events than are sorted in memory."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(
            f"{path}: more than {limit:,} events",
            hint="split it by time and ingest the oldest part first",
        )
        self.path, self.limit = path, limit


class EncoderMismatch(IngestError):
    """New items would get vectors that the live generation cannot compare."""

    def __init__(self, generation_id: str, live: str, ours: str) -> None:
        super().__init__(
            f"generation {generation_id} is of encoder {live}, this BERT is {ours}",
            hint="set MOONLARK_BERT_MODEL and MOONLARK_BERT_PRECISION as the night has them",
        )
        self.generation_id, self.live, self.ours = generation_id, live, ours
