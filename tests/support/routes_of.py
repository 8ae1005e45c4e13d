"""Every route of the application."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute, Mount, Route

from chatapi.interfaces.http.app import create_app
from conftest import RunningServer

__all__ = ["declared_routes", "every_route"]


def _flat(of: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in of:
        # FastAPI keeps an included router as one route.
        inner = getattr(getattr(route, "original_router", route), "routes", None)
        yield from _flat(inner) if inner and not isinstance(route, Mount) else [route]


def declared_routes(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path template of every route; the method of a WebSocket is WEBSOCKET."""
    found = [(method.upper(), path) for path, operations in app.openapi()["paths"].items() for method in operations]
    for route in _flat(app.routes):
        if isinstance(route, APIWebSocketRoute):
            found.append(("WEBSOCKET", route.path))
        elif isinstance(route, (APIRoute, Route)):
            found += [(method, route.path) for method in route.methods or ()]
        elif isinstance(route, Mount):
            found.append(("GET", f"{route.path}/{{file:path}}"))
        else:
            raise TypeError(f"{route} is of a kind that no test knows")
    return list(dict.fromkeys(found))


def every_route(fake_server: RunningServer) -> list[tuple[str, str]]:
    """The same with values for the parameters of the paths."""
    found = declared_routes(create_app(fake_server.appliance))
    return [
        (method, path.replace("{file:path}", "style.css").replace("{", "").replace("}", "")) for method, path in found
    ]
