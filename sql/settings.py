"""Where the data lives: read from the environment once, then passed down."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """Settings of the store, from variables that begin with `MOONLARK_`."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True, extra="forbid")

    database_url: str = "sqlite:///.moonlark/moonlark.db"
    """SQLAlchemy URL. `sqlite:///PATH` (embedded) or `postgresql://USER:PASSWORD@HOST/DB`."""

    artifact_root: Path = Path(".moonlark/artifacts")
    """Folder that holds the generations' files (weights, vectors, shards)."""
