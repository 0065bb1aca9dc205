"""`Moonlark`: the nouns of the HTTP API as methods of a Python object.

Answers are the API's own models (`serve.schemas`: pydantic, no server), so the two cannot drift.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from infra.client.encode import (
    Attributes,
    filters,
    list_body,
    rfc3339,
    text_of,
    without_none,
)
from infra.client.errors import UnexpectedAnswer
from infra.client.retry import RetryPolicy
from infra.client.transport import VERSIONS_HINT, Transport, quote_id
from serve.schemas.events import MAX_EVENTS, EventsAnswer
from serve.schemas.items import MAX_ITEMS, ItemAnswer, ItemChangeAnswer, ItemsAnswer
from serve.schemas.lists import (
    MAX_INLINE_EVENTS,
    RecommendationAnswer,
    RecommendManyAnswer,
    SearchAnswer,
    SimilarAnswer,
)
from serve.schemas.policies import PoliciesAnswer, PolicyAnswer, PolicyChangeAnswer, TrendingAnswer
from serve.schemas.status import StatusAnswer
from serve.schemas.users import ErasureAnswer, UserAnswer, UserEventsAnswer

Answer = TypeVar("Answer", bound=BaseModel)
USER_EVENTS_PAGE = 500


class Moonlark:
    """A connection to moonlark; safe to share between threads; close it, or use it in a `with`.

    Args:
        base_url: such as `http://127.0.0.1:8000`.
        timeout_s: bound of one call in seconds, all its tries and waits together.
        api_key: sent as `Authorization: Bearer KEY`.
        retry: bounds of the retries (see `infra.client.retry`).
        transport: another httpx transport, for tests.

    Every method raises an error of the tree in `infra.client.errors`, or `ValueError` for what
    cannot be sent. Times are aware `datetime`s.
    """

    def __init__(
        self,
        base_url: str,
        timeout_s: float = 10.0,
        api_key: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._transport = Transport(base_url, timeout_s, api_key, retry or RetryPolicy(), transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Moonlark({self._transport.base_url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # Events

    def post_events(
        self, events: Sequence[Mapping[str, Any]], *, keep_unknown_items: bool = False
    ) -> EventsAnswer:
        """Store 1 to 500 events, all or none; in force for the next recommendation.

        Each event is as in the API: `user_id`, `kind`, `item_id`, `value`, `text`, `occurred_at`,
        ... An event without `event_id` or `occurred_at` gets them before the first try, so that a
        retry is harmless, and one that comes after an erasure is known for what it is; to be safe
        across a crash of the caller too, give your own.
        """
        if not 1 <= len(events) <= MAX_EVENTS:
            raise ValueError(f"events: {len(events)} of them, accepted: 1 to {MAX_EVENTS}")
        now = datetime.now(UTC).isoformat()
        bodies = [
            {"event_id": uuid.uuid4().hex, "occurred_at": now, **without_none(event)}
            for event in events
        ]
        query = [("on_unknown_item", "keep")] if keep_unknown_items else []
        return self._call(EventsAnswer, "POST", "/v1/events", query=query, body={"events": bodies})

    # Recommendations

    def recommend(
        self,
        user_id: str,
        *,
        k: int = 20,
        category: str | None = None,
        attributes: Attributes | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool = True,
        offset: int = 0,
        as_of: datetime | None = None,
        explain: bool = False,
        diversity: float = 0.0,
    ) -> RecommendationAnswer:
        """The user's list, best first. `as_of` pins what changes with time alone (activity).

        An attribute given as a text that looks like a number matches both; `'"1995"'`, in quotes,
        is the text alone. `explain`: each item says why it is there. `diversity`, 0 to 1: how much
        what is like an item above it comes later.
        """
        query = [("k", str(k)), ("offset", str(offset)), ("exclude_seen", text_of(exclude_seen))]
        query += filters(category, attributes, exclude)
        if as_of is not None:
            query.append(("as_of", rfc3339("as_of", as_of)))
        if explain:
            query.append(("explain", "true"))
        if diversity:
            query.append(("diversity", str(diversity)))
        path = f"/v1/users/{quote_id(user_id)}/recommendations"
        return self._call(RecommendationAnswer, "GET", path, query=query)

    def recommend_many(
        self,
        users: Sequence[str],
        *,
        k: int = 20,
        category: str | None = None,
        attributes: Attributes | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool = True,
        offset: int = 0,
        as_of: datetime | None = None,
        explain: bool = False,
        diversity: float = 0.0,
    ) -> RecommendManyAnswer:
        """As `recommend`, for up to 100 users, in the order given."""
        body = list_body(
            k,
            category,
            attributes,
            exclude,
            exclude_seen,
            offset,
            as_of,
            explain,
            diversity,
            users=list(users),
        )
        return self._call(
            RecommendManyAnswer, "POST", "/v1/recommendations", body=body, is_long=True
        )

    def recommend_for_events(
        self,
        events: Sequence[Mapping[str, Any]],
        *,
        k: int = 20,
        category: str | None = None,
        attributes: Attributes | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool = True,
        offset: int = 0,
        as_of: datetime | None = None,
        explain: bool = False,
        diversity: float = 0.0,
        keep_unknown_items: bool = False,
    ) -> RecommendationAnswer:
        """The list of someone who is not stored: from 1 to 200 events, oldest first, as in
        `post_events` without `user_id`. Nothing of them is kept."""
        if not 1 <= len(events) <= MAX_INLINE_EVENTS:
            raise ValueError(f"events: {len(events)} of them, accepted: 1 to {MAX_INLINE_EVENTS}")
        inline = [without_none(event) for event in events]
        body = list_body(
            *(k, category, attributes, exclude, exclude_seen, offset, as_of, explain, diversity),
            events=inline,
        )
        query = [("on_unknown_item", "keep")] if keep_unknown_items else []
        path = "/v1/recommendations"
        answer = self._call(RecommendManyAnswer, "POST", path, query=query, body=body, is_long=True)
        if len(answer.results) != 1:
            raise self._unexpected("POST", path, f"{len(answer.results)} lists for one")
        return answer.results[0]

    # Items

    def item(self, item_id: str) -> ItemAnswer:
        """An item as it is now."""
        return self._call(ItemAnswer, "GET", _item_path(item_id))

    def similar(
        self,
        item_id: str,
        *,
        k: int = 20,
        category: str | None = None,
        attributes: Attributes | None = None,
        exclude: Sequence[str] = (),
    ) -> SimilarAnswer:
        """The items nearest to an item."""
        query = [("k", str(k)), *filters(category, attributes, exclude)]
        return self._call(SimilarAnswer, "GET", f"{_item_path(item_id)}/similar", query=query)

    def search(
        self,
        text: str,
        *,
        user_id: str | None = None,
        k: int = 20,
        category: str | None = None,
        attributes: Attributes | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool = False,
    ) -> SearchAnswer:
        """Items for a text; personalised for `user_id`. It stores no event: post a `search` one."""
        body = {
            "text": text,
            "user_id": user_id,
            "k": k,
            "category": category,
            "attributes": dict(attributes or {}),
            "exclude": list(exclude),
            "exclude_seen": exclude_seen,
        }
        return self._call(SearchAnswer, "POST", "/v1/search", body=body)

    def put_item(self, item_id: str, item: Mapping[str, Any]) -> ItemChangeAnswer:
        """Create or replace an item: `title`, `text`, `category`, `attributes`, `published_at`.

        With a `version` of yours in it, a retry that comes late neither overwrites nor revives.
        """
        return self._call(ItemChangeAnswer, "PUT", _item_path(item_id), body=item)

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> ItemsAnswer:
        """Create or replace 1 to 500 items; each has its `item_id` in it."""
        if not 1 <= len(items) <= MAX_ITEMS:
            raise ValueError(f"items: {len(items)} of them, accepted: 1 to {MAX_ITEMS}")
        body = {"items": [without_none(item) for item in items]}
        return self._call(ItemsAnswer, "PUT", "/v1/items", body=body, is_long=True)

    def delete_item(self, item_id: str, *, version: int | None = None) -> ItemChangeAnswer:
        """Delete an item: it comes back by no path."""
        query = [] if version is None else [("version", str(version))]
        return self._call(ItemChangeAnswer, "DELETE", _item_path(item_id), query=query)

    def trending(
        self,
        *,
        k: int = 20,
        category: str | None = None,
        attributes: Attributes | None = None,
        hours: int = 1,
    ) -> TrendingAnswer:
        """Items that are acted on more than is usual for them; an event counts within a second."""
        query = [("k", str(k)), ("hours", str(hours)), *filters(category, attributes, ())]
        return self._call(TrendingAnswer, "GET", "/v1/trending", query=query)

    # Policies

    def put_policy(self, policy_id: str, policy: Mapping[str, Any]) -> PolicyChangeAnswer:
        """Create or replace a pin, a boost or a seen setting (`kind`), in force from now on."""
        return self._call(PolicyChangeAnswer, "PUT", _policy_path(policy_id), body=policy)

    def policies(self) -> PoliciesAnswer:
        """All of them, by id."""
        return self._call(PoliciesAnswer, "GET", "/v1/policies")

    def policy(self, policy_id: str) -> PolicyAnswer:
        """One of them."""
        return self._call(PolicyAnswer, "GET", _policy_path(policy_id))

    def delete_policy(self, policy_id: str) -> PolicyChangeAnswer:
        """Delete a policy. Where the answer to a first try was lost, the retry finds none."""
        return self._call(PolicyChangeAnswer, "DELETE", _policy_path(policy_id))

    # Users

    def user(self, user_id: str, *, vector: bool = False) -> UserAnswer:
        """A user's session in short; with `vector`, the user vector too."""
        query = [("vector", "true")] if vector else []
        return self._call(UserAnswer, "GET", _user_path(user_id), query=query)

    def user_events(self, user_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """All events of a user with `user_seq` above `after`, oldest first, fetched by pages."""
        path = f"{_user_path(user_id)}/events"
        following: int | None = after
        while following is not None:
            asked = following
            query = [("after", str(asked)), ("limit", str(USER_EVENTS_PAGE))]
            page = self._call(UserEventsAnswer, "GET", path, query=query)
            yield from page.events
            following = page.next_after
            if following is not None and following <= asked:
                raise self._unexpected("GET", path, f"next_after {following} is not above {asked}")

    def erase_user(self, user_id: str) -> ErasureAnswer:
        """Delete everything kept about a user, and get the receipt."""
        return self._call(ErasureAnswer, "DELETE", _user_path(user_id), is_long=True)

    def erasure(self, erasure_id: str) -> ErasureAnswer:
        """The receipt of an erasure as it stands now."""
        return self._call(ErasureAnswer, "GET", f"/v1/erasures/{quote_id(erasure_id)}")

    # The system

    def status(self) -> StatusAnswer:
        """Live generation, watermarks, delta, replicas."""
        return self._call(StatusAnswer, "GET", "/v1/status")

    def ready(self) -> bool:
        """Whether the replica that is asked answers from a generation. One try, never raises."""
        return self._transport.probe("/readyz") == 200

    def _call(
        self,
        answer: type[Answer],
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
        is_long: bool = False,
    ) -> Answer:
        content = None if body is None else without_none(body)
        response = self._transport.request(method, path, query=query, body=content, is_long=is_long)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise self._unexpected(method, path, str(error)) from error

    def _unexpected(self, method: str, path: str, what: str) -> UnexpectedAnswer:
        url = self._transport.base_url + path
        message = f"{method} {url}: {what}"
        return UnexpectedAnswer(message, method=method, url=url, tries=1, hint=VERSIONS_HINT)


def _item_path(item_id: str) -> str:
    return f"/v1/items/{quote_id(item_id)}"


def _policy_path(policy_id: str) -> str:
    return f"/v1/policies/{quote_id(policy_id)}"


def _user_path(user_id: str) -> str:
    return f"/v1/users/{quote_id(user_id)}"
