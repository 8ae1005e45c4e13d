"""The page at `/`: plain files, sent as they are."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).with_name("page")


def router() -> APIRouter:
    """`/` and what it needs under `/page`."""
    routes = APIRouter()
    routes.routes.append(Mount("/page", StaticFiles(directory=FOLDER), name="page"))

    @routes.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(FOLDER / "index.html", headers={"Cache-Control": "no-cache"})

    return routes
