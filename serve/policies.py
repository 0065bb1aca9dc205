"""The policies in force for an answer: pins, boosts, and what counts as seen.

A replica keeps what it read last. Each snapshot says which `policy_seq` and `catalog_seq` it is of;
where what is kept is older, it is read again before the answer is made.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.encoders.config import SEEN_BITS
from ray_jobs.encoders.session import Session
from ray_jobs.ranking.boosts import Targets, boost_groups, total_boosts
from ray_jobs.ranking.rerank import Pin
from ray_jobs.ranking.seen import Seen, SeenRule, hidden_as_seen
from ray_jobs.shards.items import ItemTable
from serve.loaded_generation import CatalogView
from serve.problems import unavailable
from sql import catalog
from sql.engine import read_snapshot
from sql.policies import read_policies, read_policy_seq
from sql.policy import DAY_MS, BoostPolicy, PinPolicy, Policy, SeenPolicy

KEPT_BOOSTS = 4
"""Catalog views whose boosts are kept: five bytes an item and view."""

NO_ORDINALS: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Boosts:
    """What is added to the score of which items of one view. S = ordinals.

    `direct`: sorted ordinals that are boosted by id; they are scored one by one. `groups_S`: the
    search that each of the others belongs to, None where nothing else is boosted.
    """

    totals_S: NDArray[np.float32]
    groups_S: NDArray[np.uint8] | None
    direct: NDArray[np.int64]


@dataclass(frozen=True)
class PolicySet:
    """All policies as they stood at `policy_seq`. `ordinals`: of the items that they name, as the
    catalog stood at `catalog_seq`."""

    policy_seq: int
    catalog_seq: int
    policies: tuple[Policy, ...]
    ordinals: Mapping[str, int]

    def pins(self, category: str | None, as_of_ms: int) -> list[Pin]:
        """Those of a list that is filtered by `category` (None: by none), in their order."""
        return [
            Pin(body.position, self.ordinals[body.item_id])
            for body in self._pins
            if body.in_force(as_of_ms)
            and body.category in (None, category)
            and body.item_id in self.ordinals
        ]

    def boosts(self, as_of_ms: int) -> tuple[tuple[str, BoostPolicy], ...]:
        """Id and body of those in force."""
        return tuple((p, body) for p, body in self._boosts if body.in_force(as_of_ms))

    def hidden_as_seen(
        self, session: Session, items: ItemTable, as_of_ms: int
    ) -> NDArray[np.int64]:
        """The ordinals that the user has seen, by what counts as seen in their categories.

        An id that was deleted and put again is one item here: it has the category of its present
        life, and all that was seen and bought of it counts.
        """
        rules, names = self._seen_rules
        seen = Seen(session.seen, session.seen_kinds, session.is_bought, session.bought_ms)
        if len(items.returned_R2):
            seen = seen.under(items.newest_lives(session.seen))
        rule_S = np.zeros(len(seen.ordinals_S), np.int64)
        if names:
            rule_S = np.maximum(items.category_index(seen.ordinals_S, names), 0)
        return hidden_as_seen(seen, rules, rule_S, as_of_ms)

    @cached_property
    def _pins(self) -> list[PinPolicy]:
        # By id: `rerank` keeps this order within a position.
        return [p.body for p in self.policies if isinstance(p.body, PinPolicy)]

    @cached_property
    def _boosts(self) -> list[tuple[str, BoostPolicy]]:
        return [(p.policy_id, p.body) for p in self.policies if isinstance(p.body, BoostPolicy)]

    @cached_property
    def _seen_rules(self) -> tuple[Sequence[SeenRule], Mapping[str, int]]:
        """The default, then one for each category that has its own; category -> which."""
        bodies = {"": SeenPolicy()}
        for policy in sorted(self.policies, key=lambda policy: policy.policy_seq):
            if isinstance(policy.body, SeenPolicy):
                bodies[policy.body.category] = policy.body  # the last that was written
        names = {category: n for n, category in enumerate(bodies) if category}
        return [_rule(body) for body in bodies.values()], names


class Policies:
    """The newest policies. Thread-safe; at most `MAX_POLICIES` of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        """Who has it reads the database."""
        self._held = PolicySet(0, 0, (), {})
        self._boosts_lock = threading.Lock()
        """For moments: whoever asks for boosts does not wait for who reads."""
        self._boosts: OrderedDict[tuple[object, ...], Boosts] = OrderedDict()

    def at(self, policy_seq: int, catalog_seq: int) -> PolicySet:
        """The policies at `policy_seq` or newer, their items as at `catalog_seq` or newer."""
        held = self._held
        if _covers(held, policy_seq, catalog_seq):
            return held
        with self._lock:
            if not _covers(self._held, policy_seq, catalog_seq):
                self._held = self._read(self._held)
            return self._held

    def are_at_hand(
        self, policy_seq: int, generation_id: str, view: CatalogView, as_of_ms: int
    ) -> bool:
        """Whether `at` and `boosts` of that view have nothing to read or make."""
        held = self._held
        if not _covers(held, policy_seq, view.catalog_seq):
            return False
        in_force = held.boosts(as_of_ms)
        return not in_force or _boosts_key(held, generation_id, view, in_force) in self._boosts

    def held(self, policy_seq: int) -> PolicySet:
        """What was read last, while the database does not answer.

        Raises:
            ProblemError: 503, where that is older than `policy_seq`.
        """
        held = self._held
        if held.policy_seq < policy_seq:
            raise unavailable(
                "the database does not answer",
                "this replica has not read the policies in force",
                "send the same again: another replica may have, or the database is back",
            )
        return held

    def boosts(
        self, policies: PolicySet, generation_id: str, view: CatalogView, as_of_ms: int
    ) -> Boosts | None:
        """What the boosts in force mean for the items of a view; None where there are none."""
        in_force = policies.boosts(as_of_ms)
        if not in_force:
            return None
        key = _boosts_key(policies, generation_id, view, in_force)
        with self._boosts_lock:
            found = self._boosts.get(key)
            if found is not None:
                self._boosts.move_to_end(key)
                return found
        made = boosts_of(policies, [body for _, body in in_force], view.items)
        with self._boosts_lock:
            self._boosts[key] = made
            while len(self._boosts) > KEPT_BOOSTS:
                self._boosts.popitem(last=False)
        return made

    def _read(self, held: PolicySet) -> PolicySet:
        with read_snapshot(self._engine) as conn:
            policy_seq, catalog_seq = read_policy_seq(conn), catalog.catalog_seq(conn)
            policies = held.policies
            if policy_seq != held.policy_seq:
                policies = tuple(read_policies(conn))
            named = {
                policy.body.item_id
                for policy in policies
                if not isinstance(policy.body, SeenPolicy) and policy.body.item_id is not None
            }
            items = catalog.resolve_items(conn, sorted(named)) if named else {}
        ordinals = {item_id: item.ordinal for item_id, item in items.items()}
        return PolicySet(policy_seq, catalog_seq, policies, ordinals)


def _boosts_key(
    policies: PolicySet,
    generation_id: str,
    view: CatalogView,
    in_force: Sequence[tuple[str, BoostPolicy]],
) -> tuple[object, ...]:
    return (
        *(policies.policy_seq, policies.catalog_seq, generation_id, view.catalog_seq),
        *(policy_id for policy_id, _ in in_force),
    )


def _covers(held: PolicySet, policy_seq: int, catalog_seq: int) -> bool:
    if held.policy_seq < policy_seq:
        return False
    # Without policies no item is named, and no change of the catalog matters to them.
    return held.catalog_seq >= catalog_seq or not held.policies


def boosts_of(policies: PolicySet, bodies: Sequence[BoostPolicy], items: ItemTable) -> Boosts:
    """What these boosts mean for the items of a view."""
    span = items.ordinal_span
    by_id: list[tuple[float, Targets]] = []
    by_filter: list[tuple[float, Targets]] = []
    for body in bodies:
        if body.item_id is not None:
            ordinal = policies.ordinals.get(body.item_id, span)
            if ordinal < span:
                by_id.append((body.weight, np.array([ordinal], np.int64)))
        else:
            wanted = {} if body.attribute is None else {body.attribute.name: body.attribute.value}
            by_filter.append((body.weight, items.matching(body.category, wanted)))
    ordinals = [targets for _, targets in by_id]
    return Boosts(
        totals_S=total_boosts(span, [*by_id, *by_filter]),
        groups_S=boost_groups(total_boosts(span, by_filter)) if by_filter else None,
        direct=np.unique(np.concatenate(ordinals)).astype(np.int64) if ordinals else NO_ORDINALS,
    )


def _rule(body: SeenPolicy) -> SeenRule:
    days = body.buy_again_after_days
    return SeenRule(
        kinds=sum(SEEN_BITS[kind] for kind in body.kinds),
        buy_again_ms=None if days is None else days * DAY_MS,
    )
