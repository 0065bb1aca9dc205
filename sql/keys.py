"""API keys: who may ask for what. A key is shown once, when it is made; only its SHA-256 is kept.

A key has 256 random bits, so a plain digest is as safe as a slow one and costs a microsecond. Rows
of revoked keys stay: a server that once had a key never answers openly again.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from sql.errors import KeyNameTaken, UnknownKey
from sql.ids import BadInput
from sql.tables import api_keys
from sql.transactions import write

PREFIX = "ml_"
"""Lets secret scanners and people recognise a key."""

SCOPES = ("events:write", "recommend:read", "items:write", "admin")
"""`admin` includes the others, and what is personal: read, export and erase a user."""

MAX_KEYS = 1_000
"""In force at once: a replica holds them all in memory."""

MAX_RATE = 10_000_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. `requests_per_minute`: None is the server's default."""

    name: str
    scopes: frozenset[str]
    requests_per_minute: int | None
    created_at_ms: int
    revoked_at_ms: int | None
    key_sha256: str = field(repr=False)

    def allows(self, scope: str) -> bool:
        """Whether the key may do what needs `scope`."""
        return scope in self.scopes or "admin" in self.scopes


def new_secret() -> str:
    """A new key: the prefix and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: bytes) -> str:
    """What is stored of a key."""
    return hashlib.sha256(secret).hexdigest()


def make_key(
    engine: Engine,
    secret: str,
    *,
    name: str,
    scopes: Iterable[str],
    requests_per_minute: int | None = None,
    at_ms: int,
) -> ApiKey:
    """Enter the key `secret` under `name`.

    Raises:
        BadInput: a name, scope or rate that is not accepted, or too many keys.
        KeyNameTaken: a key of this name is in force.
    """
    made = ApiKey(
        name=_checked_name(name),
        scopes=_checked_scopes(scopes),
        requests_per_minute=_checked_rate(requests_per_minute),
        created_at_ms=at_ms,
        revoked_at_ms=None,
        key_sha256=digest_of(secret.encode()),
    )
    limits = {} if requests_per_minute is None else {"requests_per_minute": requests_per_minute}
    with write(engine) as conn:
        in_force = _active(conn)
        if any(key.name == name for key in in_force):
            raise KeyNameTaken(name)
        if len(in_force) >= MAX_KEYS:
            raise BadInput("keys", len(in_force) + 1, f"at most {MAX_KEYS} in force")
        conn.execute(
            insert(api_keys),
            {
                "key_sha256": made.key_sha256,
                "name": name,
                "scopes": " ".join(sorted(made.scopes)),
                "limits": json.dumps(limits),
                "created_at_ms": at_ms,
                "revoked_at_ms": None,
            },
        )
    return made


def revoke_key(engine: Engine, name: str, *, at_ms: int) -> None:
    """The key of this name is refused from now on (replicas: within 5 seconds).

    Raises `UnknownKey` where no key of this name is in force.
    """
    in_force = (api_keys.c.name == name) & api_keys.c.revoked_at_ms.is_(None)
    with write(engine) as conn:
        if not conn.execute(update(api_keys).where(in_force).values(revoked_at_ms=at_ms)).rowcount:
            raise UnknownKey(name)


def list_keys(conn: Connection) -> list[ApiKey]:
    """Every key that was ever made, the oldest first."""
    order = (api_keys.c.created_at_ms, api_keys.c.name)
    return [_key(row) for row in conn.execute(select(api_keys).order_by(*order))]


def read_keys(conn: Connection) -> tuple[bool, list[ApiKey]]:
    """(whether a key was ever made, the keys in force)."""
    ever = conn.execute(select(func.count()).select_from(api_keys)).scalar_one() > 0
    return ever, _active(conn) if ever else []


def _active(conn: Connection) -> list[ApiKey]:
    rows = conn.execute(select(api_keys).where(api_keys.c.revoked_at_ms.is_(None)))
    return [_key(row) for row in rows]


def _key(row: Any) -> ApiKey:
    return ApiKey(
        name=row.name,
        scopes=frozenset(row.scopes.split()),
        requests_per_minute=json.loads(row.limits).get("requests_per_minute"),
        created_at_ms=row.created_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        key_sha256=row.key_sha256,
    )


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput("name", name, "1 to 100 letters, digits, '.', '_' and '-'")
    return name


def _checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    given = frozenset(scopes)
    unknown = sorted(given - set(SCOPES))
    if unknown or not given:
        raise BadInput("scope", ", ".join(unknown), "one or more of " + ", ".join(SCOPES))
    return given


def _checked_rate(rate: int | None) -> int | None:
    if rate is not None and not 1 <= rate <= MAX_RATE:
        raise BadInput("rate", rate, f"1 to {MAX_RATE} requests per minute")
    return rate
