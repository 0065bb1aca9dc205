"""The store as the environment names it, opened and checked: what most commands begin with."""

import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from sql.engine import check_schema, open_engine
from sql.settings import StoreSettings


@dataclass(frozen=True, slots=True)
class Store:
    """An open database and the folder of the generations."""

    engine: Engine
    artifact_root: Path


def open_store() -> Store:
    """Raises a `StoreError` where the database is absent, unsafe or behind."""
    settings = StoreSettings()
    engine = open_engine(settings.database_url)
    check_schema(engine)
    return Store(engine, settings.artifact_root)


def absolute_environment() -> dict[str, str]:
    """The store's settings for processes that may run in another folder."""
    settings = StoreSettings()
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).resolve()))
    return {
        "MOONLARK_DATABASE_URL": url.render_as_string(hide_password=False),
        "MOONLARK_ARTIFACT_ROOT": str(settings.artifact_root.resolve()),
    }


def now_ms() -> int:
    """Wall clock in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
