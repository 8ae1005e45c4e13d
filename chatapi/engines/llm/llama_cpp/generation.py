"""One completion by llama.cpp, on a thread of its own."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from chatapi.engines import Stop
from chatapi.engines.llm.llama_cpp.sharing import Share
from chatapi.errors import EngineFailed

HOLD_SECONDS = 0.04
"""Time for which chunks are held to be handed over together, in seconds: handing over takes a processor from the
threads that compute the next token. Text that ends a clause, the first chunk and the last are not held."""
MOST_HOLDING = 3
"""Completions in progress up to which each holds its chunks longer, so that all together cost as much as one."""
CLAUSE_ENDS = frozenset(".,;:!?\n…。！？、，")

Chunk = dict[str, Any]
"""One message of the library: a chunk in OpenAI's format `chat.completion.chunk`, or an `error`."""


class RejectedByLibrary(Exception):
    """A request that the library rejects, with its message."""


class LlamaGeneration:
    """One completion in progress, on a thread of its own."""

    def __init__(self, stop: Stop, on_step: Callable[[], int], share: Share) -> None:
        """`on_step` is called after every step and returns the number of completions in progress."""
        self.stop = stop
        self._on_step = on_step
        self._share = share
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        # Never longer than the completion, which the context bounds: a slow reader keeps no slot from the next request.
        self._chunks: queue.SimpleQueue[list[Chunk] | BaseException | None] = queue.SimpleQueue()
        self._held: list[Chunk] = []
        self._handed_over = 0.0
        """When the chunks were last handed over, in seconds of `time.monotonic`."""
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
            yield from item

    def cancel(self, timeout: float | None = None) -> None:
        """Cancels the completion and waits until its slot is free, at most `timeout` seconds."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, route: Callable[..., Any], request: str) -> None:
        try:
            route(request, self._receive)
        except ValueError as error:
            self._end(RejectedByLibrary(str(error)))
        except RuntimeError as error:
            failure = EngineFailed("llama.cpp failed; the log says why")
            failure.__cause__ = error
            self._end(failure)
        finally:
            self._end(None)

    def _receive(self, chunk: str) -> bool:
        """The library's callback after every step; True aborts the completion."""
        try:
            self.stopped = self._cancelled.is_set() or self.stop()
            if not self.stopped:
                self._count(json.loads(chunk), self._on_step())
        except BaseException as error:  # the library swallows what a callback raises
            self._end(error)
            self.stopped = True
        return self.stopped

    def _count(self, chunk: Chunk, completions: int) -> None:
        """Tells the share about a step. Here, not where the chunks are read: what it raises ends the completion before
        the next step."""
        if (progress := chunk.get("prompt_progress")) is not None:
            self._share.read(progress["total"], progress["processed"], progress["cache"])
            return
        self._held.append(chunk)
        now, text = time.monotonic(), _text(chunk)
        if now - self._handed_over >= HOLD_SECONDS * min(completions, MOST_HOLDING) or not CLAUSE_ENDS.isdisjoint(text):
            self._hand_over()
            # The chunk with the role alone comes just before the first text.
            self._handed_over = now if text else 0.0
        self._share.write()

    def _end(self, error: BaseException | None) -> None:
        """Ends the chunks, with an error or without one."""
        self._hand_over()
        self._chunks.put(error)

    def _hand_over(self) -> None:
        """Gives the held chunks to the reader."""
        held, self._held = self._held, []
        if held:
            self._chunks.put(held)


def _text(chunk: Chunk) -> str:
    """The text of a chunk of a chat completion; empty where it has none."""
    choices = chunk.get("choices")
    return ((choices[0].get("delta") or {}).get("content") if choices else None) or ""
