"""The API over HTTP, as probes and users ask it. Nothing that is asked here is stored."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from infra.doctor.findings import Finding, Look, NotSeen, looked

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

HEADER = "moonlark-request-id"


def look_at_day(
    url: str, api_key: str | None, transport: httpx.BaseTransport | None = None
) -> Look:
    """/readyz, then what an admin key may see, then a search and its list."""
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    try:
        with httpx.Client(
            base_url=url, headers=headers, timeout=TIMEOUT_S, transport=transport
        ) as http:
            ready = http.get("/readyz")
            if HEADER not in ready.headers:
                what = f"{url} answers {ready.status_code}, but no replica of ours"
                return looked("", Finding("NothingAnswers", what))
            if ready.status_code != 200:
                return looked("", _not_ready(ready)) + _marks(http)
            return looked(f"{url} is ready") + _status(http) + _marks(http)
    except httpx.HTTPError as error:
        what = f"{url} does not answer: {type(error).__name__}"
        return looked("", Finding("NothingAnswers", what))


def _not_ready(answer: httpx.Response) -> Finding:
    detail = answer.json().get("detail", "")
    is_store = answer.json().get("title") == "the store did not answer"
    runbook = "DatabaseGone" if is_store else "LiveGenerationRefused"
    return Finding(runbook, f"/readyz: {answer.status_code} {detail}")


def _status(http: httpx.Client) -> Look:
    answer = http.get("/v1/status")
    if answer.status_code in (401, 403):
        why = "it needs a key of scope admin: MOONLARK_API_KEY"
        return Look(not_seen=(NotSeen("/v1/status", why),))
    if answer.status_code != 200:
        return Look(not_seen=(NotSeen("/v1/status", f"it answers {answer.status_code}"),))
    return looked("deltas, catalog and records of the replica", *_of_status(answer.json()))


def _of_status(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["write_behind_dropped"]:
        what = f"{status['write_behind_dropped']} records were dropped since the replica started"
        yield Finding("WriteBehindDropping", what)
    live = (status["live"] or {}).get("generation")
    for held in status["loaded"]:
        if held["generation"] != live:
            continue
        share = held["delta_items"] / max(1, held["items"])
        if share > MAX_DELTA_SHARE:
            yield Finding("DeltaLarge", f"{100 * share:.0f} % of the items changed since the night")
        if held.get("behind_ms", 0) > MAX_BEHIND_MS:
            what = f"a change of an item waits for {held['behind_ms'] / 1000:.0f} s"
            yield Finding("CatalogBehind", what)
        if held["unembedded_items"]:
            yield Finding("EncoderGone", f"{held['unembedded_items']} items have no vector")


def _marks(http: httpx.Client) -> Look:
    """A text search asks BERT, the shards and the database, and stores nothing."""
    answer = http.post("/v1/search", json={"text": "moonlark doctor", "k": 1})
    if answer.status_code in (401, 403):
        return Look(not_seen=(NotSeen("a search", "it needs a key: MOONLARK_API_KEY"),))
    if answer.status_code >= 500:
        body = answer.json() if HEADER in answer.headers else {}
        is_encoder = "encoder" in body.get("title", "")
        what = f"a search is answered {answer.status_code}: {body.get('title', '')}"
        return looked("", Finding("EncoderGone" if is_encoder else "ErrorsHigh", what))
    marks = answer.json().get("degraded", [])
    told = {MARKS[mark]: f"lists are marked {mark}" for mark in marks if mark in MARKS}
    return looked("a search and its list", *(Finding(name, said) for name, said in told.items()))
