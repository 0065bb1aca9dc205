"""One request: sent, repeated where that helps, and its failure turned into an error of ours."""

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from infra.client.errors import (
    ApiError,
    FieldProblem,
    MoonlarkError,
    UnexpectedAnswer,
    Unreachable,
    api_error_class,
)
from infra.client.retry import (
    OUR_HEADER,
    RetryPolicy,
    TryAgain,
    call_with_retries,
    is_retryable,
    retry_after_s,
)

CONNECT_TIMEOUT_S = 3.0
"""A host that drops packets must leave time for another try."""

_SENDABLE = re.compile(r"[\x21-\x7e]{1,200}")

NOT_RUNNING_HINT = "is moonlark running there? `moonlark serve` starts it, `moonlark status` looks"
VERSIONS_HINT = "client and server differ in version, or the URL is not moonlark's"

Query = Sequence[tuple[str, str]]


class Transport:
    """Connections to one base URL."""

    def __init__(
        self,
        base_url: str,
        timeout_s: float,
        api_key: str | None,
        policy: RetryPolicy,
        transport: httpx.BaseTransport | None,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(
                f"base_url: {_shown(url)!r}, accepted: http://HOST:PORT or https://HOST"
            )
        if url.userinfo:  # it would be in every error; and it is not how moonlark knows its callers
            raise ValueError("base_url: has a user or password, accepted: none; see api_key")
        if api_key is not None and not _SENDABLE.fullmatch(api_key):
            # httpx would say so with the key in its message.
            raise ValueError("api_key: accepted: 1 to 200 visible ASCII characters, no line ends")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s: {timeout_s}, accepted: more than 0")
        self.base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._policy = policy
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            transport=transport,
            # A proxy from the environment is for the world, not for this machine.
            trust_env=not _is_loopback(url.host),
            timeout=timeout_s,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Mapping[str, Any] | None = None,
        is_long: bool = False,
    ) -> httpx.Response:
        """The answer to one call, below 400. `is_long`: a try may take all of the call's time.

        Raises:
            ValueError: the body holds NaN or something that JSON has no form for.
            MoonlarkError: see the tree in `errors`.
        """
        content = None if body is None else _encoded(body)

        longest_s = self._timeout_s * (1.0 if is_long else self._policy.try_share)

        def one_try(number: int, left_s: float) -> httpx.Response:
            return self._try(method, path, query, content, number, min(left_s, longest_s))

        return call_with_retries(self._policy, self._timeout_s, one_try)

    def probe(self, path: str) -> int | None:
        """The status of one GET without retries; None where nobody answers."""
        try:
            return self._http.get(self.base_url + path).status_code
        except httpx.TransportError:
            return None

    def _try(
        self,
        method: str,
        path: str,
        query: Query,
        content: bytes | None,
        number: int,
        left_s: float,
    ) -> httpx.Response:
        url = self.base_url + path
        left_s = max(left_s, 0.001)
        timeout = httpx.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S))
        try:
            response = self._http.request(
                method,
                url,
                params=list(query),
                content=content,
                headers={"Content-Type": "application/json"} if content is not None else None,
                timeout=timeout,
            )
        except httpx.TransportError as error:
            message = f"{method} {url}: {type(error).__name__}: {error} (try {number})"
            failed = Unreachable(
                message, method=method, url=url, tries=number, hint=NOT_RUNNING_HINT
            )
            raise TryAgain(failed) from error
        if response.status_code < 400:
            return response
        refusal = _error_of(response, number)
        if is_retryable(response):
            raise TryAgain(refusal, retry_after_s(response))
        raise refusal


def quote_id(identifier: str) -> str:
    """An id as one segment of a path: "a/b" -> "a%2Fb"; "." and ".." must not climb."""
    quoted = quote(identifier, safe="")
    return quoted.replace(".", "%2E") if quoted.strip(".") == "" else quoted


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:  # ValueError: NaN; lone surrogates
        raise ValueError(f"the body is not JSON: {error}") from error


def _error_of(response: httpx.Response, number: int) -> MoonlarkError:
    method, url = response.request.method, str(response.request.url)
    request_id = response.headers.get(OUR_HEADER)
    if request_id is None:
        return Unreachable(
            f"{method} {url}: {response.status_code} from a proxy, not from moonlark"
            f" (try {number})",
            method=method,
            url=url,
            tries=number,
            hint=NOT_RUNNING_HINT,
        )
    document = _json_object(response)
    if document is None:
        return UnexpectedAnswer(
            f"{method} {url}: {response.status_code} without a problem document",
            method=method,
            url=url,
            tries=number,
            hint=VERSIONS_HINT,
        )
    return _problem(document, response.status_code, request_id, method, url, number)


def _problem(
    document: Mapping[str, Any], status: int, request_id: str, method: str, url: str, tries: int
) -> ApiError:
    fields = [
        FieldProblem(str(e.get("field")), e.get("value"), str(e.get("accepted")))
        for e in document.get("errors") or ()
        if isinstance(e, Mapping)
    ]
    hint = document.get("hint")
    return api_error_class(status)(
        status=status,
        title=str(document.get("title", "")),
        detail=str(document.get("detail", "")),
        errors=fields,
        hint=None if hint is None else str(hint),
        request_id=request_id,
        method=method,
        url=url,
        tries=tries,
    )


def _json_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        document = response.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _shown(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"***")) if url.userinfo else str(url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
