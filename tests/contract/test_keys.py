"""API keys in the store: made once, revoked for good, bounded, and never readable again."""

import pytest
from sqlalchemy import Engine, select

from sql.engine import read_snapshot
from sql.errors import KeyNameTaken, UnknownKey
from sql.ids import BadInput
from sql.keys import (
    PREFIX,
    SCOPES,
    ApiKey,
    digest_of,
    list_keys,
    make_key,
    new_secret,
    read_keys,
    revoke_key,
)
from sql.tables import api_keys


def in_force(engine: Engine) -> tuple[bool, dict[str, ApiKey]]:
    with read_snapshot(engine) as conn:
        ever, keys = read_keys(conn)
    return ever, {key.name: key for key in keys}


def test_a_key_is_made_found_by_its_digest_and_revoked_for_good(engine: Engine) -> None:
    assert in_force(engine) == (False, {})
    secret = new_secret()
    made = make_key(
        engine, secret, name="shop", scopes=["events:write"], requests_per_minute=7, at_ms=1
    )
    make_key(engine, new_secret(), name="ops", scopes=["admin", "admin"], at_ms=2)
    ever, keys = in_force(engine)
    assert (ever, keys["shop"], keys["shop"].requests_per_minute) == (True, made, 7)
    assert keys["shop"].key_sha256 == digest_of(secret.encode())
    revoke_key(engine, "shop", at_ms=3)
    ever, keys = in_force(engine)
    assert (ever, set(keys)) == (True, {"ops"})
    revoke_key(engine, "ops", at_ms=4)
    assert in_force(engine) == (True, {}), "the server does not open because the last one went"
    with read_snapshot(engine) as conn:
        assert [(key.name, key.revoked_at_ms) for key in list_keys(conn)] == [
            ("shop", 3),
            ("ops", 4),
        ]


def test_a_name_is_one_key_in_force_and_free_again_when_revoked(engine: Engine) -> None:
    make_key(engine, new_secret(), name="a", scopes=["admin"], at_ms=1)
    with pytest.raises(KeyNameTaken, match="moonlark keys revoke a"):
        make_key(engine, new_secret(), name="a", scopes=["admin"], at_ms=2)
    revoke_key(engine, "a", at_ms=3)
    with pytest.raises(UnknownKey, match="moonlark keys list"):
        revoke_key(engine, "a", at_ms=4)
    make_key(engine, new_secret(), name="a", scopes=["recommend:read"], at_ms=5)
    assert in_force(engine)[1]["a"].scopes == {"recommend:read"}


@pytest.mark.parametrize(
    ("field", "given"),
    [
        *(("name", {"name": name}) for name in ("", "a b", "-a", "a\n", "é", "x" * 101)),
        *(("scope", {"scopes": scopes}) for scopes in ([], ["read"], ["admin", "events:*"])),
        *(("rate", {"requests_per_minute": rate}) for rate in (0, -1, 10**9)),
    ],
)
def test_what_is_not_accepted_is_named(
    engine: Engine, field: str, given: dict[str, object]
) -> None:
    with pytest.raises(BadInput) as caught:
        make_key(engine, new_secret(), **{"name": "a", "scopes": ["admin"], "at_ms": 1, **given})
    assert caught.value.field == field
    assert in_force(engine) == (False, {})


def test_there_are_no_more_keys_than_a_replica_holds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.keys.MAX_KEYS", 2)
    for name in "ab":
        make_key(engine, new_secret(), name=name, scopes=["admin"], at_ms=1)
    with pytest.raises(BadInput, match="at most 2"):
        make_key(engine, new_secret(), name="c", scopes=["admin"], at_ms=1)


def test_a_secret_has_256_bits_is_recognised_and_is_not_stored(engine: Engine) -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(s) == len(PREFIX) + 43 and s.startswith(PREFIX) for s in secrets)
    secret = secrets.pop()
    key = make_key(engine, secret, name="a", scopes=SCOPES, at_ms=1)
    with read_snapshot(engine) as conn:
        (row,) = conn.execute(select(api_keys)).all()
    assert secret not in repr(row)
    assert key.key_sha256 not in repr(key)


def test_admin_includes_the_others_and_no_other_does() -> None:
    for has in SCOPES:
        key = ApiKey("a", frozenset([has]), None, 1, None, "digest")
        assert {scope for scope in SCOPES if key.allows(scope)} == (
            set(SCOPES) if has == "admin" else {has}
        )
