"""POST /v1/events: what users did. Acknowledged when durable; in force for the next answer."""

import logging
import math
import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from ray_jobs.encoders.item_text import clean
from serve.day import Day
from serve.online_encoder import Embedded, EncoderUnavailable
from serve.problems import FieldError, ProblemError
from serve.routes.context import day_of, request_id_of, to_ms
from serve.schemas import (
    CommentEvent,
    Event,
    EventBatch,
    EventsAnswer,
    EventsBody,
    RatingEvent,
    SearchEvent,
    StoredEventAnswer,
    UndoEvent,
)
from sql.event_rules import DAY_MS
from sql.events import EventKind, NewEvent, Problem, Rejected

log = logging.getLogger(__name__)

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
    events = body.events if isinstance(body, EventBatch) else [body]
    vectors = await _embed(day, events)
    received_ms = day.now_ms()
    new = [
        _new_event(event, received_ms, vectors.get(position))
        for position, event in enumerate(events)
    ]
    outcome = await day.feedback.post(new, keep_unknown_items=on_unknown_item == "keep")
    if isinstance(outcome, Rejected):
        raise _refusal(outcome, received_ms, single=not isinstance(body, EventBatch))
    stored = [
        StoredEventAnswer(
            event_id=appended.event_id,
            user_id=event.user_id,
            user_seq=appended.user_seq,
            duplicate=appended.duplicate,
        )
        for event, appended in zip(new, outcome, strict=True)
    ]
    return EventsAnswer(events=stored, request_id=request_id_of(request))


async def _embed(day: Day, events: list[Event]) -> dict[int, Embedded]:
    """Vectors of the searches and comments by position; none where BERT does not answer in time.

    The event is stored all the same: the fold embeds its text later.
    """
    texts = {
        position: clean(event.text)
        for position, event in enumerate(events)
        if isinstance(event, SearchEvent | CommentEvent)
    }
    if not texts:
        return {}
    try:
        encoder_id, vectors = await day.encoder.embed(list(texts.values()))
    except EncoderUnavailable as error:
        log.warning("%d texts are stored without vectors: %s", len(texts), error)
        return {}
    return {position: (encoder_id, vector) for position, vector in zip(texts, vectors, strict=True)}


def _new_event(event: Event, received_ms: int, embedded: Embedded | None) -> NewEvent:
    return NewEvent(
        user_id=event.user_id,
        event_id=event.event_id or uuid.uuid4().hex,
        kind=EventKind(event.kind),
        item_id=None if isinstance(event, SearchEvent | UndoEvent) else event.item_id,
        text=event.text if isinstance(event, SearchEvent | CommentEvent) else None,
        value=event.value if isinstance(event, RatingEvent) else None,
        undoes=event.undoes if isinstance(event, UndoEvent) else None,
        occurred_at_ms=received_ms if event.occurred_at is None else to_ms(event.occurred_at),
        surface=event.surface,
        request_id=event.request_id,
        vectors={} if embedded is None else {embedded[0]: embedded[1]},
    )


def _refusal(rejected: Rejected, received_ms: int, *, single: bool) -> ProblemError:
    statuses = {_status(problem) for problem in rejected.problems}
    errors = [
        FieldError(
            problem.field if single else f"events[{problem.index}].{problem.field}",
            problem.value,
            problem.accepted,
        )
        for problem in rejected.problems[:50]
    ]
    status = statuses.pop() if len(statuses) == 1 else 422
    tomorrow_s = math.ceil((DAY_MS - received_ms % DAY_MS) / 1000)
    return ProblemError(
        status,
        "events refused",
        f"nothing of this request was stored: {len(rejected.problems)} refused",
        errors,
        hint="unknown items can be kept with ?on_unknown_item=keep",
        retry_after_s=tomorrow_s if status == 429 else None,
    )


def _status(problem: Problem) -> int:
    # The resource is there; it is a value in the body that names nothing.
    return 422 if problem.status == 404 else problem.status
