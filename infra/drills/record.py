"""What the clients asked, what was acknowledged and what was answered. Thread-safe."""

import threading
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["event", "item", "recommend", "similar"]


class Timing(NamedTuple):
    """One request. Times in `time.monotonic` seconds."""

    kind: Kind
    at_s: float
    seconds: float
    is_answered: bool = True


class Ack(NamedTuple):
    """An event that was acknowledged."""

    user_id: str
    event_id: str
    user_seq: int
    at_ms: int = 0
    """When its client had the acknowledgement, by the wall clock."""


class ItemAck(NamedTuple):
    """An item change that was acknowledged."""

    item_id: str
    op: Literal["put", "delete"]
    title: str | None
    catalog_seq: int
    at_ms: int = 0


class Answer(NamedTuple):
    """A list, and what had been acknowledged to its client (events) and to anyone (items) when it
    was asked for."""

    user_id: str
    k: int
    generation: str
    user_seq: int
    catalog_seq: int
    items: tuple[tuple[str, float], ...]
    basis: str
    degraded: tuple[str, ...]
    least_user_seq: int
    least_catalog_seq: int
    as_of_ms: int = 0
    """Of an answer without the database: up to when it reflects what was acknowledged."""
    shards_missing: tuple[int, ...] = ()
    """Numbers of the shards that it was made without."""


@dataclass
class Record:
    """Grows for as long as the clients run; read when they have ended."""

    timings: list[Timing] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    item_acks: list[ItemAck] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    refused: list[Kind] = field(default_factory=list)
    """503 or 429 with Retry-After, where the scenario allows them."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _catalog_seq: int = 0

    @property
    def catalog_seq(self) -> int:
        """The last item change that anyone was told of."""
        return self._catalog_seq

    def acked_item(self, ack: ItemAck) -> None:
        """An item change is in force from here on, for every client."""
        with self._lock:
            self.item_acks.append(ack)
            self._catalog_seq = max(self._catalog_seq, ack.catalog_seq)

    def failed(self, what: str) -> None:
        """A request that was not answered as it should be."""
        with self._lock:
            self.failures.append(what)
