"""A generation as the registry keeps it, and what is kept beside its figures.

building -> sealed -> staged -> published        failed: any state before it was published
                                                 pruned: its files are gone
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

State = Literal["building", "sealed", "staged", "published", "failed", "pruned"]

VERIFIED = "verified"
"""Among the metrics of a generation that was looked at while it was live."""
REPORTED_AT = "reported_at_ms"
"""Among the metrics of a generation that is building."""
UNFINISHED = "unfinished"
"""Among the metrics of a generation whose night broke off after the publish, until it goes on."""
WATERMARK = "watermark"
"""Among the metrics of a sealed generation: what its night read (`ray_jobs.nightly.rebuild`)."""
REBUILDS = "rebuilds"
"""Among the metrics of a past night made again, or in its watermark: the original's id."""


class Verified(NamedTuple):
    """What the hourly look at the live generation found (`ray_jobs.nightly.verify_live`).

    `recall`: recall@100 of its shards now; None where its files were broken before. `broken`: what
    is wrong with its files or its recall; None: nothing.
    """

    recall: float | None
    broken: str | None
    at_ms: int


class Unfinished(NamedTuple):
    """Which step after the publish failed, and why. `is_tried_again`: by Airflow, so that nobody is
    called for it yet."""

    step: str
    reason: str
    at_ms: int
    is_tried_again: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """A registered generation. `catalog_seq`: its watermark of the catalog."""

    generation_id: str
    state: State
    encoder_id: str
    catalog_seq: int
    event_count: int
    user_count: int
    metrics: Mapping[str, Any]
    manifest_digest: str | None
    created_at_ms: int
    failed_reason: str | None

    @property
    def reported_at_ms(self) -> int:
        """When a step of its night last began or ended; before the first, when it was entered."""
        reported_at_ms: int = self.metrics.get(REPORTED_AT, self.created_at_ms)
        return reported_at_ms

    @property
    def verified(self) -> Verified | None:
        """The last look at it while it was live; None before the first."""
        told = self.metrics.get(VERIFIED)
        return None if told is None else Verified(**told)

    @property
    def unfinished(self) -> Unfinished | None:
        """Where its night stands since a step after the publish failed; None where none did."""
        told = self.metrics.get(UNFINISHED)
        return None if told is None else Unfinished(**told)

    @property
    def is_rebuild(self) -> bool:
        """Whether it is a past night made again, for whoever asked for that."""
        return REBUILDS in self.metrics or REBUILDS in self.metrics.get(WATERMARK, {})


class Parity(NamedTuple):
    """How far the day's user vectors are from the night's, when it was last measured.

    `max_abs_diff`: of a coordinate of a unit vector, over `users`; None where there were none.
    `canary_min_cosine`: of a text embedded again to its stored vector, over `canary_texts`.
    """

    max_abs_diff: float | None
    users: int
    canary_min_cosine: float | None
    canary_texts: int
    at_ms: int


class Artifact(NamedTuple):
    """A file of a generation, `path` relative to its folder."""

    path: str
    sha256: str
    size_bytes: int
