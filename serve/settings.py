"""Settings of the day: what a replica is told once, when it starts."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from ray_jobs.encoders.bert_settings import BertSettings


class ServeSettings(BertSettings):
    """Read from the environment (`MOONLARK_...`) once, then passed down."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True)

    replicas: int = Field(2, ge=1, le=256)
    """Gateway replicas. Any of them answers any request: state is in the database."""

    max_replicas: int | None = Field(None, ge=1, le=256)
    """Gateway replicas at most: from `replicas` up to so many by load. None: always `replicas`."""

    replica_target_requests: float = Field(8.0, gt=0)
    """With `max_replicas`: requests at a time in each replica, on average, that Serve aims at. The
    local stack's HAProxy gives none more than 16."""

    upscale_delay_s: float = Field(10.0, ge=0)
    """With `max_replicas`: how long there must be more before replicas are added."""

    downscale_delay_s: float = Field(600.0, ge=0)
    """With `max_replicas`: how long there must be fewer before replicas are taken away."""

    shard_placement: Literal["replica", "deployments"] = "replica"
    """`replica`: each gateway replica holds all shards (one hop; for what fits in its memory).
    `deployments`: Serve deployments of their own hold them, and a list asks all of these."""

    shard_deployments: int = Field(2, ge=1, le=256)
    """With `deployments`: how many. Shard s of every generation is in the one numbered
    s % shard_deployments."""

    shard_replicas: int = Field(1, ge=1, le=64)
    """With `deployments`: replicas of each."""

    shard_replicas_per_node: int | None = Field(None, ge=1, le=64)
    """With `deployments`: of one deployment at most so many replicas on a node; 1 where the loss of
    a node shall take no shard away. None: as Ray spreads them."""

    shard_memory_bytes: int | None = Field(None, ge=1)
    """With `deployments`: memory that each shard replica asks Ray for (`moonlark size` tells it). A
    node takes as many as its memory holds; where none has room, one waits until a node joins."""

    shard_timeout_s: float = Field(0.5, gt=0, le=30)
    """With `deployments`: what one list waits for shards; those that did not answer are left out,
    and the list is marked `shard_gone`."""

    group_commit_ms: float = Field(1.0, ge=0, le=100)
    """How long concurrent event posts are gathered into one transaction, milliseconds."""

    group_commit_events: int = Field(2000, ge=1, le=10_000)
    """Most events in one transaction."""

    feedback_queue: int = Field(10_000, ge=1)
    """Events that may wait for a transaction in one replica; beyond it, 503 with Retry-After."""

    commit_timeout_s: float = Field(8.0, gt=0)
    """How long a post waits for its transaction; then 503, and whether it was stored is not known:
    the same again is harmless."""

    statement_timeout_s: float = Field(8.0, gt=0)
    """How long Postgres may take for one statement, waiting for a lock included; then the
    database counts as gone for that request."""

    watch_interval_s: float = Field(0.5, gt=0, le=10)
    """How often a replica looks for a new live pointer, staged generations and item changes."""

    session_cache: int = Field(50_000, ge=1)
    """Folded sessions kept in a replica's memory (about 4 kB each)."""

    write_back_after: int = Field(64, ge=1)
    """A folded tail longer than this many events is written back as a session row."""

    write_behind_queue: int = Field(20_000, ge=1)
    """Exposures and sessions waiting to be written; beyond it they are dropped and counted."""

    embed_timeout_s: float = Field(2.0, gt=0)
    """How long a post waits for BERT; then it goes on without (the fold embeds later)."""

    max_body_bytes: int = Field(2_000_000, ge=1_000)
    """Largest request body accepted; beyond it, 413."""

    max_held_body_bytes: int = Field(64_000_000, ge=1_000)
    """Bytes of bodies in one replica's memory at a time; beyond it, 503 with Retry-After."""

    body_timeout_s: float = Field(10.0, gt=0)
    """How long a body may take to arrive; then 408."""

    max_concurrent_requests: int = Field(256, ge=1, le=10_000)
    """Requests that run in one replica at a time; beyond it, 503 with Retry-After."""

    list_threads: int = Field(2, ge=1, le=256)
    """Threads of a replica that make lists. One is busy while another waits for the database or for
    faiss; more only take the interpreter's lock from each other."""

    distant_list_threads: int = Field(32, ge=1, le=256)
    """The same where the shards are in deployments of their own, for which a list waits."""

    require_keys: Literal["auto", "always"] = "auto"
    """`auto`: while no API key was ever made, everything is answered, but only on the loopback.
    `always`: without a key nothing is, from the start."""

    http_host: str | None = None
    """Where HTTP listens. `moonlark serve` says 127.0.0.1; not said counts as beyond it, and a
    server that can be reached from there does not start without keys."""

    keys_interval_s: float = Field(1.0, gt=0, le=4)
    """How often a replica reads the API keys: a revoked one is refused that much later."""

    keys_grace_s: float = Field(300.0, ge=5)
    """How long known keys go on while the database is away; then 503 with Retry-After."""

    key_requests_per_minute: int = Field(60_000, ge=1)
    """Requests of a key that has no rate of its own, per replica; beyond it, 429."""

    user_events_per_minute: int = Field(3_000, ge=500)
    """Events of one user, per replica; beyond it, 429. (10,000 a day is the store's bound.)"""

    user_lists_per_minute: int = Field(1_200, ge=100)
    """Lists for one user, per replica; beyond it, 429."""

    tracked_users: int = Field(100_000, ge=1_000)
    """Users whose rates a replica remembers (about 200 bytes each and rate)."""

    metrics_interval_s: float = Field(5.0, gt=0, le=10)
    """How often a replica reads what it tells Prometheus of the registry and the live generation.
    Ray forgets a gauge that was not set for twice its `metrics_report_interval_ms` (10 s)."""

    log: Literal["text", "json"] = "text"
    """`json`: a line of JSON for each request, without anything personal (`serve.request_log`)."""

    @model_validator(mode="after")
    def _from_few_to_many(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        return self
