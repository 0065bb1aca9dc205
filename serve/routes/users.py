"""What we know of a user, in short and in full, and how to make us forget it."""

import asyncio
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from ray_jobs.ranking.interests import Interests
from serve.day import Day
from serve.path_ids import PathId
from serve.problems import not_found
from serve.request_log import note
from serve.routes.context import day_of, from_ms
from serve.routes.erasures import to_answer
from serve.schemas.users import (
    ErasureAnswer,
    InterestedCategory,
    InterestingTerm,
    UserAnswer,
    UserEventsAnswer,
    UserInterests,
)
from serve.user_state import MAX_HISTORY
from sql.engine import read_snapshot
from sql.erasure import Receipt, erase_user
from sql.events import StoredEvent, UserRow, effective, find_user, read_contexts, read_tail

router = APIRouter(prefix="/v1/users", tags=["users"])

MAX_PAGE = 1_000
MAX_SEQ = 2**63 - 1


@router.get("/{user_id}")
async def get_user(
    request: Request,
    user_id: PathId,
    day: Annotated[Day, Depends(day_of)],
    vector: Annotated[bool, Query(description="with the user vector")] = False,
) -> UserAnswer:
    """The user's session in short."""
    user, events = await asyncio.to_thread(_history, day, user_id, 0, MAX_HISTORY)
    state = await asyncio.to_thread(day.states.read, user_id) if day.watch.loaded else None
    session = None if state is None else state.session
    counted = effective(events)
    folded = state if vector else None
    vector_D = None if folded is None else folded.vector
    interests = None if state is None else await asyncio.to_thread(day.interests.of, state)
    undos = sum(event.kind == "undo" for event in events)
    answer = UserAnswer(
        user_id=user_id,
        # With a vector, how many events are in it.
        user_seq=user.last_user_seq if folded is None else folded.user_seq,
        generation=None if state is None else state.generation.generation_id,
        steps=0 if session is None else session.steps,
        events_by_kind=dict(sorted(Counter(str(event.kind) for event in counted).items())),
        undone=len(events) - len(counted) - undos,
        seen_items=0 if session is None else len(session.seen),
        excluded_items=0 if session is None else len(session.excluded),
        last_event_at=from_ms(events[-1].occurred_at_ms) if events else None,
        interests=None if interests is None else _interests(interests),
        vector=None if vector_D is None else vector_D.tolist(),
    )
    note(request.scope["state"], vars(answer))
    return answer


@router.get("/{user_id}/events")
async def get_user_events(
    user_id: PathId,
    day: Annotated[Day, Depends(day_of)],
    after: Annotated[int, Query(ge=0, le=MAX_SEQ, description="user_seq to go on after")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> UserEventsAnswer:
    """Everything the user did, oldest first, a page at a time: their data, for them."""
    user, events, contexts = await asyncio.to_thread(_page, day, user_id, after, limit)
    more = bool(events) and events[-1].user_seq < user.last_user_seq
    return UserEventsAnswer(
        user_id=user_id,
        events=[_event(event, *contexts[event.user_seq]) for event in events],
        next_after=events[-1].user_seq if more else None,
    )


@router.delete("/{user_id}")
async def delete_user(
    request: Request, user_id: PathId, day: Annotated[Day, Depends(day_of)]
) -> ErasureAnswer:
    """Erase the user: log, sessions, vectors and exposures are gone when this answers.

    The receipt says what was removed, what the job is still to rewrite, and what cannot be. Ask for
    it again at `/v1/erasures/ID`. Events that happened before are refused from now on (410); later
    ones make a new user. Twice is harmless.
    """
    receipt = await asyncio.to_thread(_erase, day, user_id)
    return to_answer(receipt, request)


def _erase(day: Day, user_id: str) -> Receipt:
    ledger = day.forgetting.ledger
    receipt = erase_user(day.engine, ledger, user_id, at_ms=day.now_ms())
    day.forgetting.forget({ledger.key.hmac_of(user_id)})
    return receipt


def _history(day: Day, user_id: str, after: int, limit: int) -> tuple[UserRow, list[StoredEvent]]:
    with read_snapshot(day.engine) as conn:
        user = find_user(conn, user_id)
        if user is None:
            raise not_found("user", user_id)
        return user, read_tail(conn, user.user_key, after, limit)


Contexts = dict[int, tuple[str | None, str | None]]


def _page(
    day: Day, user_id: str, after: int, limit: int
) -> tuple[UserRow, list[StoredEvent], Contexts]:
    with read_snapshot(day.engine) as conn:
        user = find_user(conn, user_id)
        if user is None:
            raise not_found("user", user_id)
        events = read_tail(conn, user.user_key, after, limit)
        contexts = read_contexts(
            conn, user.user_key, after, events[-1].user_seq if events else after
        )
        return user, events, contexts


def _interests(found: Interests) -> UserInterests:
    return UserInterests(
        categories=[
            InterestedCategory(category=category, share=round(share, 4))
            for category, share in found.categories
        ],
        terms=[InterestingTerm(term=term, weight=round(weight, 4)) for term, weight in found.terms],
    )


def _event(event: StoredEvent, surface: str | None, request_id: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "user_seq": event.user_seq,
        "event_id": event.event_id,
        "kind": str(event.kind),
        "item_id": event.item_id,
        "text": event.text,
        "value": event.value,
        "undoes_seq": event.undoes_seq,
        "occurred_at": from_ms(event.occurred_at_ms),
        "received_at": from_ms(event.received_at_ms),
        "surface": surface,
        "request_id": request_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
