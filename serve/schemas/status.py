"""What an on-call looks at first."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field


class LiveAnswer(BaseModel):
    """The live pointer and who moved it last."""

    generation: str
    previous: str | None
    flip: int
    who: str
    why: str
    at: AwareDatetime
    hold: bool


class LoadedAnswer(BaseModel):
    """A generation in this replica's memory."""

    generation: str
    items: int
    shards: int
    generation_events: int = Field(description="of the log when it was exported: its watermark")
    generation_catalog_seq: int
    catalog_seq: int
    behind_ms: int = Field(
        0, description="for how long the oldest change of an item waits to be applied here"
    )
    delta_items: int
    masked_items: int
    unembedded_items: int


class ParityAnswer(BaseModel):
    """How far the day's user vectors are from the night's, when it was last measured."""

    max_abs_diff: float | None = Field(description="of a coordinate of a unit vector; at most 1e-5")
    users: int
    canary_min_cosine: float | None = Field(
        description="of a text embedded again to its stored vector; at least 0.9999"
    )
    canary_texts: int
    at: AwareDatetime


class ReplicaAnswer(BaseModel):
    """A replica that holds a fresh lease."""

    replica_id: str
    ready: list[str]
    heartbeat_age_ms: int


class StatusAnswer(BaseModel):
    """What an on-call looks at first."""

    live: LiveAnswer | None
    catalog_seq: int
    events: int
    users: int
    replica: str
    loaded: list[LoadedAnswer]
    refused: dict[str, str] = Field(description="generations this replica would not load, and why")
    replicas: list[ReplicaAnswer]
    write_behind_dropped: int
    write_behind_dropped_at: AwareDatetime | None = Field(None, description="the first of them")
    troubles: dict[str, AwareDatetime] = Field(
        default_factory=dict,
        description="since when: `errors` (5xx), `slow_lists`, `slow_events` and the marks of this "
        "replica's lists, of those met within five minutes",
    )
    recent: dict[str, tuple[int, int]] = Field(
        default_factory=dict,
        description="of this replica, in the last five minutes: how many ended, and how many of "
        "them were `errors` (requests), `slow_lists` (0.5 s), `slow_events` (1 s until lists "
        "reflect them)",
    )
    keys: Literal["none", "required"] = Field(
        description="`none`: no API key was ever made, everything is answered, on this machine only"
    )
    parity: ParityAnswer | None = Field(None, description="of the live generation")
