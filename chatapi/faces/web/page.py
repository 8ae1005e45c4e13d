"""The page at `/`: plain files, sent as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).with_name("page")


class _Fresh(StaticFiles):
    """Asks browsers to look whether a file has changed, so that they never mix the modules of two versions."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        reply = super().file_response(*arguments, **options)
        reply.headers["Cache-Control"] = "no-cache"
        return reply


def router() -> APIRouter:
    """`/` and what it needs under `/page`."""
    routes = APIRouter()
    routes.routes.append(Mount("/page", _Fresh(directory=FOLDER), name="page"))

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers={"Cache-Control": "no-cache"})

    return routes
