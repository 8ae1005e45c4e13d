"""The parameters of a request that had no effect, for the header `X-Chatapi-Ignored` and the log."""

from __future__ import annotations

import re

from starlette.requests import Request

MOST_NAMES = 20
"""Names in the header; further ones are only counted."""
LONGEST_NAME = 80
"""Characters of a name in the header."""
UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
"""Characters of names that a header or a log line must not contain: clients choose the names."""


class IgnoredParameters:
    """Names of the parameters of one request that had no effect."""

    KEY = "chatapi.ignored"
    """Its key in the request's ASGI scope."""
    HEADER = "X-Chatapi-Ignored"

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._further = 0
        """How many did not fit into the names."""

    @classmethod
    def of(cls, request: Request) -> IgnoredParameters:
        """Those of a request; the middleware adds the header to its response."""
        found: IgnoredParameters = request.scope[cls.KEY]
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def full(self) -> bool:
        """Whether further names are only counted."""
        return len(self._names) >= MOST_NAMES

    def add(self, name: str) -> None:
        """Adds a name, with the path to it where it is inside of another parameter."""
        if name in self or not self.full:
            self._names[name] = None
        else:
            self._further += 1

    @property
    def text(self) -> str:
        """The names, for the header and the log; empty when there are none."""
        names = [UNSAFE.sub("?", name[:LONGEST_NAME]) or "?" for name in self._names]
        return ", ".join([*names, *([f"and {self._further} more"] if self._further else [])])
