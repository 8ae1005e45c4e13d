"""The page at `/`: plain files, sent as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).with_name("page")


class _Fresh(StaticFiles):
    """Asks browsers to look whether a file has changed, so that they never mix the modules of two versions.

    The files are small and sent whole: a `Range` header may be ignored (RFC 9110, 14.2), also a malformed one.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        # The reply looks at the very scope that came.
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        return await super().get_response(path, scope)

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        reply = super().file_response(*arguments, **options)
        reply.headers["Cache-Control"] = "no-cache"
        return reply


def router() -> APIRouter:
    """`/` and what it needs under `/page`."""
    routes = APIRouter()
    files = _Fresh(directory=FOLDER)
    routes.routes.append(Mount("/page", files, name="page"))

    @routes.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return routes
