"""Bodies of events become events of the log: texts read by BERT, times filled in, refusals told."""

import logging
import math
import uuid
from collections.abc import Sequence

from ray_jobs.encoders.item_text import clean
from serve.day import Day
from serve.online_encoder import Embedded, EncoderUnavailable
from serve.problems import FieldError, ProblemError
from serve.routes.context import to_ms
from serve.schemas.events import InlineComment, InlineEvent, InlineRating, InlineSearch, InlineUndo
from sql.event_rules import DAY_MS
from sql.events import EventKind, NewEvent, Problem, Rejected

log = logging.getLogger(__name__)

_WITH_TEXT = (InlineSearch, InlineComment)
_WITHOUT_ITEM = (InlineSearch, InlineUndo)

MAX_TOLD = 50
"""Refused events that one answer names."""


async def new_events(
    day: Day, events: Sequence[tuple[str, InlineEvent]]
) -> tuple[list[NewEvent], int]:
    """(user_id, body) of each as what can be appended, and when it was received, ms.

    Searches and comments have their vectors, except where BERT does not answer in time.
    """
    vectors = await _embed(day, [event for _, event in events])
    received_ms = day.now_ms()
    new = [
        _new_event(user_id, event, received_ms, vectors.get(position))
        for position, (user_id, event) in enumerate(events)
    ]
    return new, received_ms


def refusal(rejected: Rejected, received_ms: int, *, single: bool) -> ProblemError:
    """The problem that names each refused event, as `events[3].item_id` unless it came alone."""
    fields = {problem.field for problem in rejected.problems}
    statuses = {_status(problem) for problem in rejected.problems}
    errors = [
        FieldError(
            _named(problem) if single else f"events[{problem.index}].{_named(problem)}",
            problem.value,
            problem.accepted,
        )
        for problem in rejected.problems[:MAX_TOLD]
    ]
    status = statuses.pop() if len(statuses) == 1 else 422
    tomorrow_s = math.ceil((DAY_MS - received_ms % DAY_MS) / 1000)
    return ProblemError(
        status,
        "events refused",
        f"nothing of this request was stored: {len(rejected.problems)} refused",
        errors,
        hint="unknown items can be kept: on_unknown_item=keep" if "item_id" in fields else None,
        retry_after_s=tomorrow_s if status == 429 else None,
    )


async def _embed(day: Day, events: Sequence[InlineEvent]) -> dict[int, Embedded]:
    """Vectors of the searches and comments by position; none where BERT does not answer in time.

    The event counts all the same: the fold embeds its text later.
    """
    texts = {
        position: clean(event.text)
        for position, event in enumerate(events)
        if isinstance(event, _WITH_TEXT)
    }
    if not texts:
        return {}
    try:
        encoder_id, vectors = await day.encoder.embed(list(texts.values()))
    except EncoderUnavailable as error:
        log.warning("%d texts go on without vectors: %s", len(texts), error)
        return {}
    return {position: (encoder_id, vector) for position, vector in zip(texts, vectors, strict=True)}


def _new_event(
    user_id: str, event: InlineEvent, received_ms: int, embedded: Embedded | None
) -> NewEvent:
    return NewEvent(
        user_id=user_id,
        event_id=event.event_id or uuid.uuid4().hex,
        kind=EventKind(event.kind),
        item_id=None if isinstance(event, _WITHOUT_ITEM) else event.item_id,
        text=event.text if isinstance(event, _WITH_TEXT) else None,
        value=event.value if isinstance(event, InlineRating) else None,
        undoes=event.undoes if isinstance(event, InlineUndo) else None,
        occurred_at_ms=received_ms if event.occurred_at is None else to_ms(event.occurred_at),
        surface=event.surface,
        request_id=event.request_id,
        vectors={} if embedded is None else {embedded[0]: embedded[1]},
    )


def _named(problem: Problem) -> str:
    """The field as the API has it."""
    return "occurred_at" if problem.field == "occurred_at_ms" else problem.field


def _status(problem: Problem) -> int:
    # The resource is there; it is a value in the body that names nothing.
    return 422 if problem.status == 404 else problem.status
