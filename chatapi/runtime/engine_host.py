"""Where an engine runs: what a worker needs of that place.

An engine is loaded by making its host, which raises what the engine's constructor raises. `LocalHost` has the engine on
threads of this process, `engine_process.EngineProcess` in a child process. A host on another machine needs no more than
this: calls are data (`engines.call.EngineCall`), and so are their items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from chatapi.engines import Stop

E = TypeVar("E")
T = TypeVar("T")

Call = Callable[[E, Stop], Iterator[T]]
"""Yields items of an engine: an `EngineCall`, or any function for an object that is always on threads of this process,
such as the conversation history."""


class EngineHost(ABC, Generic[E]):
    """A loaded engine. All methods may block; all but `kill` are called on the engine's threads."""

    engine: E
    """The engine, or an object with the attributes that it declares."""

    @abstractmethod
    def call(self, call: Call[E, T], stop: Stop) -> Iterator[T]:
        """The items of a call, which ends early at the engine's next step once `stop` is true or the iterator is
        closed. As many calls at once as the engine has slots.

        Raises what the engine raises; EngineFailed (engine_crashed) when the engine was lost.
        """

    @abstractmethod
    def unload(self) -> None:
        """Close the engine and return its memory; no call is running."""

    def kill(self) -> bool:
        """End the engine at once, also while it is stuck; its calls raise EngineFailed (engine_crashed). From any
        thread, and without waiting. Returns False where only the engine itself can end its calls."""
        return False

    @property
    def memory_bytes(self) -> int:
        """Memory of the engine outside this process, in bytes. From any thread."""
        return 0

    @property
    def lost(self) -> bool:
        """Whether the engine ended by itself and has to be loaded again."""
        return False

    def on_lost(self, report: Callable[[], object]) -> None:
        """Have `report` called, from any thread, once the engine is lost; at once if it is."""


class LocalHost(EngineHost[E]):
    """An engine of this process."""

    def __init__(self, engine: E) -> None:
        self.engine = engine

    def call(self, call: Call[E, T], stop: Stop) -> Iterator[T]:
        return call(self.engine, stop)

    def unload(self) -> None:
        if (close := getattr(self.engine, "close", None)) is not None:
            close()
