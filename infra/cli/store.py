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
    """An open database, the folder of the generations, and the object store that carries them."""

    engine: Engine
    artifact_root: Path
    artifact_uri: str | None = None
    ledger_root: Path | None = None

    @property
    def ledger_folder(self) -> Path:
        """Where the ledger of erasures lies. Raises LedgerNotShared: `sql.settings`."""
        return StoreSettings(
            artifact_root=self.artifact_root,
            artifact_uri=self.artifact_uri,
            ledger_root=self.ledger_root,
        ).ledger_folder


def open_store() -> Store:
    """Raises a `StoreError` where the database is absent, unsafe or behind."""
    settings = StoreSettings()
    engine = open_engine(settings.database_url)
    check_schema(engine)
    return Store(engine, settings.artifact_root, settings.artifact_uri, settings.ledger_root)


def absolute_environment() -> dict[str, str]:
    """The store's settings for processes that may run in another folder."""
    settings = StoreSettings()
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).resolve()))
    uri, ledger = settings.artifact_uri, settings.ledger_root
    return {
        "MOONLARK_DATABASE_URL": url.render_as_string(hide_password=False),
        "MOONLARK_ARTIFACT_ROOT": str(settings.artifact_root.resolve()),
        **({} if uri is None else {"MOONLARK_ARTIFACT_URI": uri}),
        **({} if ledger is None else {"MOONLARK_LEDGER_ROOT": str(ledger.resolve())}),
    }


def now_ms() -> int:
    """Wall clock in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
