"""GET /docs and /redoc: the reference in a browser, all of it from this host.

FastAPI's own pages load their scripts from a CDN: where there is no internet they stay empty. The
package fastapi-offline carries the files; only they are used of it (its pages come with a mount,
which `serve.scopes` cannot name).
"""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}


def install(api: FastAPI) -> None:
    """Add the pages and their files to `api`, which was made without pages of its own."""
    folder = Path(str(files("fastapi_offline"))) / "static"

    @api.get("/docs", include_in_schema=False)
    async def swagger(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}{api.openapi_url}",
            title=api.title,
            swagger_js_url=f"{root}/docs/files/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/files/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/files/favicon.png",
        )

    @api.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_redoc_html(
            openapi_url=f"{root}{api.openapi_url}",
            title=api.title,
            redoc_js_url=f"{root}/docs/files/redoc.standalone.js",
            redoc_favicon_url=f"{root}/docs/files/favicon.png",
            with_google_fonts=False,
        )

    for name, media_type in FILES.items():  # a route each: none of them reads a name from a path
        answer = _file(folder / name, media_type)
        api.add_route(f"/docs/files/{name}", answer, include_in_schema=False)


def _file(path: Path, media_type: str) -> Callable[[Request], Awaitable[FileResponse]]:
    async def answer(_: Request) -> FileResponse:
        return FileResponse(path, media_type=media_type)

    return answer
