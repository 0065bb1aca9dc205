"""Policies: put, read, delete, their limit, and the number that every snapshot carries."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine

from sql import policies as store
from sql.catalog import catalog_seq, put_items
from sql.engine import read_snapshot
from sql.errors import TooManyPolicies
from sql.event import SEEN_KINDS
from sql.ids import BadInput
from sql.policies import delete_policy, put_policy, read_policies, read_policy, read_policy_seq
from sql.policy import (
    MAX_POLICIES,
    POLICY,
    AttributeIs,
    BoostPolicy,
    PinPolicy,
    Policy,
    SeenPolicy,
)
from sql.snapshot import read_recommendation
from tests.contract.store_builder import item

PIN = PinPolicy(item_id="ä☃", position=3, category="c", starts_at_ms=5, ends_at_ms=9)
BOOSTS = [
    BoostPolicy(weight=-0.5, item_id="i"),
    BoostPolicy(weight=0.25, category=""),
    *(
        BoostPolicy(weight=1, attribute=AttributeIs(name="n", value=value))
        for value in (True, 1, 1.5, "1")
    ),
]
SEEN = SeenPolicy(category="news", kinds=("click", "purchase"), buy_again_after_days=0)


def seq_of(engine: Engine) -> int:
    return read_recommendation(engine, None, [], {}).policy_seq


def test_what_is_put_is_read_and_each_change_has_the_next_number(engine: Engine) -> None:
    bodies = [PIN, *BOOSTS, SEEN, SeenPolicy()]
    assert seq_of(engine) == 0
    for number, body in enumerate(bodies, start=1):
        assert put_policy(engine, f"p{number}", body, 7 + number) == (number, "created")
        assert seq_of(engine) == number
    with read_snapshot(engine) as conn:
        assert read_policies(conn) == [
            Policy(f"p{number}", body, number, 7 + number)
            for number, body in sorted(enumerate(bodies, start=1), key=lambda p: f"p{p[0]}")
        ]
        assert read_policy(conn, "p1") == Policy("p1", PIN, 1, 8)
        assert read_policy(conn, "p99") is None
        assert read_policy_seq(conn) == len(bodies)
    values = [b.attribute.value for b in BOOSTS if b.attribute]
    assert [type(value) for value in values] == [bool, int, float, str]


def test_the_same_again_is_no_change_and_another_body_replaces(engine: Engine) -> None:
    one = BoostPolicy(weight=1, attribute=AttributeIs(name="n", value=1))
    true = BoostPolicy(weight=1, attribute=AttributeIs(name="n", value=True))
    assert put_policy(engine, "p", one, 1) == (1, "created")
    assert put_policy(engine, "p", one, 2) == (1, "unchanged")
    assert put_policy(engine, "p", true, 3) == (2, "updated")  # 1 == True, in Python
    assert put_policy(engine, "p", SEEN, 4) == (3, "updated")
    with read_snapshot(engine) as conn:
        assert read_policies(conn) == [Policy("p", SEEN, 3, 4)]


def test_a_delete_has_a_number_too_and_twice_is_nothing(engine: Engine) -> None:
    put_policy(engine, "p", PIN, 1)
    assert delete_policy(engine, "other") is None
    assert delete_policy(engine, "p") == 2
    assert delete_policy(engine, "p") is None
    assert seq_of(engine) == 2
    with read_snapshot(engine) as conn:
        assert read_policies(conn) == []
    assert put_policy(engine, "p", PIN, 1) == (3, "created")


def test_policies_and_items_share_the_lock_and_not_the_numbers(engine: Engine) -> None:
    def write(number: int) -> int:
        if number % 2:
            return put_items(engine, [item(f"i{number}", "T")], number)[0].change_seq
        return put_policy(engine, f"p{number}", PIN, number).policy_seq

    with ThreadPoolExecutor(4) as pool:
        seqs = list(pool.map(write, range(20)))
    assert sorted(seqs[0::2]) == sorted(seqs[1::2]) == list(range(1, 11))
    with read_snapshot(engine) as conn:
        assert (read_policy_seq(conn), catalog_seq(conn)) == (10, 10)
        assert len(read_policies(conn)) == 10


def test_one_too_many_is_refused_and_an_edit_is_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_POLICIES == 1_000
    monkeypatch.setattr(store, "MAX_POLICIES", 3)
    for number in range(3):
        put_policy(engine, f"p{number}", PIN, 1)
    with pytest.raises(TooManyPolicies, match="moonlark unset"):
        put_policy(engine, "p3", PIN, 1)
    assert put_policy(engine, "p2", SEEN, 1).outcome == "updated"
    assert seq_of(engine) == 4


@pytest.mark.parametrize("policy_id", ["", "x" * 201, "a\n"])
def test_a_bad_id_is_refused(engine: Engine, policy_id: str) -> None:
    with pytest.raises(BadInput, match="policy_id"):
        put_policy(engine, policy_id, PIN, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"kind": "pin", "item_id": "i", "position": 0}, "position"),
        ({"kind": "pin", "item_id": "i", "position": 101}, "position"),
        ({"kind": "pin", "item_id": "", "position": 1}, "item_id"),
        ({"kind": "pin", "item_id": "i", "position": 1, "until": 5}, "until"),
        (
            {"kind": "pin", "item_id": "i", "position": 1, "starts_at_ms": 5, "ends_at_ms": 5},
            "ends_at must be after",
        ),
        ({"kind": "boost", "weight": 0.1}, "exactly one"),
        ({"kind": "boost", "weight": 0.1, "item_id": "i", "category": "c"}, "exactly one"),
        ({"kind": "boost", "weight": 1.1, "item_id": "i"}, "weight"),
        ({"kind": "boost", "weight": "NaN", "item_id": "i"}, "weight"),
        ({"kind": "boost", "weight": 0.1, "category": "a\0"}, "no NUL"),
        ({"kind": "seen", "kinds": ["hide"]}, "kinds"),
        ({"kind": "seen", "kinds": ["view", "view"]}, "each kind once"),
        ({"kind": "seen", "buy_again_after_days": -1}, "buy_again_after_days"),
        ({"kind": "push"}, "push"),
    ],
)
def test_a_body_that_says_nothing_sensible_is_refused(body: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        POLICY.validate_python(body)


def test_by_default_every_kind_that_is_seen_counts() -> None:
    assert set(SeenPolicy().kinds) == SEEN_KINDS


def test_in_force_from_its_start_until_before_its_end() -> None:
    assert [PIN.in_force(at_ms) for at_ms in (4, 5, 8, 9)] == [False, True, True, False]
    forever = PinPolicy(item_id="i", position=1)
    assert forever.in_force(0)
    assert forever.in_force(2**50)
