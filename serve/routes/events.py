"""POST /v1/events: what users did. Acknowledged when durable; in force for the next answer."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request

from serve.day import Day
from serve.request_log import note
from serve.routes.context import day_of, request_id_of
from serve.routes.new_events import new_events, refusal
from serve.schemas.events import EventBatch, EventsAnswer, EventsBody, StoredEventAnswer
from sql.events import Rejected

router = APIRouter(prefix="/v1", tags=["events"])


@router.post("/events")
async def post_events(
    request: Request,
    body: EventsBody,
    day: Annotated[Day, Depends(day_of)],
    on_unknown_item: Annotated[Literal["refuse", "keep"], Query()] = "refuse",
) -> EventsAnswer:
    """Store one event, or up to 500 as `{"events": [...]}`: all of them or none.

    Send the same `event_id` again after a timeout: it is a duplicate, and does no harm.
    """
    told = await stored(day, body, keep_unknown_items=on_unknown_item == "keep")
    note_stored(request.scope["state"], told)
    return EventsAnswer(
        events=[StoredEventAnswer(**one) for one in told], request_id=request_id_of(request)
    )


async def stored(day: Day, body: EventsBody, *, keep_unknown_items: bool) -> list[dict[str, Any]]:
    """What `EventsAnswer` tells of each event of `body`, once all are durable.

    Raises `ProblemError` where they are refused.
    """
    events = body.events if isinstance(body, EventBatch) else [body]
    new, received_ms = await new_events(day, [(event.user_id, event) for event in events])
    outcome = await day.feedback.post(new, keep_unknown_items=keep_unknown_items)
    if isinstance(outcome, Rejected):
        raise refusal(outcome, received_ms, single=not isinstance(body, EventBatch))
    return [
        {
            "event_id": appended.event_id,
            "user_id": event.user_id,
            "user_seq": appended.user_seq,
            "duplicate": appended.duplicate,
        }
        for event, appended in zip(new, outcome, strict=True)
    ]


def note_stored(state: Any, told: list[dict[str, Any]]) -> None:
    """For the request's line: how far its user's log is now. Of several users nothing."""
    if len({one["user_id"] for one in told}) == 1:
        note(state, {"user_seq": max(one["user_seq"] for one in told)})
