"""Examples that hypothesis makes, drawn once for a run so that sending them costs nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis
import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from fuzz import media
from fuzz.documents import SCHEMAS, VALUES
from fuzz.inputs import Input
from fuzz.texts import TEXTS

T = TypeVar("T")
CALM = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
    "phases": [hypothesis.Phase.generate],
    "verbosity": hypothesis.Verbosity.quiet,
}


@dataclass(frozen=True)
class Pools:
    """Examples by kind."""

    texts: tuple[str, ...]
    values: tuple[Any, ...]
    """JSON."""
    schemas: tuple[Any, ...]
    operations: tuple[Input, ...]
    """Requests by the OpenAPI description."""


def drawn(strategy: st.SearchStrategy[T], count: int, seed: int) -> tuple[T, ...]:
    """So many examples, the same for the same seed."""
    found: list[T] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, **CALM)
    @hypothesis.given(strategy)
    def take(example: T) -> None:
        found.append(example)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        take()
    return tuple(found)


def pools(document: dict[str, Any], seed: int, size: int = 40) -> Pools:
    """`document` is the server's OpenAPI description; `size` the examples of each of its operations."""
    return Pools(
        drawn(TEXTS, 6 * size, seed),
        drawn(VALUES, 6 * size, seed),
        drawn(SCHEMAS, 8 * size, seed),
        tuple(_operations(document, seed, size)),
    )


def _operations(document: dict[str, Any], seed: int, size: int) -> Iterator[Input]:
    sound = st.one_of(st.sampled_from(list(media.files().values())), st.binary(max_size=100))
    for kind in ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/mp4", "audio/webm"):
        schemathesis.openapi.media_type(kind, sound)
    described = schemathesis.openapi.from_dict(document)
    for found in described.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            make: Callable[..., Any] = operation.as_strategy
            name = f"{operation.method.upper()} {operation.path} {mode.value}"
            try:
                cases = drawn(make(generation_mode=mode), size // 2, seed)
            except Exception:
                # Nothing can be wrong with an operation that takes nothing.
                continue
            for case in cases:
                if (sent := _sent(case)) is not None:
                    yield Input("http", "OpenAPI", name, (sent,))


def _sent(case: Any) -> bytes | None:
    """A case as bytes; None: HTTP has no way to say it."""
    options = case.as_transport_kwargs(base_url="http://127.0.0.1")
    known = {name: options.get(name) for name in ("method", "url", "headers", "params", "data", "json", "files")}
    known["cookies"] = None
    try:
        ready = requests.Request(**known).prepare()
        body = ready.body if isinstance(ready.body, bytes) else str(ready.body or "").encode()
        lines = [f"{ready.method} {ready.path_url} HTTP/1.1".encode(), b"Host: 127.0.0.1"]
        for name, value in ready.headers.items():
            if name.lower() not in ("host", "content-length", "connection", "transfer-encoding", "expect"):
                lines.append(_latin(name) + b": " + _latin(value))
        if any(b"\r" in line or b"\n" in line for line in lines):
            return None
    except (ValueError, UnicodeError, requests.RequestException):
        return None
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body


def _latin(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
