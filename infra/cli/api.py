"""The API as the commands reach it: by the environment's settings."""

from infra.cli.settings import CliSettings
from infra.client import Moonlark


def open_api(url: str | None = None) -> Moonlark:
    """A client of the API at `url`, default MOONLARK_URL; to be used in a `with`."""
    settings = CliSettings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return Moonlark(url or settings.url, timeout_s=settings.timeout_s, api_key=key)
