"""What the OpenAPI document says beside the routes: scopes, and the problems each may answer."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serve.schemas.problem import Problem
from serve.scopes import NEEDED

PROBLEMS = {
    401: "No key, an unknown one, or one that was revoked.",
    403: "The key lacks the scope.",
    404: "What the path names does not exist.",
    408: "The body did not arrive in time.",
    409: "It contradicts what is stored: another body, a newer version, too many.",
    410: "The user was erased after this happened.",
    413: "The body is too large.",
    415: "The body is not JSON in UTF-8.",
    422: "Refused: `errors` names field, value and what is accepted.",
    429: "Too much in too little time; `Retry-After` says when again.",
    503: "Not now: nothing was acknowledged, send the same again after `Retry-After`.",
}
KEYED = (401, 403, 429, 503)
WITH_BODY = (408, 413, 415, 422)
ALSO = {
    "POST /v1/events": (409, 410),
    "POST /v1/recommendations": (409,),
    "GET /v1/items/{item_id}/similar": (409,),
    "GET /v1/policies": (422,),
    "PUT /v1/items": (409,),
    "PUT /v1/items/{item_id}": (409,),
    "DELETE /v1/items/{item_id}": (409,),
    "PUT /v1/policies/{policy_id}": (409,),
    "GET /readyz": (503,),
}
"""What no rule gives."""

SECURITY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made by `moonlark keys make NAME --scope SCOPE`. Each route says "
    "which scope it needs; `admin` includes the others.",
}


def install(api: FastAPI) -> None:
    """Make `api.openapi()` say what the guard does."""

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            made = get_openapi(
                title=api.title, version=api.version, summary=api.summary, routes=api.routes
            )
            api.openapi_schema = completed(made)
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]  # the way that FastAPI documents


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with scopes and problems at each operation."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": SECURITY}
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are problems
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(f"{method.upper()} {path}", operation)
    return document


def _complete(name: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    refuses_fields = responses.pop("422", None) is not None
    statuses = set(ALSO.get(name, ()))
    needed = NEEDED[name]
    if needed is not None:
        operation["security"] = [{"key": [needed]}]
        says = operation.get("description", "")
        operation["description"] = f"{says}\n\nNeeds the scope `{needed}`.".strip()
        statuses.update(KEYED)
    if "requestBody" in operation:
        statuses.update(WITH_BODY)
    if refuses_fields:
        statuses.add(422)
    if "{" in name:
        statuses.add(404)
    for status in sorted(statuses):
        responses[str(status)] = _problem(status)


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    said: dict[str, Any] = {
        "description": PROBLEMS[status],
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status == 401:
        said["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status in (429, 503):
        said["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return said
