"""One completion by llama.cpp, on a thread of its own."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from chatapi.engines import Stop
from chatapi.errors import EngineFailed

Chunk = dict[str, Any]
"""One message of the library: a chunk in OpenAI's format `chat.completion.chunk`, or an `error`."""


class RejectedByLibrary(Exception):
    """A request that the library rejects, with its message."""


class LlamaGeneration:
    """One completion in progress, on a thread of its own."""

    def __init__(self, stop: Stop, on_step: Callable[[], None]) -> None:
        self.stop = stop
        self._on_step = on_step
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        # Never longer than the completion, which the context bounds: a slow reader keeps no slot from the next request.
        self._chunks: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self.stopped = False

    def start(self, route: Callable[..., Any], request: str) -> None:
        """Sends the JSON request to a method of the library's server."""
        self._thread = threading.Thread(target=self._run, args=(route, request), name="llama_cpp", daemon=True)
        self._thread.start()

    def chunks(self) -> Iterator[Chunk]:
        """The chunks, until the end. Raises what the thread raised."""
        while (item := self._chunks.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield json.loads(item)

    def cancel(self, timeout: float | None = None) -> None:
        """Cancels the completion and waits until its slot is free, at most `timeout` seconds."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, route: Callable[..., Any], request: str) -> None:
        try:
            route(request, self._receive)
        except ValueError as error:
            self._chunks.put(RejectedByLibrary(str(error)))
        except RuntimeError as error:
            failure = EngineFailed("llama.cpp failed; the log says why")
            failure.__cause__ = error
            self._chunks.put(failure)
        finally:
            self._chunks.put(None)

    def _receive(self, chunk: str) -> bool:
        """The library's callback after every step; True aborts the completion."""
        try:
            self.stopped = self._cancelled.is_set() or self.stop()
            if not self.stopped:
                self._chunks.put(chunk)
                self._on_step()
        except BaseException as error:  # the library swallows what a callback raises
            self._chunks.put(error)
            self.stopped = True
        return self.stopped
