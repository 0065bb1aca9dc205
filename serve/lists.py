"""What is asked of a list, and the list that is made: as it is answered, and as it is recorded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import orjson

from ray_jobs.ranking.candidates import Candidates
from ray_jobs.shards.items import Wanted
from serve.explain import Past, explanations
from serve.user_state import UserState
from sql.exposures import Exposure, ShownItem


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What is asked for, whoever asks."""

    k: int = 20
    offset: int = 0
    category: str | None = None
    attributes: Mapping[str, Wanted] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    exclude_seen: bool = True
    as_of_ms: int | None = None
    explain: bool = False
    diversity: float = 0.0


Basis = Literal["session", "popularity", "item", "text"]

BASE_PARTS: Mapping[Basis, str] = {"session": "cosine", "popularity": "popularity"}
"""Of users' lists: the part of the score that the others are added to."""


@dataclass(frozen=True, slots=True)
class ItemList:
    """A list and what it was made from."""

    state: UserState
    basis: Basis
    items: list[dict[str, Any]]
    as_of_ms: int
    ranked: Candidates
    """The rows of `items`: ordinals, scores and their parts."""
    policy_seq: int = 0
    """Every change of a policy up to this one is reflected."""
    is_quiet: bool = False
    """Whether the weights of a quiet month made the scores (`ray_jobs.ranking.fusion`)."""


@dataclass(frozen=True, slots=True)
class TrendingList:
    """What trends. `activity_age_ms`: every event older than this is counted."""

    state: UserState
    items: list[dict[str, Any]]
    as_of_ms: int
    activity_age_ms: int


def listed(
    state: UserState,
    basis: Basis,
    ranked: Candidates,
    as_of_ms: int,
    policy_seq: int = 0,
    *,
    is_quiet: bool = False,
) -> ItemList:
    """Candidates as an answer."""
    items = shown(state, ranked)
    if len(items) < len(ranked):
        there = [card is not None for card in state.view.items.cards(ranked.ordinals)]
        ranked = ranked.take(np.array(there, np.bool_))
    return ItemList(state, basis, items, as_of_ms, ranked, policy_seq, is_quiet)


def explain(answer: ItemList, past: Past) -> None:
    """Add to each item of `answer` why it is there."""
    told = explanations(answer.state, answer.ranked, past)
    for item, explanation in zip(answer.items, told, strict=True):
        item["explanation"] = explanation


def shown(state: UserState, ranked: Candidates) -> list[dict[str, Any]]:
    """Candidates as they appear in an answer."""
    cards = state.view.items.cards(ranked.ordinals)
    return [
        {
            "item_id": card.item_id,
            "score": score,
            "title": card.title,
            "category": card.category,
        }
        for card, score in zip(cards, ranked.scores.tolist(), strict=True)
        if card is not None
    ]


def recorded(
    answer: ItemList, query: ListQuery, request_id: str, *, at_ms: int
) -> Callable[[], Exposure]:
    """What is recorded of an answer that was sent at `at_ms`, of whatever moment it was asked.

    It is made when it is called, as its items take longer than all else that follows a list; what
    they are made of nobody changes."""
    state = answer.state
    header = Exposure(
        request_id=request_id,
        user_key=None if state.user is None else state.user.user_key,
        generation_id=state.generation.generation_id,
        user_seq=state.user_seq,
        catalog_seq=state.catalog_seq,
        at_ms=at_ms,
        items=(),
        degraded=state.degraded,
        params={
            "k": query.k,
            "offset": query.offset,
            "category": query.category,
            "attributes": dict(query.attributes),
            "exclude": list(query.exclude),
            "exclude_seen": query.exclude_seen,
            "basis": answer.basis,
            "policy_seq": answer.policy_seq,
            "is_quiet": answer.is_quiet,
            "diversity": query.diversity,
            "as_of_ms": answer.as_of_ms,
        },
    )
    item_ids = [item["item_id"] for item in answer.items]
    return partial(_with_items, header, item_ids, answer.ranked, BASE_PARTS[answer.basis])


def _with_items(
    header: Exposure, item_ids: Sequence[str], ranked: Candidates, base: str
) -> Exposure:
    values_PN = np.array([ranked.scores, *ranked.parts.values()], np.float32)
    # Each as the number of fewest digits that is it: 0.1, not 0.10000000149011612.
    dumped = orjson.dumps(values_PN, option=orjson.OPT_SERIALIZE_NUMPY)
    scores, *parts = orjson.loads(dumped)
    # Of the others one that is 0 says nothing: most lists have no boosts nor pins.
    says = [bool(part_N.any()) for part_N in values_PN[1:]]
    told = {
        name: part
        for name, part, is_told in zip(ranked.parts, parts, says, strict=True)
        if is_told or name == base
    }
    values = list(zip(*told.values(), strict=True)) or [()] * len(ranked)
    rows = zip(item_ids, scores, ranked.ordinals.tolist(), values, strict=True)
    items = [
        ShownItem(
            item_id,
            score,
            ordinal,
            {name: value for name, value in zip(told, row, strict=True) if value or name == base},
        )
        for item_id, score, ordinal, row in rows
    ]
    return replace(header, items=items)
