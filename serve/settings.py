"""Settings of the day: what a replica is told once, when it starts."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServeSettings(BaseSettings):
    """Read from the environment (`MOONLARK_...`) once, then passed down."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True)

    replicas: int = Field(2, ge=1, le=256)
    """Gateway replicas. Any of them answers any request: state is in the database."""

    bert_model: str | None = None
    """Hugging Face BERT that embeds texts online: a folder, a hub name, or the default MiniLM.
    Must be the one the night uses, else promise 3 (online equals batch) breaks."""

    group_commit_ms: float = Field(3.0, ge=0, le=100)
    """How long concurrent event posts are gathered into one transaction, milliseconds."""

    group_commit_events: int = Field(2000, ge=1, le=10_000)
    """Most events in one transaction."""

    feedback_queue: int = Field(10_000, ge=1)
    """Events that may wait for a transaction in one replica; beyond it, 503 with Retry-After."""

    watch_interval_s: float = Field(0.5, gt=0, le=10)
    """How often a replica looks for a new live pointer, staged generations and item changes."""

    session_cache: int = Field(50_000, ge=1)
    """Folded sessions kept in a replica's memory (about 2 kB each)."""

    write_back_after: int = Field(64, ge=1)
    """A folded tail longer than this many events is written back as a session row."""

    write_behind_queue: int = Field(20_000, ge=1)
    """Exposures and sessions waiting to be written; beyond it they are dropped and counted."""

    embed_timeout_s: float = Field(2.0, gt=0)
    """How long a post waits for BERT; then it goes on without (the fold embeds later)."""

    max_body_bytes: int = Field(2_000_000, ge=1_000)
    """Largest request body accepted; beyond it, 413."""
