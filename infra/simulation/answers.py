"""What every answer is held to, the moment it is given.

It reflects what was acknowledged before it was asked for; it is of one generation, the live one or
marked; its items, order and scores are those of the textbook (`truth`) for the very numbers it
names: `generation`, `user_seq`, `catalog_seq`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from infra.simulation.fake_model import Floats
from infra.simulation.scheduler import Violation
from infra.simulation.truth import Item, State
from infra.simulation.world import World
from serve.lists import ItemList, ListQuery
from serve.user_state import UserState

TOLERANCE = 1e-5
DEGRADED = {"generation_behind", "text_not_embedded", "database_gone"}


@dataclass(frozen=True)
class Asked:
    """What had been promised when a list was asked for."""

    user_id: str | None
    user_seq: int
    catalog_seq: int
    flip: int
    catalog_head: int
    """The last change then, acknowledged or not."""


def asked_now(world: World, user_id: str | None) -> Asked:
    floor = 0 if user_id is None else world.promises.user(user_id).floor
    return Asked(user_id, floor, world.promises.catalog_seq, _flip(world), _head(world))


def check_answer(world: World, asked: Asked, query: ListQuery, answer: ItemList) -> None:
    """Raises `Violation` where a recommendation is not what it must be."""
    state = answer.state
    catalog = _check_state(world, asked, state)
    vector_D, user = None, None
    model = world.models[state.generation.generation_id]
    if state.user is not None:
        log = world.truth.log(state.user.user_key, state.user_seq)
        if len(log) != state.user_seq:
            raise Violation(f"user_seq {state.user_seq} of a log of {len(log)}")
        unembedded = frozenset(event.user_seq for event in state.unembedded)
        user = world.truth.fold(model, log, state.user.trimmed_seq, unembedded)
        vector_D = world.truth.user_vector(model, user)
        _check_session(state, user, vector_D)
    hidden: set[int] = set() if user is None else set(user.excluded)
    if user is not None and query.exclude_seen:
        hidden |= user.seen
    # By id: an item that was deleted and put again is hidden from whom it was hidden before.
    ids = world.truth.ids_of(hidden)
    may_be_shown = {o: item for o, item in catalog.items() if item.item_id not in ids}
    _check_items(answer, may_be_shown, query.k)
    world.promises.answers += 1
    if vector_D is not None:
        if answer.basis != "session":
            raise Violation(f"basis {answer.basis} for a user with a vector")
        _check_scores(answer, world.truth.scores(model, may_be_shown, vector_D))
        world.promises.exact += 1
    elif answer.basis != "popularity":
        raise Violation(f"basis {answer.basis} for a user without a vector")


def check_similar(
    world: World, asked: Asked, item_id: str, query: ListQuery, answer: ItemList
) -> None:
    """The same for items like an item that is still there."""
    state = answer.state
    catalog = _check_state(world, asked, state)
    model = world.models[state.generation.generation_id]
    meant = [(o, item) for o, item in catalog.items() if item.item_id == item_id]
    if not meant:
        return  # deleted between the two reads: a list of what was like it
    ((ordinal, item),) = meant
    others = {o: other for o, other in catalog.items() if o != ordinal}
    query_D = world.truth.item_vector(model, item.text_digest, ordinal)
    _check_items(answer, others, query.k)
    if ordinal not in world.truth.catalog(asked.catalog_head):
        return  # put again meanwhile: which of its lives was meant, nobody can say
    _check_scores(answer, world.truth.scores(model, others, query_D))


def _head(world: World) -> int:
    ((head,),) = world.truth.rows("SELECT change_seq FROM catalog_head")
    return int(head)


def _flip(world: World) -> int:
    ((flip,),) = world.truth.rows("SELECT coalesce(max(flip), 0) FROM live")
    return int(flip)


def _check_state(world: World, asked: Asked, state: UserState) -> dict[int, Item]:
    """Promises 1, 4 and 9; the catalog at the answer's `catalog_seq`."""
    user = None if asked.user_id is None else world.promises.user(asked.user_id)
    if "database_gone" in state.degraded:
        return _check_held(world, asked, state)
    if user is not None and user.floor >= asked.user_seq > state.user_seq:
        # A floor that went down meanwhile: an erasure was asked for.
        raise Violation(f"acknowledged up to {asked.user_seq}, answered at {state.user_seq}")
    if state.catalog_seq < asked.catalog_seq:
        raise Violation(f"catalog at {state.catalog_seq}, acknowledged {asked.catalog_seq}")
    if not set(state.degraded) <= DEGRADED:
        raise Violation(f"degraded: {state.degraded}")
    generation = state.generation.generation_id
    was_live = {
        row[0]
        for row in world.truth.rows(
            "SELECT generation_id FROM live WHERE flip >= ?", max(1, asked.flip)
        )
    }
    if generation not in was_live and "generation_behind" not in state.degraded:
        raise Violation(f"answered from {generation}, live were {sorted(was_live)}")
    return _check_view(world, state)


def _check_held(world: World, asked: Asked, state: UserState) -> dict[int, Item]:
    """From memory: behind perhaps, and said so, but of one moment, and never of nowhere."""
    if state.as_of_ms is None:
        raise Violation("an answer from memory does not say of when")
    if asked.user_id is not None and state.user is None:
        raise Violation("an answer from memory for a user of whom nothing is held")
    return _check_view(world, state)


def _check_view(world: World, state: UserState) -> dict[int, Item]:
    catalog = world.truth.catalog(state.catalog_seq)
    live = sorted(catalog)
    if state.view.delta.live_ordinals().tolist() != live:
        raise Violation(f"live by the delta {state.view.delta.live_ordinals()}, in truth {live}")
    if state.view.items.live_ordinals().tolist() != live:
        raise Violation(f"live by the items {state.view.items.live_ordinals()}, in truth {live}")
    return catalog


def _check_session(state: UserState, user: State, vector_D: Floats | None) -> None:
    """Promise 3: online equals the fold of the effective log from nothing."""
    session = state.session
    seen = frozenset() if session is None else frozenset(session.seen.tolist())
    excluded = frozenset() if session is None else frozenset(session.excluded.tolist())
    if (seen, excluded) != (user.seen, user.excluded):
        raise Violation(f"seen {seen}, excluded {excluded}; in truth {user.seen}, {user.excluded}")
    recent = () if session is None else tuple(session.recent.tolist())
    if recent != user.recent:
        raise Violation(f"recent {recent}, in truth {user.recent}")
    ours = state.vector
    if (ours is None) != (vector_D is None):
        raise Violation(f"user vector {ours}, in truth {vector_D}")
    if ours is not None and vector_D is not None:
        _close("user vector", ours, vector_D)


def _check_items(answer: ItemList, may_be_shown: Mapping[int, Item], k: int) -> None:
    """Promise 6, and that nothing is missing: k items wherever there are k."""
    shown = [item["item_id"] for item in answer.items]
    allowed = {item.item_id for item in may_be_shown.values()}
    if len(shown) != len(set(shown)) or not set(shown) <= allowed:
        raise Violation(f"shown {shown}, allowed {sorted(allowed)}")
    if len(shown) != min(k, len(allowed)):
        raise Violation(f"{len(shown)} items, {len(allowed)} may be shown, {k} were asked for")


def _check_scores(answer: ItemList, best: list[tuple[float, str]]) -> None:
    """The exact top k: every score, and every item whose score is no tie."""
    scores = np.array([item["score"] for item in answer.items], np.float32)
    _close("scores", scores, np.array([score for score, _ in best[: len(scores)]], np.float32))
    true_of = {item_id: score for score, item_id in best}
    own = np.array([true_of[item["item_id"]] for item in answer.items], np.float32)
    _close("scores of the items shown", scores, own)


def _close(what: str, ours: Floats, truth: Floats) -> None:
    if ours.shape != truth.shape or not np.allclose(ours, truth, atol=TOLERANCE, rtol=0):
        raise Violation(f"{what}: {ours}, in truth {truth}")
