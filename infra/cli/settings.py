"""Settings of the command line, from the environment once per command."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CliSettings(BaseSettings):
    """Variables that begin with `MOONLARK_`; the store and the night have settings of their own."""

    model_config = SettingsConfigDict(env_prefix="MOONLARK_", frozen=True)

    url: str = "http://127.0.0.1:8000"
    """Where the API answers."""

    api_key: SecretStr | None = None
    """Sent to the API as a bearer token."""

    timeout_s: float = Field(10.0, gt=0)
    """Bound of one call to the API, its retries included, seconds."""

    state_dir: Path = Path(".moonlark")
    """Folder of what the commands leave for each other: data sets, models, the local cluster."""
