"""The API over HTTP, as probes and users ask it. Nothing that is asked here is stored."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from infra.doctor.findings import Finding, Look, NotSeen, looked
from serve.counts import (
    ERRORS,
    SLOW_EVENT_S,
    SLOW_EVENTS,
    SLOW_LIST_S,
    SLOW_LISTS,
    wall_ms,
)
from sql import generations

TIMEOUT_S = 5.0
MAX_DELTA_SHARE = 0.2
MAX_BEHIND_MS = 60_000
MARKS = {
    "shard_gone": "ShardGone",
    "database_gone": "DatabaseGone",
    "generation_behind": "LiveGenerationRefused",
    "text_not_embedded": "EncoderGone",
    "items_not_embedded": "EncoderGone",
}
"""Runbooks by the marks of an answer."""

WRONG = {
    ERRORS: ("ErrorsHigh", "of the requests end with 5xx"),
    SLOW_LISTS: ("ListsSlow", f"of the lists take longer than {SLOW_LIST_S:g} s"),
    SLOW_EVENTS: ("EventsSlow", f"of the events need more than {SLOW_EVENT_S:g} s"),
}
"""Runbook, and what it says, by what a replica counts of the last five minutes."""
MAX_WRONG_SHARE, FEW_WRONG = 0.01, 2
"""So few say nothing: the first list of a replica is slow."""
ASKED_A_REPLICA = 4
"""How often the status is asked for, for each replica there is: whoever stands before them chooses
one."""

HEADER = "moonlark-request-id"
SINCE = "moonlark-since"


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows of when something began.

    `last_heard_ms`: of any replica, None where one is heard of now. `replicas`: how many are
    heard of now. `changed_ms`: when so many changes of items had come after a watermark of the
    catalog.
    """

    last_heard_ms: int | None = None
    replicas: int | None = None
    changed_ms: Callable[[int, int], int | None] = lambda watermark, changes: None


NOTHING_KNOWN = Known()


def look_at_day(
    url: str,
    api_key: str | None,
    transport: httpx.BaseTransport | None = None,
    *,
    known: Known = NOTHING_KNOWN,
    now_ms: Callable[[], int] = wall_ms,
) -> Look:
    """/readyz, then what an admin key may see, then a search and its list."""
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    try:
        with httpx.Client(
            base_url=url, headers=headers, timeout=TIMEOUT_S, transport=transport
        ) as http:
            ready = http.get("/readyz")
            if HEADER not in ready.headers:
                return looked(
                    "", _nobody(f"{url} answers {_told(ready)}, but no replica of ours", known)
                )
            if ready.status_code != 200:
                return looked("", _not_ready(ready)) + _marks(http, {})
            status = http.get("/v1/status")
            told = status.json() if status.status_code == 200 else {}
            return (
                looked(f"{url} is ready")
                + _each_status(http, status, known, now_ms())
                + _marks(http, told.get("troubles", {}))
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return looked("", _nobody(f"{url} does not answer: {type(error).__name__}", known))
    except (ValueError, TypeError, KeyError) as error:
        why = f"what answers is not as this version's: {type(error).__name__} {error}"
        return Look(not_seen=(NotSeen(url, why),))


def _nobody(what: str, known: Known) -> Finding:
    """No replica answers; where some live, none is asked."""
    if known.replicas:
        what += f"; {known.replicas} replicas live: it is what stands before them"
    return Finding("NothingAnswers", what, known.last_heard_ms)


def _told(answer: httpx.Response) -> str:
    """Status, and the title of a problem document: HAProxy's own are some, too. Whatever else may
    listen there answers with anything."""
    title = ""
    with suppress(ValueError, TypeError, KeyError):
        title = answer.json()["title"]
    return f"{answer.status_code}: {title}" if title else str(answer.status_code)


def _not_ready(answer: httpx.Response) -> Finding:
    detail = answer.json().get("detail", "")
    is_store = answer.json().get("title") == "the store did not answer"
    runbook = "DatabaseGone" if is_store else "LiveGenerationRefused"
    since = answer.headers.get(SINCE, "")
    since_ms = int(since) if since.isdecimal() else None
    return Finding(runbook, f"/readyz: {answer.status_code} {detail}", since_ms)


def _each_status(http: httpx.Client, first: httpx.Response, known: Known, at_ms: int) -> Look:
    """Of every gateway replica with a lease, as far as they are met."""
    if first.status_code != 200:
        return _status(first, known, at_ms)
    told = first.json()
    names = (replica["replica_id"] for replica in told.get("replicas", ()))
    wanted = {name for name in names if not generations.part_of(name)} - {told.get("replica")}
    answers = [first]
    for _ in range(ASKED_A_REPLICA * len(wanted)):
        if not wanted:
            break
        answer = http.get("/v1/status")
        if answer.status_code == 200 and answer.json()["replica"] in wanted:
            wanted.remove(answer.json()["replica"])
            answers.append(answer)
    look = Look()
    for answer in answers:
        look += _status(answer, known, at_ms)
    once = {each.runbook: each for each in reversed(look.findings)}
    missed = tuple(NotSeen(name, "another replica answered each time") for name in sorted(wanted))
    seen = () if look.findings else look.seen[:1]
    return Look(tuple(reversed(once.values())), look.not_seen + missed, seen)


def _status(answer: httpx.Response, known: Known, at_ms: int) -> Look:
    if answer.status_code in (401, 403):
        why = "it needs a key of scope admin: MOONLARK_API_KEY"
        return Look(not_seen=(NotSeen("/v1/status", why),))
    if answer.status_code != 200:
        return Look(not_seen=(NotSeen("/v1/status", f"it answers {answer.status_code}"),))
    return looked(
        "deltas, catalog and records of the replica", *_of_status(answer.json(), known, at_ms)
    )


def _of_status(status: Mapping[str, Any], known: Known, at_ms: int) -> Iterator[Finding]:
    for name, (count, wrong) in status.get("recent", {}).items():
        if name in WRONG and wrong > max(FEW_WRONG, MAX_WRONG_SHARE * count):
            runbook, which = WRONG[name]
            what = f"{wrong} of {count} in five minutes: {100 * wrong / count:.0f} % {which}"
            yield Finding(runbook, what, _ms(status.get("troubles", {}).get(name)))
    if status["write_behind_dropped"]:
        what = f"{status['write_behind_dropped']} records were dropped since the replica started"
        yield Finding("WriteBehindDropping", what, _ms(status.get("write_behind_dropped_at")))
    live = (status["live"] or {}).get("generation")
    for held in status["loaded"]:
        if held["generation"] != live:
            continue
        share = held["delta_items"] / max(1, held["items"])
        if share > MAX_DELTA_SHARE:
            what = f"{100 * share:.0f} % of the items changed since the night"
            at_most = int(MAX_DELTA_SHARE * held["items"])
            since_ms = known.changed_ms(held["generation_catalog_seq"], at_most + 1)
            yield Finding("DeltaLarge", what, since_ms)
        if held.get("behind_ms", 0) > MAX_BEHIND_MS:
            what = f"a change of an item waits for {held['behind_ms'] / 1000:.0f} s"
            yield Finding("CatalogBehind", what, at_ms - held["behind_ms"])
        if held["unembedded_items"]:
            what = f"{held['unembedded_items']} items have no vector"
            since_ms = _ms(status.get("troubles", {}).get("items_not_embedded"))
            yield Finding("EncoderGone", what, since_ms)


def _ms(at: str | None) -> int | None:
    return None if at is None else int(datetime.fromisoformat(at).timestamp() * 1000)


def _marks(http: httpx.Client, troubles: Mapping[str, str]) -> Look:
    """A text search asks BERT, the shards and the database, and stores nothing.

    `troubles`: of the replica that said so; since when.
    """
    answer = http.post("/v1/search", json={"text": "moonlark doctor", "k": 1})
    if answer.status_code in (401, 403):
        return Look(not_seen=(NotSeen("a search", "it needs a key: MOONLARK_API_KEY"),))
    if answer.status_code >= 500:
        is_encoder = "encoder" in _told(answer)
        who = "" if HEADER in answer.headers else "without any replica "
        what = f"a search is answered {who}{_told(answer)}"
        since_ms = _ms(troubles.get("errors"))
        return looked("", Finding("EncoderGone" if is_encoder else "ErrorsHigh", what, since_ms))
    if answer.status_code != 200:
        return Look(not_seen=(NotSeen("a search", f"it is answered {_told(answer)}"),))
    marks = answer.json().get("degraded", [])
    told = {MARKS[mark]: mark for mark in marks if mark in MARKS}
    found = (
        Finding(name, f"lists are marked {mark}", _ms(troubles.get(mark)))
        for name, mark in told.items()
    )
    return looked("a search and its list", *found)
