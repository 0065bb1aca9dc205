"""The sizing formula: memory and CPU for N items, U users, D dimensions and R lists a second.

What a replica holds follows from the formats (FORMAT.md, `session`, `item_block`): so many bytes an
item, a text, a user. What does not follow from them (interpreter and libraries, Ray, the CPU of a
request) is measured: `Floors`; `infra.bench.growth` measures it anew and holds the formula against
the memory of processes that hold generations of several sizes. `moonlark size` prints it.

A generation is `private` where each replica has its own copy, `mapped` where it is pages of files
that the replicas of a node share; mapped pages count as all touched, which a day of requests does.
"""

import math
from dataclasses import dataclass, replace

from ray_jobs.ranking.activity import HORIZONS_DAYS
from ray_jobs.ranking.whole_history import FACTORS, LATE_FACTORS, LATE_ITEMS, MOST_ITEMS
from ray_jobs.shards.placement import choose_family, choose_shard_count
from sql.engine import CACHE_KIB

STRING_COLUMNS = 5
"""Of items.parquet: id, title, category, attributes, digest; 64-bit offsets in memory."""
DIGEST_BYTES = 32
ITEM_COLUMNS_BYTES = 8 + 8 + 8 + 8 + 8 + 8 + 4 + 4 + 1 + 1
"""ordinal (twice), published (twice), newest first, event count, category code, former ordinals,
available (bits and bytes)."""
ARRAY_BYTES = 112
"""A numpy array's own."""
SESSION_OBJECTS_BYTES = 8 * ARRAY_BYTES + 700
"""Eight arrays, the two objects around them, the key and its place in the cache."""
SESSION_HEADER_BYTES = 44
RECENT = 50
USED = 0.6
"""Of a core, on average: beyond, waiting times grow faster than the load."""


@dataclass(frozen=True)
class Ask:
    """What is to be served."""

    items: int
    users: int = 0
    dim: int = 128
    rate: float = 0.0
    """Lists a second."""
    text_dim: int = 384
    item_bytes: float = 100.0
    """Of id, title, category and attributes as JSON together, UTF-8."""
    neighbours: float = 100.0
    """Entries an item; 200 at most (100 by each of two measures)."""
    residual_share: float = 0.2
    """Of items with at least `residual_min_events` events."""
    active_share: float = 0.5
    """Of items ever acted on."""
    seen: int = 50
    """Distinct items that a user saw."""
    events: int = 60
    """Of a user, in the log."""
    cached_users: int = 50_000
    """`MOONLARK_SESSION_CACHE`."""
    delta: int = 0
    """Items changed since the night."""
    shard_deployments: int = 0
    """Of shards apart from the gateways (`MOONLARK_SHARD_PLACEMENT=deployments`); 0: none."""


@dataclass(frozen=True)
class Floors:
    """What is measured and not calculated: by default as on 2 shared cores, of which other
    processes had their part."""

    replica_private: int = 188 << 20
    """A gateway replica before its first generation."""
    replica_mapped: int = 67 << 20
    """Libraries and the like, as its share."""
    first_private: int = 54 << 20
    """Once a process, beside the bytes of what it reads: pyarrow's readers, and what its allocator
    keeps of what it decoded. Less below 10,000 items, more above 100,000; this is the least squares
    of the relative error from 10,000 to 1,000,000."""
    first_mapped: int = 13 << 20
    """The libraries that the first read loads: 17 where no other process has them, 10 where some
    do."""
    page_caches: int = 4 * CACHE_KIB << 10
    """SQLite's, of the connections that a busy replica uses; with Postgres it has none. Four is
    what the replicas of `serve` have beside all else that is counted here."""
    shard_server: int = 410 << 20
    """The process of a shard deployment: what a gateway was counted with until 2026-11-30, for it
    was not measured apart."""
    encoder: int = 540 << 20
    """The process that holds MiniLM."""
    ray: int = 1_220 << 20
    """All else of a node: GCS, raylet, dashboard, agents, Serve's controller, HAProxy."""
    request_cpu_s: float = 4.6e-3
    """Of a list under 16 clients, Serve's and HAProxy's part included, without the search. `serve`
    measured 3.4 at 100,000 items on the fastest processor that was at hand, 8.5 on the slowest."""
    search_cpu_s: float = 250e-6
    """Of a search of next to nothing."""
    byte_cpu_s: float = 1.5e-10
    """Of a byte that a search reads."""
    event_bytes: float = 140.0
    """In the database, with its indexes."""


@dataclass(frozen=True)
class Bytes:
    """Of one thing in memory."""

    private: float
    mapped: float = 0.0

    @property
    def all(self) -> float:
        """Both."""
        return self.private + self.mapped


def generation_parts(ask: Ask) -> dict[str, Bytes]:
    """What a replica holds of one generation, by part."""
    n, d, choice = ask.items, ask.dim, choose_family(ask.items)
    shards = choose_shard_count(n)
    centroids = choice.nlist * d * 4
    whole, late = min(n, MOST_ITEMS), min(n, LATE_ITEMS)
    if choice.family == "Flat":
        # Read, not mapped: vectors and ids; then where each ordinal lies, and all ordinals.
        index = Bytes(n * (4 * d + 8) + n * (8 + 4) + n * 8)
    else:
        views = shards * choice.nlist * 3 * ARRAY_BYTES
        own = (1 + 1) * centroids + views  # coarse.faiss, and the delta's copy of it
        index = Bytes(n * (8 + 4) + n * 8 + own, n * (2 * d + 8) + shards * centroids)
    if ask.shard_deployments:
        # Elsewhere (`shard_server_bytes`). Here: rows of ordinals, the centroids and their copy.
        index = Bytes(n * 4 + 2 * centroids)
    strings = ask.item_bytes + DIGEST_BYTES + 8 * STRING_COLUMNS
    return {
        "index": index,
        "items": Bytes(n * (strings + ITEM_COLUMNS_BYTES)),
        "texts": Bytes(0, n * (DIGEST_BYTES + 4 * ask.text_dim)),
        "residuals": Bytes(n * ask.residual_share * (4 * d + 8)),
        "neighbours": Bytes(0, n * (8 + ask.neighbours * (4 + 4))),
        "whole_history": Bytes(0, 4 * (whole * (FACTORS + LATE_FACTORS) + late * LATE_FACTORS)),
        "activity": Bytes(0, n * ask.active_share * (8 + 4 * len(HORIZONS_DAYS))),
        "delta": Bytes(ask.delta * (2 * d + 8 + 8 + 4) + ask.delta * (strings + 60)),
    }


def generation_bytes(ask: Ask) -> Bytes:
    """What a replica holds of one generation."""
    parts = generation_parts(ask).values()
    return Bytes(sum(part.private for part in parts), sum(part.mapped for part in parts))


def session_bytes(ask: Ask) -> float:
    """A user's session as it is stored (`session`): weights are of H = D, pooling keeps nothing."""
    return SESSION_HEADER_BYTES + 2 * 4 * ask.dim + 9 * ask.seen + 8 * min(ask.seen, RECENT)


def cached_session_bytes(ask: Ask) -> float:
    """A user's session in a replica's cache: with times of purchase, and Python's own."""
    return session_bytes(ask) + 8 * ask.seen + SESSION_OBJECTS_BYTES


def search_bytes(ask: Ask) -> float:
    """What one search reads: the centroids, and the lists it probes, or all where it is Flat."""
    choice = choose_family(ask.items)
    if choice.family == "Flat":
        return float(ask.items * (4 * ask.dim + 8))
    probed = ask.items * choice.nprobe / choice.nlist
    return choice.nlist * ask.dim * 4 + probed * (2 * ask.dim + 8)


@dataclass(frozen=True)
class Size:
    """What `ask` needs. Bytes; `cores` for lists alone, not for events nor the night."""

    generation: Bytes
    sessions: float
    """The session cache of one replica."""
    replica: Bytes
    """One gateway replica with its two generations (the live one and the one before)."""
    switching: Bytes
    """The same while a third is loaded."""
    replicas: int
    node: float
    """One node with all replicas, the encoder and Ray, while the generation switches."""
    list_cpu_s: float
    cores: float
    database: float
    """The log, and the sessions of two generations."""


KEPT = 2
"""Generations that a replica holds: back in seconds."""


def cache_bytes(ask: Ask) -> float:
    """The session cache of one replica, when all who fit in it were there."""
    return min(ask.users, ask.cached_users) * cached_session_bytes(ask)


def process_bytes(before: Bytes, one: Bytes, generations: int, floors: Floors) -> Bytes:
    """A process that had `before`, and then read so many generations of `one` each."""
    return Bytes(
        before.private + floors.first_private + generations * one.private,
        before.mapped + floors.first_mapped + generations * one.mapped,
    )


def replica_bytes(ask: Ask, generations: int, floors: Floors) -> Bytes:
    """One gateway replica that holds so many generations."""
    own = floors.replica_private + floors.page_caches + cache_bytes(ask)
    before = Bytes(own, floors.replica_mapped)
    return process_bytes(before, generation_bytes(ask), generations, floors)


def size(ask: Ask, floors: Floors | None = None) -> Size:
    """Apply the formula.

    Raises:
        ValueError: a number that cannot be.
    """
    if ask.items < 1 or ask.dim < 1 or ask.users < 0 or ask.rate < 0:
        raise ValueError(
            f"items {ask.items} and dimensions {ask.dim} must be at least 1, users {ask.users} and "
            f"rate {ask.rate} not below 0"
        )
    known = floors or Floors()
    one = generation_bytes(ask)
    held = [replica_bytes(ask, count, known) for count in (KEPT, KEPT + 1)]
    cpu_s = known.request_cpu_s + known.search_cpu_s + search_bytes(ask) * known.byte_cpu_s
    cores = ask.rate * cpu_s / USED
    replicas = max(2, round(cores + 0.5))
    log = ask.events * known.event_bytes
    return Size(
        generation=one,
        sessions=cache_bytes(ask),
        replica=held[0],
        switching=held[1],
        replicas=replicas,
        node=known.ray + known.encoder + replicas * held[1].private + held[1].mapped,
        list_cpu_s=cpu_s,
        cores=cores,
        database=ask.users * (log + KEPT * session_bytes(ask)),
    )


def shard_server_bytes(ask: Ask, floors: Floors | None = None) -> Bytes:
    """A replica of the fullest of `ask.shard_deployments`, while it switches: what it asks Ray for
    (`MOONLARK_SHARD_MEMORY_BYTES`). Whole shards are dealt out, of which there are then to be as
    many as deployments at least (`MOONLARK_SHARDS`)."""
    known, deployments = floors or Floors(), ask.shard_deployments
    index = generation_parts(replace(ask, shard_deployments=0))["index"]
    shards = max(deployments, choose_shard_count(ask.items))
    share = (KEPT + 1) * math.ceil(shards / deployments) / shards
    return Bytes(known.shard_server + share * index.private, share * index.mapped)
