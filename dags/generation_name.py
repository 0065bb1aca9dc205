"""The name of the generation that a run of the night makes. Pure."""

import hashlib
from datetime import UTC, datetime

STAMP_FORMAT = "%Y%m%dT%H%M%SZ"


def generation_id(run_id: str, stamp: datetime) -> str:
    """`g<UTC stamp>-<6 hex of the run id>`: the same for every task and every retry of a run.

    Raises:
        ValueError: `stamp` has no time zone.
    """
    digest = hashlib.blake2b(run_id.encode(), digest_size=3).hexdigest()
    return night_prefix(stamp) + digest


def night_prefix(stamp: datetime) -> str:
    """`g<UTC stamp>-`: how the ids of all generations of that logical date begin.

    Raises:
        ValueError: `stamp` has no time zone.
    """
    if stamp.tzinfo is None:
        raise ValueError(f"stamp: {stamp!r}, accepted: a datetime with a time zone")
    return f"g{stamp.astimezone(UTC).strftime(STAMP_FORMAT)}-"
