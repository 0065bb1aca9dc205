"""Which rejected rows may be written down: not those of users who were erased. A file that is
ingested again would otherwise leave behind what the erasure took away."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from infra.ingest.columns import Columns
from infra.ingest.values import as_text
from sql.engine import read_snapshot
from sql.erasure_ledger import ErasureKey
from sql.erasure_receipts import erased_before
from sql.ids import BadInput, is_id


class NotErased:
    """Of rows of a history: whether their user was never erased."""

    def __init__(self, engine: Engine, key: ErasureKey, columns: Columns) -> None:
        self._engine, self._key, self._columns = engine, key, columns

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """One answer a row; a row that names no user is shown."""
        hmacs = [self._hmac_of(row) for row in rows]
        with read_snapshot(self._engine) as conn:
            erased = erased_before(conn, {hmac for hmac in hmacs if hmac is not None})
        return [hmac not in erased for hmac in hmacs]

    def _hmac_of(self, row: Mapping[str, Any]) -> str | None:
        try:
            user_id = as_text("user_id", self._columns.pick(["user_id"], row).get("user_id"))
        except BadInput:
            return None
        return self._key.hmac_of(user_id) if is_id(user_id) else None
