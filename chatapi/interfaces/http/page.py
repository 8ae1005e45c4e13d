"""The web page at `/`: static files."""

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


class _RevalidatedFiles(StaticFiles):
    """Static files that browsers revalidate, so that they never mix the modules of two versions.

    The files are small and sent whole: a `Range` header, even a malformed one, may be ignored (RFC 9110, 14.2).
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        # The response reads this very scope.
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"range"]
        return await super().get_response(path, scope)

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def router() -> APIRouter:
    """The routes `/` and `/page`."""
    routes = APIRouter()
    files = _RevalidatedFiles(directory=FOLDER)
    routes.routes.append(Mount("/page", files, name="page"))

    @routes.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return routes
