"""Where the data lives: read from the environment once, then passed down."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sql.errors import LedgerNotShared


class StoreSettings(BaseSettings):
    """Settings of the store, from variables that begin with `MOONLARK_`."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True, extra="forbid")

    database_url: str = "sqlite:///.moonlark/moonlark.db"
    """SQLAlchemy URL. `sqlite:///PATH` (embedded) or `postgresql://USER:PASSWORD@HOST/DB`."""

    artifact_root: Path = Path(".moonlark/artifacts")
    """Folder that holds the generations' files (weights, vectors, shards)."""

    artifact_uri: str | None = None
    """Object store that carries them between nodes (`s3://bucket/prefix?region=...`, `gs://...`,
    `file://...`); `artifact_root` is then each node's own. None: all nodes reach that folder."""

    ledger_root: Path | None = None
    """Folder of `erasures.jsonl` and `erasure.key`, one for all nodes. None: `artifact_root`, which
    must then be one for all nodes too."""

    @property
    def ledger_folder(self) -> Path:
        """Where the ledger of erasures lies.

        Raises:
            LedgerNotShared: each node would have a ledger and a key of its own.
        """
        if self.ledger_root is not None:
            return self.ledger_root.absolute()
        if self.artifact_uri is not None:
            raise LedgerNotShared
        return self.artifact_root.absolute()


class RetentionSettings(BaseSettings):
    """How long what users did is kept, in days; `never` is never deleted. The job applies it
    (`moonlark retain`)."""

    model_config = SettingsConfigDict(
        env_prefix="MOONLARK_RETAIN_", frozen=True, env_parse_none_str="never"
    )

    events_days: int | None = Field(None, ge=1)
    """Events, by when they were received. Dislikes and hides in force stay: the item they name must
    not come back."""

    text_days: int | None = Field(365, ge=1)
    """Searches and comments, with their vectors; the shorter of this and `events_days` counts."""

    exposures_days: int | None = Field(30, ge=1)
    """What was shown to whom."""

    activity_days: int | None = Field(90, ge=1)
    """Hourly counts of items, which name no user."""
